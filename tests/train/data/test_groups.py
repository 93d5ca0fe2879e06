"""A folder of groups: which subfolders are one, in which order their pictures come, what is refused and what is left out."""

import json
import logging
import os

import pytest
import torch
from mean_encoder import MeanEncoder
from PIL import Image

from krona_ops.errors import ConfigError, DataError
from krona_train import TrainConfig
from krona_train.batches.examples import Group, Item
from krona_train.batches.samples import Samples
from krona_train.config import DataConfig
from krona_train.data import group_folders
from krona_train.data.batches import from_batches
from krona_train.data.choices import PictureFiles
from krona_train.data.encoding import encode
from krona_train.data.folder import files_of, read_folder
from krona_train.data.group_folders import list_groups, may_hold_groups, natural
from krona_train.data.grouping import ALONE, without_single_pictures
from krona_train.data.pictures import Dataset, Picture, PictureGroup
from krona_train.data.source import read_pictures

SIZE = (24, 16)


def paint(path, size=SIZE, mode="RGB"):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new(mode, size, 200 if mode == "L" else (200, 30, 60)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two groups: a clip whose frames are numbered as people number them, and a fox."""
    place = tmp_path / "groups"
    for number in (10, 9, 1, 2):
        paint(place / "walk" / f"frame {number}.png")
    for name in ("side.png", "Back.jpg", "front.png"):
        paint(place / "fox" / name)
    return place


def read(folder, prompt="a fox", **options):
    return read_folder(folder, prompt, groups=True, **options)


def by_group(pictures):
    """The names of the pictures of each group, as they follow one another."""
    return [(group[0].group.name, [p.name.rpartition("/")[2] for p in group]) for group in Dataset(tuple(pictures)).groups]


def said(reading):
    return {name: notice.reason for notice in reading.notices for name in notice.names}


def refused(folder, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        read(folder, **options)
    assert caught.value.where
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.remedy
    return str(caught.value)


# What a group is


def test_each_subfolder_is_a_group_in_the_natural_order_of_its_names(folder):
    reading = read(folder)
    assert by_group(reading.pictures) == [
        ("fox", ["Back.jpg", "front.png", "side.png"]),
        ("walk", ["frame 1.png", "frame 2.png", "frame 9.png", "frame 10.png"]),
    ]
    assert reading.notices == ()
    assert [picture.name for picture in reading.pictures[:2]] == ["fox/Back.jpg", "fox/front.png"]


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "10"],
        ["a", "B", "c"],
        ["a1", "A2", "a10", "b"],
        ["frame-1.5", "frame-1.10", "frame-2"],
        ["01", "1", "2"],
        ["", "0", "a"],
        ["7" * 200, "8" * 200, "7" * 201],
    ],
)
def test_names_are_sorted_as_people_do(names):
    backwards = names[::-1]
    assert sorted(backwards, key=natural) == names


def test_without_groups_a_folder_is_read_as_ever(folder):
    paint(folder / "dog.png")
    paint(folder / "2_cat" / "cat.png")
    (folder / "fox" / "cameras.json").write_text("no JSON at all")
    reading = read_folder(folder, "a dog")
    assert [picture.name for picture in reading.pictures] == ["dog.png", "2_cat/cat.png"]
    assert {(picture.group, picture.camera) for picture in reading.pictures} == {(None, None)}
    assert set(said(reading)) == {"fox/ (3 pictures)", "walk/ (4 pictures)"}
    assert Dataset(reading.pictures, settings=DataConfig(crops=3, flip=True)).groups == ()
    (folder / "cameras.json").write_text("[]")
    assert said(read_folder(folder, "a dog"))["cameras.json"].startswith("captions are read from .txt")


def test_only_the_deepest_folders_are_groups(tmp_path):
    for place in ("animals/fox/a", "animals/fox/b", "animals/dog", "clip"):
        for name in ("1.png", "2.png"):
            paint(tmp_path / place / name)
    (tmp_path / "animals" / "read me.txt").write_text("about them")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    paint(tmp_path / ".thumbs" / "1.png")
    reading = read(tmp_path)
    assert [name for name, _ in by_group(reading.pictures)] == ["animals/dog", "animals/fox/a", "animals/fox/b", "clip"]
    assert said(reading) == {
        "animals/read me.txt": "no picture of this name is read",
        "empty/deeper/": "a subfolder without pictures",
        ".thumbs": "hidden, or a file of the operating system",
    }


def test_pictures_above_a_group_are_refused(folder):
    paint(folder / "lost.png")
    message = refused(folder, "not in the folder itself: lost.png")
    assert message.endswith(
        "With groups, pictures lie in the deepest subfolders alone, not in the folder itself: lost.png. "
        "Move them into a subfolder of their own, or turn groups off."
    )
    for number in range(9):
        paint(folder / f"{number}.png")
    refused(folder, r"itself: 0\.png, 1\.png, 2\.png, 3\.png, 4\.png and 5 more\. Move")
    for path in folder.glob("*.png"):
        path.unlink()
    paint(folder / "fox" / "masks" / "front.png")
    message = refused(folder, r"not beside such subfolders: Back\.jpg, front\.png, side\.png")
    assert message.startswith(str(folder / "fox"))


def test_a_picture_in_the_folder_is_refused_also_where_there_are_no_subfolders(tmp_path):
    paint(tmp_path / "a.png"), paint(tmp_path / "b.png")
    refused(tmp_path, "not in the folder itself: a.png, b.png")


def test_a_folder_without_groups_is_refused(tmp_path):
    with pytest.raises(DataError, match="There is no such folder"):
        read(tmp_path / "nowhere")
    refused(tmp_path, "There are no pictures in the subfolders")
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "a.heic").write_bytes(b"")
    message = refused(tmp_path, "There are no pictures in the subfolders")
    assert "pip install pillow-heif" in message
    assert "or turn groups off" in message


def test_a_group_of_one_picture_is_left_out_and_named(folder):
    paint(folder / "owl" / "owl.png")
    paint(folder / "crow" / "a.png")
    (folder / "crow" / "b.png").write_bytes(b"no picture")
    reading = read(folder)
    assert [name for name, _ in by_group(reading.pictures)] == ["fox", "walk"]
    assert said(reading) == {
        "owl/owl.png": ALONE,
        "crow/a.png": ALONE,
        "crow/b.png": "it cannot be read: it is no picture, or its beginning is damaged",
    }


def test_groups_of_one_picture_alone_are_refused(tmp_path):
    paint(tmp_path / "owl" / "owl.png"), paint(tmp_path / "crow" / "crow.png")
    message = refused(tmp_path, "None of the 2 groups has two pictures")
    assert "into one subfolder or one batch, or turn groups off" in message


def test_groups_of_one_name_in_messages_stay_apart(tmp_path):
    """A sign that no message can hold is a question mark there."""
    for name in ("a\x01", "a\x02"):
        try:
            paint(tmp_path / name / "1.png"), paint(tmp_path / name / "2.png")
        except OSError:
            pytest.skip("this disk has no such names")
    assert [name for name, _ in by_group(read(tmp_path).pictures)] == ["a?", "a?"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no links")
def test_links_that_lead_back_end_the_search(folder):
    (folder / "fox" / "again").symlink_to(folder, target_is_directory=True)
    (folder / "more").symlink_to(folder / "walk", target_is_directory=True)
    reading = read(folder)
    assert [name for name, _ in by_group(reading.pictures)] == ["fox", "more", "walk"]
    assert said(reading) == {"fox/again/": "a link to a folder that it is in"}


def test_the_search_ends_at_a_depth_and_at_a_number_of_folders(folder, monkeypatch):
    deep = folder.joinpath(*"abcdefgh")
    paint(deep / "1.png"), paint(deep / "2.png")
    assert [name for name, _ in by_group(read(folder).pictures)] == ["a/b/c/d/e/f/g/h", "fox", "walk"]
    paint(deep / "i" / "1.png")
    assert said(read(folder)) == {"a/b/c/d/e/f/g/h/i/": "a subfolder more than 8 levels down"}
    monkeypatch.setattr(group_folders, "MOST_FOLDERS", 9)
    refused(folder, "There are more than 9 subfolders. Check that it is the right folder.")
    monkeypatch.setattr(group_folders, "MOST_FOLDERS", 10)
    read(folder)


def test_a_quick_look_knows_whether_there_may_be_groups(tmp_path, folder, monkeypatch):
    assert may_hold_groups(folder)
    (tmp_path / "bare" / "deep" / "er").mkdir(parents=True)
    assert not may_hold_groups(tmp_path / "bare")
    assert not may_hold_groups(tmp_path / "nowhere")
    paint(tmp_path / "plain" / "1_dog" / "dog.png"), paint(tmp_path / "plain" / "others" / "dog.png")
    assert not may_hold_groups(tmp_path / "plain")  # a picture is found without groups
    monkeypatch.setattr(group_folders, "_GLANCE", 2)
    assert may_hold_groups(tmp_path / "bare")  # it has not seen all of it


# What belongs to the pictures


def test_captions_masks_and_repeats_are_those_of_each_picture(folder):
    (folder / "fox" / "front.txt").write_text("its face")
    paint(folder / "fox" / "front-mask.png", mode="L")
    (folder / "walk").rename(folder / "3_walk home")
    rows = [{"file_name": "3_walk home/frame 2.png", "text": "a step"}, {"file_name": "fox/side.png", "text": "from far"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "fox" / "metadata.jsonl").write_text(json.dumps({"file_name": "side.png", "text": "its side"}))
    pictures = {picture.name: picture for picture in read(folder, masks=True).pictures}
    assert {name: p.caption for name, p in pictures.items() if p.caption != "a fox"} == {
        "fox/front.png": "its face",
        "fox/side.png": "its side",  # the nearest file counts
        "3_walk home/frame 2.png": "a step",
    }
    assert {name for name, p in pictures.items() if p.mask is not None} == {"fox/front.png"}
    assert {p.repeats for name, p in pictures.items() if name.startswith("3_")} == {3}
    assert {p.repeats for name, p in pictures.items() if name.startswith("fox")} == {1}
    captions = {p.name.partition("/")[0]: p.caption for p in read(folder, captions="folders").pictures if "9" in p.name}
    assert captions == {"3_walk home": "walk home"}
    folders = {p.name: p.caption for p in read(folder, captions="folders").pictures}
    assert folders["fox/Back.jpg"] == "fox"
    assert {p.caption for p in read(folder, captions="prompt").pictures} == {"a fox"}
    assert set(files_of(folder, groups=True)) == {path for path in folder.rglob("*") if path.is_file()}


def test_what_a_metadata_file_names_elsewhere_is_no_group_of_its_own(folder):
    paint(folder / "0_old" / "a.png"), paint(folder / "0_old" / "b.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0_old/a.png", "text": "a step"}))
    reading = read(folder)
    assert [name for name, _ in by_group(reading.pictures)] == ["fox", "walk"]
    assert said(reading) == {
        "0_old/": "a subfolder that comes 0 times",
        "0_old/a.png": "metadata.jsonl names it, but its folder is left out",
    }


def test_groups_that_come_more_often_are_named(folder):
    """A number before a name is how often it comes, and may have been meant to count the groups."""
    (folder / "fox").rename(folder / "7_fox")
    (folder / "walk").rename(folder / "8_walk")
    [notice] = read(folder, repeats=2).notices
    assert notice.text() == "Come more often (1), their folders' names begin with a number and _: 8_walk (×16)"
    (folder / "8_walk").rename(folder / "7_walk")
    assert read(folder).notices == ()


def test_the_search_says_how_far_it_is(folder):
    told = []
    read(folder, progress=lambda *event: told.append(event))
    assert told[0] == (0, 7, "fox/Back.jpg")
    assert told[-1] == (7, 7, "")


# Batches of a graph


def batch(count, height=16, width=24):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(count))


def test_each_batch_of_a_graph_is_a_group(caplog):
    pictures = from_batches([batch(2), batch(1), batch(3, 32)], "a dog", texts=["a", "b", "c"], groups=True)
    assert [picture.name for picture in pictures] == [f"picture {n}" for n in range(1, 7)]
    kept, alone = without_single_pictures(pictures, "the pictures from the graph")
    assert by_group(kept) == [("batch 1", ["picture 1", "picture 2"]), ("batch 3", ["picture 4", "picture 5", "picture 6"])]
    assert [picture.caption for picture in kept] == ["a", "a", "c", "c", "c"]
    assert [(notice.reason, notice.names) for notice in alone] == [(ALONE, ("picture 3",))]
    with pytest.raises(DataError, match="the pictures from the graph: None of the 2 groups has two pictures"):
        without_single_pictures(from_batches([batch(1), batch(1)], "a dog", groups=True), "the pictures from the graph")
    assert {picture.group for picture in from_batches([batch(2), batch(1)], "a dog")} == {None}


# One size, and alike cuts


def dataset(sizes, **settings):
    """One group of pictures of these widths and heights, and after it one that stands alone."""
    group = PictureGroup("fox")
    rng = torch.Generator().manual_seed(3)
    pictures = [
        Picture(torch.rand(high, wide, 3, generator=rng), f"a fox, side {n}, big", f"{n}", None, 4, group)
        for n, (wide, high) in enumerate(sizes)
    ]
    single = Picture(torch.rand(64, 96, 3, generator=rng), "a dog", "dog")
    return Dataset((*pictures, single), 128, settings=DataConfig(bucket_step=32, **settings))


@pytest.mark.parametrize(
    ("sizes", "expected", "settings"),
    [
        ([(160, 96), (160, 96)], (12, 20), {}),
        ([(160, 96), (320, 192), (161, 97)], (12, 20), {}),
        ([(160, 96), (96, 160)], (16, 16), {}),
        ([(96, 160), (96, 160), (160, 160)], (20, 12), {}),
        ([(160, 96), (160, 96)], (16, 16), {"buckets": False}),
    ],
)
def test_the_pictures_of_a_group_become_the_size_of_their_mean_shape(sizes, expected, settings):
    group, single = encode(dataset(sizes, **settings), 128, MeanEncoder())
    assert isinstance(group, Group)
    assert isinstance(single, Item)
    assert (group.take, group.repeats, group.cuts, len(group.members)) == (0, 4, 1, len(sizes))
    assert {member.repeats for member in group.members} == {1}
    assert {member.forms[0].latent.shape[1:] for member in group.members} == {expected}
    assert [member.forms[0].caption for member in group.members] == [f"a fox, side {n}, big" for n in range(len(sizes))]
    for (wide, high), member in zip(sizes, group.members, strict=True):
        size = member.forms[0].condition[-1]
        assert (size.width, size.height, size.target_height, size.target_width) == (wide, high, 8 * expected[0], 8 * expected[1])
    Samples([group], TrainConfig())


def test_a_group_is_mirrored_as_a_whole(monkeypatch):
    group, single = encode(dataset([(160, 96), (96, 160)], flip=True, shuffles=2, caption_dropout=0.25), 128, MeanEncoder())
    assert group.cuts == 2
    assert len(single.forms) == 2
    straight, mirrored = ([form for m in group.cut_alike(n) for form in (*m.forms, *m.uncaptioned)] for n in range(2))
    assert len(straight) == len(mirrored) == 6
    for one, other in zip(straight, mirrored, strict=True):
        assert one.caption == other.caption
        assert (one.latent.flip(-1) - other.latent).abs().max() <= 1 / 255
        assert (one.latent - other.latent).abs().max() > 0.01
    samples = Samples([group], TrainConfig(batch_size=3, data=DataConfig(flip=True, caption_dropout=0.25)))
    latents = {id(form.latent) for form in mirrored}
    seen = set()
    for number in range(20):
        drawn = samples.batch(number)
        for first, second in zip(drawn[::2], drawn[1::2], strict=True):
            assert first.group == second.group
            both = {id(sample.example.latent) in latents for sample in (first, second)}
            assert len(both) == 1  # never one straight and the other mirrored
            seen |= both
    assert seen == {True, False}


def test_what_would_tear_a_group_apart_is_refused():
    with pytest.raises(ConfigError, match=r"crops: The pictures of a group cannot be cut in several places.*Set crops to 1"):
        dataset([SIZE, SIZE], crops=2)


def test_a_group_that_comes_more_often_is_drawn_more_often():
    group, single = encode(dataset([(96, 64), (96, 64)], buckets=False), 128, MeanEncoder())
    samples = Samples([group, single], TrainConfig(batch_size=1))
    sizes = [len(samples.batch(number)) for number in range(10)]
    assert sizes.count(2) == 8
    assert sizes.count(1) == 2


def test_a_picture_of_a_group_that_has_gone_is_named(folder):
    data = Dataset(read(folder).pictures, 64)
    (folder / "fox" / "side.png").unlink()
    with pytest.raises(DataError, match=r"side\.png: The picture can no longer be read"):
        encode(data, 64, MeanEncoder())


# From a file of settings


def test_the_pictures_of_a_run_may_be_groups(folder, caplog):
    paint(folder / "owl" / "owl.png")
    files = PictureFiles(str(folder), "a fox", groups=True)
    with caplog.at_level(logging.WARNING):
        data = read_pictures(files, DataConfig(resolution=64))
    assert [len(group) for group in data.groups] == [3, 4]
    assert data.source == files
    assert f"Left out (1), {ALONE}: owl/owl.png" in caplog.text
    others = folder.parent / "others"
    paint(others / "a.png")
    with_class = read_pictures(PictureFiles(str(folder), "a fox", class_folder=str(others), class_prompt="x", groups=True), DataConfig())
    assert [picture.group for picture in with_class.class_pictures] == [None]
    assert list_groups(folder).pictures[0].text == "fox"
