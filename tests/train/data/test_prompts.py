"""Prompts in the place of pictures: where they come from, what is refused, and what they become."""

import os
import re
from collections import Counter

import pytest
import torch
from mean_encoder import MeanEncoder
from PIL import Image

from krona_ops.errors import ConfigError, DataError
from krona_train.config import DataConfig
from krona_train.data import prompts as module
from krona_train.data.buckets import PictureSize
from krona_train.data.cache import Cache
from krona_train.data.choices import MOST_PROMPTS, PictureFiles
from krona_train.data.pictures import Dataset, from_tensor
from krona_train.data.prompt_items import items_of_prompts, size_drawn
from krona_train.data.prompts import built_in_prompts, drawn_prompts, lines_of, read_prompts, usable_prompts
from krona_train.data.source import read_pictures
from krona_train.drawing.contact_sheet import contact_sheet

PROMPTS = ("a red cat, night, rain", "two dogs", "a mountain")


def dataset(prompts=PROMPTS, **changes):
    fields = {name: changes.pop(name) for name in ("width", "height") if name in changes}
    return Dataset((), settings=DataConfig(**changes), prompts=prompts, **fields)


def read(settings=None, **choices):
    return read_pictures(PictureFiles(**choices), settings or DataConfig())


def test_each_line_is_a_prompt_and_comments_and_empty_lines_are_none():
    text = "# mine\n a red cat \n\n \t\n   # not yet\r\ntwo dogs\rtwo dogs\na #1 fan"
    assert lines_of(text, "prompts") == ("a red cat", "two dogs", "a #1 fan")
    for nothing in ("", " \n\n", "# only\n#these"):
        with pytest.raises(DataError, match=r"^here: There are no prompts"):
            lines_of(nothing, "here")


def test_a_file_is_read_as_utf8_with_a_mark_or_without(tmp_path):
    for mark in ("", "\ufeff"):
        (tmp_path / "p.txt").write_text(f"{mark}ein Käfer\n# x\n猫\n", encoding="utf-8")
        assert read_prompts(tmp_path / "p.txt", "p.txt") == ("ein Käfer", "猫")


WRONG_FILES = {
    "Latin-1": ("a\nK\xe4fer".encode("latin-1"), "byte 4, in line 2, is no UTF-8"),
    "UTF-16": ("a cat".encode("utf-16"), "byte 1, in line 1, is no UTF-8"),
    "a zero": (b"a cat\nb\0c", "byte 8, in line 2, is no text"),
    "nothing": (b"", "There are no prompts"),
    "a prompt that is too long": (b"a cat\n" + b"x" * 20_001, "p.txt, prompt 2: Its text has 20,001 characters"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_that_is_no_list_of_prompts_is_refused(case, tmp_path):
    content, message = WRONG_FILES[case]
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read_prompts(tmp_path / "p.txt", "p.txt")


def test_only_text_files_that_are_there_are_opened(tmp_path):
    with pytest.raises(DataError, match="There is no such file"):
        read_prompts(tmp_path / "p.txt", "p.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match="There is no such file"):
        read_prompts(tmp_path / "pipe.txt", "pipe.txt")
    (tmp_path / "passwd").write_text("somebody")
    with pytest.raises(DataError, match=r"A file of prompts is a \.txt file"):
        read_prompts(tmp_path / "passwd", "passwd")


def test_too_many_prompts_and_too_large_files_are_refused(tmp_path, monkeypatch):
    assert (MOST_PROMPTS, module.MOST_BYTES) == (100_000, 50_000_000)
    monkeypatch.setattr(module, "MOST_PROMPTS", 1_000)  # the same in less time
    monkeypatch.setattr(module, "MOST_BYTES", 1_000_000)
    assert len(usable_prompts(map(str, range(1_000)), "here")) == 1_000
    with pytest.raises(DataError, match="There are more than 1,000 prompts"):
        usable_prompts(map(str, range(1_001)), "here")
    (tmp_path / "p.txt").write_bytes(b"\n" * 999_999 + b"a")
    assert read_prompts(tmp_path / "p.txt", "p.txt") == ("a",)
    (tmp_path / "p.txt").write_bytes(b"\n" * 1_000_000 + b"a")
    with pytest.raises(DataError, match="The file has more than 1 MB"):
        read_prompts(tmp_path / "p.txt", "p.txt")


def test_a_list_may_hold_what_a_line_may_not_but_no_empty_prompt():
    assert usable_prompts(["# a sign", " a\nb "], "here") == ("# a sign", "a\nb")
    with pytest.raises(DataError, match="here, prompt 2: It is empty"):
        usable_prompts(["a", " "], "here")
    with pytest.raises(DataError, match="here, prompt 1: Its text holds half a character"):
        usable_prompts(["\ud800"], "here")


def test_the_built_in_list_has_300_different_plain_prompts():
    prompts = built_in_prompts()
    assert len(prompts) == 300
    assert all(prompt.isascii() and 12 <= len(prompt) <= 80 for prompt in prompts)
    lines = [line for line in module.BUILT_IN.read_text().splitlines() if not line.startswith("#")]
    assert tuple(lines) == prompts  # nothing twice, nothing to strip
    words = Counter(word for prompt in prompts for word in set(re.findall("[a-z-]+", prompt)))
    common = {"a", "of", "the", "in", "on", "with", "and", "at", "from", "photo", "an"}
    assert max(count for word, count in words.items() if word not in common) < 30


def test_some_prompts_are_drawn_by_the_seed_in_their_order():
    prompts = tuple(map(str, range(100)))
    some = drawn_prompts(prompts, 10, 3, "here")
    assert len(set(some)) == 10
    assert list(some) == sorted(some, key=int)
    assert some == drawn_prompts(prompts, 10, 3, "here") != drawn_prompts(prompts, 10, 4, "here")
    assert drawn_prompts(prompts, 0, 3, "here") == drawn_prompts(prompts, 100, 3, "here") == prompts
    with pytest.raises(DataError, match="101 prompts are wanted, and there are 100"):
        drawn_prompts(prompts, 101, 3, "here")


def test_a_runs_file_names_a_list_a_file_or_the_built_in_prompts(tmp_path):
    listed = read(DataConfig(resolution=64), prompts=("a cat", "a dog"), width=48)
    assert (listed.prompts, listed.captions, listed.pictures) == (("a cat", "a dog"),) * 2 + ((),)
    assert (listed.resolution, listed.width, listed.height) == (64, 48, 0)
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    assert read(prompts_file=str(tmp_path / "p.txt")).prompts == ("a", "b", "c")
    assert read(prompts="built-in").prompts == built_in_prompts()
    few = read(prompts="built-in", prompt_count=7, prompt_seed=1)
    assert few.prompts == drawn_prompts(built_in_prompts(), 7, 1, "")
    assert read_pictures(few.source, few.settings).prompts == few.prompts


def test_captions_of_a_folder_become_prompts_without_its_pictures(tmp_path):
    for name, text in {"a": "a red cat", "b": "", "c": "a red cat"}.items():
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "d.xyz").write_text("?")
    made = read(folder=str(tmp_path), prompt="a thing", prompts="captions")
    assert made.prompts == ("a red cat", "a thing")
    assert made.pictures == ()
    assert any("d.xyz" in notice.names for notice in made.notices)


@pytest.mark.parametrize(("setting", "value"), [("masks", True), ("flip", True), ("crops", 2)])
def test_settings_that_only_pictures_obey_are_refused(setting, value):
    with pytest.raises(ConfigError, match=f"prompts in the place of pictures, and also {setting}"):
        dataset(**{setting: value})


def test_prompts_and_pictures_are_not_one_data_set():
    pictures = from_tensor(torch.zeros(1, 16, 16, 3), "a cat")
    with pytest.raises(ConfigError, match="and also pictures"):
        Dataset(pictures, prompts=("a",))
    with pytest.raises(ConfigError, match="and also class pictures"):
        Dataset((), prompts=("a",), class_count=3)


def test_each_prompt_becomes_an_item_of_the_shape_to_draw():
    encoder = MeanEncoder()
    items = items_of_prompts(dataset(), (64, 48), (4, 6, 8), encoder)
    forms = [form for item in items for form in item.forms]
    assert [form.caption for form in forms] == list(PROMPTS)
    assert {form.latent_shape for form in forms} == {(4, 6, 8)}
    assert all(form.latent is None and form.mask is None for form in forms)
    assert [form.condition[-1] for form in forms] == [PictureSize(64, 48, 0, 0, 64, 48)] * 3
    assert [form.condition[0].flatten().tolist() for form in forms] == [[len(p), p.count("s")] for p in PROMPTS]
    assert all(item.uncaptioned == () for item in items)
    assert encoder.asked == list(PROMPTS)  # and no picture


def test_orders_and_dropped_captions_are_as_for_pictures():
    items = items_of_prompts(dataset(shuffles=2, caption_dropout=0.1), (64, 64), (4, 8, 8), MeanEncoder())
    assert [len(item.forms) for item in items] == [2, 1, 1]
    assert {form.caption for form in items[0].forms} == {"a red cat, night, rain", "a red cat, rain, night"}
    assert [[form.caption for form in item.uncaptioned] for item in items] == [[""]] * 3
    assert items[0].uncaptioned[0].latent_shape == (4, 8, 8)


def test_encoded_prompts_are_kept_in_the_cache_with_those_of_pictures(tmp_path):
    seen = []
    items_of_prompts(dataset(), (64, 64), (4, 8, 8), MeanEncoder(), Cache(tmp_path), lambda *told: seen.append(told))
    assert seen == [(0, 3, f'prompt "{PROMPTS[0]}"'), (1, 3, f'prompt "{PROMPTS[1]}"'), (2, 3, f'prompt "{PROMPTS[2]}"'), (3, 3, "")]
    again = MeanEncoder()
    items = items_of_prompts(dataset((*PROMPTS, "a new one")), (64, 64), (4, 8, 8), again, Cache(tmp_path))
    assert again.asked == ["a new one"]
    assert [item.forms[0].condition[0][0, 0, 0].item() for item in items] == [len(p) for p in (*PROMPTS, "a new one")]


def test_what_is_drawn_has_the_size_that_is_said_else_the_resolution():
    assert size_drawn(dataset(), 512) == (512, 512)
    assert size_drawn(dataset(width=100), 512) == (96, 512)
    assert size_drawn(dataset(width=7, height=64), 512) == (8, 64)


def test_a_contact_sheet_says_that_it_needs_pictures():
    with pytest.raises(DataError, match="prompts and no pictures; a contact sheet shows pictures"):
        contact_sheet(dataset())
