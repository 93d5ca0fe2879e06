"""What is made of a caption: other orders of its parts, and the caption of the subject's class."""

import json
import time
from itertools import permutations

import pytest
from PIL import Image

from krona_ops.errors import DataError
from krona_train.data.captions import class_caption, orders, tags, without_trigger
from krona_train.data.folder import from_folder, read_folder
from krona_train.data.pictures import require_prompt

TAGS = "sks dog, beach, sunny, red ball, running"


def test_the_first_order_is_the_caption_as_it_is():
    assert orders(TAGS, 3)[0] == TAGS
    assert orders("odd ,spacing,  here", 2, keep=0)[0] == "odd ,spacing,  here"
    assert orders(TAGS, 1) == (TAGS,)
    assert orders("a photo of sks dog", 5) == ("a photo of sks dog",)
    assert orders("", 5) == ("",)


def test_orders_are_different_permutations_that_keep_the_start():
    found = orders(TAGS, 6, keep=2, seed=4)
    assert len(set(found)) == 6
    allowed = {", ".join(["sks dog", "beach", *rest]) for rest in permutations(["sunny", "red ball", "running"])}
    assert set(found) == allowed


@pytest.mark.parametrize(("caption", "possible"), [("a, b, c, d", 6), ("a, b, b, c", 3), ("a, b, b, b", 1), ("a, b", 1)])
def test_there_are_no_more_orders_than_exist(caption, possible):
    found = orders(caption, 50, keep=1)
    assert len(set(found)) == len(found) == possible


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        ("sks robot, (hat, red:1.3), beach", ["sks robot", "(hat, red:1.3)", "beach"]),
        ("a, ((b, c), d:0.5), e", ["a", "((b, c), d:0.5)", "e"]),
        ("a, [b, c], {d, e|f}, g", ["a", "[b, c]", "{d, e|f}", "g"]),
        ("a, [b, (c, d]), e", ["a", "[b, (c, d])", "e"]),
        (r"saber \(fate, zero\), hat", [r"saber \(fate", r"zero\)", "hat"]),
        (r"(saber \(fate\), hat:1.2), red", [r"(saber \(fate\), hat:1.2)", "red"]),
        ("a (b, c", ["a (b", "c"]),
        ("a), b (c", ["a)", "b (c"]),
        ("sad :(, hat, happy :), red", ["sad :(", "hat", "happy :)", "red"]),
        ("(smile, :):1.2), red", ["(smile, :):1.2)", "red"]),
        ("<3, hat, >_<, ;(, cat", ["<3", "hat", ">_<", ";(", "cat"]),
        ("(hat,\nred:1.3), beach", ["(hat,\nred:1.3)", "beach"]),
        ("style:(a, b), c", ["style:(a, b)", "c"]),
        (" , a,, b , ", ["a", "b"]),
        ("", []),
    ],
)
def test_commas_in_brackets_separate_no_tags(caption, parts):
    assert tags(caption) == parts
    for order in orders(caption, 9, keep=0)[1:]:
        assert len(order) == len(", ".join(parts))
        assert all(part in order for part in parts)


def test_orders_depend_on_the_caption_and_the_seed_alone():
    long = ", ".join(map(str, range(40)))
    assert orders(long, 8, seed=1) == orders(long, 8, seed=1)
    assert orders(long, 8, seed=1)[:3] == orders(long, 3, seed=1)
    assert set(orders(long, 8, seed=1)[1:]).isdisjoint(orders(long, 8, seed=2)[1:])


@pytest.mark.parametrize(
    ("caption", "trigger", "without"),
    [
        ("a photo of sks dog", "sks", "a photo of dog"),
        ("sks, a dog in snow", "sks", "a dog in snow"),
        ("a dog, sks , in snow", "sks", "a dog, in snow"),
        ("SKS dog and sks's ball", "sks", "dog and ball"),
        ("desks and sksy", "sks", "desks and sksy"),
        ("a photo of my  Rex dog", "my rex", "a photo of dog"),
        ("a c++ dog", "c++", "a dog"),
        ("sks", "sks", ""),
        ("sks, sks dog", "sks", "dog"),
        ("a dog, (red,blue), sks", "sks", "a dog, (red,blue)"),
        ("sks robot, (hat, red:1.3), day", "sks", "robot, (hat, red:1.3), day"),
        ("(sks, red:1.2) dog", "sks", "(red:1.2) dog"),
        ("a dog, (red, sks:1.2)", "sks", "a dog, (red:1.2)"),
        ("a (red, sks, small) dog", "sks", "a (red, small) dog"),
        ("a (sks:1.3) dog, [[sks]], day", "sks", "a dog, day"),
        (r"a \(sks, blue\) dog \(sks\)", "sks", r"a \(blue\) dog"),
        ("sad :(, sks dog, smile :)", "sks", "sad :(, dog, smile :)"),
    ],
)
def test_the_trigger_is_removed_as_a_word_in_and_out_of_brackets(caption, trigger, without):
    assert without_trigger(caption, trigger) == without


def test_a_class_prompt_counts_before_the_trigger():
    assert class_caption("a photo of sks dog", "sks", " a photo of a dog ") == "a photo of a dog"
    assert class_caption("a photo of sks dog", "sks", "") == "a photo of dog"


@pytest.mark.parametrize(
    ("caption", "trigger", "text"),
    [
        ("a photo of sks dog", "", "needs the name of that class. Fill in class_prompt"),
        ("a photo of a dog", "sks", 'The trigger "sks" is not in the caption'),
        ("sks", "sks", 'The trigger "sks" is all there is in the caption'),
    ],
)
def test_a_class_that_is_not_known_is_an_error_that_says_what_to_fill_in(caption, trigger, text):
    with pytest.raises(DataError, match=text) as caught:
        class_caption(caption, trigger, "")
    assert caption in str(caught.value)
    assert "class_prompt" in caught.value.remedy


@pytest.mark.parametrize(
    ("caption", "count"),
    [
        ("(" * 20_000, 1),
        ("(" * 10_000 + "]" * 10_000, 1),
        ("(" * 10_000 + ")" * 10_000, 1),
        ("([{" * 3000 + ")]}" * 3000, 1),
        ("a," * 10_000, 10_000),
    ],
)
def test_brackets_cost_what_their_number_is(caption, count):
    began = time.process_time()
    assert len(tags(caption)) == count
    assert len(orders(caption, 8)) == 1  # all its parts are alike
    assert time.process_time() - began < 5  # a tenth of a second where nothing else runs; half a minute as it was


def test_brackets_that_cross_and_those_without_a_partner_are_as_they_were():
    assert tags("a (b, c] d) e, f") == ["a (b, c] d) e", "f"]
    assert tags("a [b, (c] d, e) f, g") == ["a [b, (c] d", "e) f", "g"]
    assert tags("((a, b), c), d") == ["((a, b), c)", "d"]
    assert tags("(a, b, c") == ["(a", "b", "c"]


@pytest.mark.parametrize("text", [", ".join(f"tag{n}" for n in range(60_000)), "a \ud800"])
def test_what_cannot_be_a_caption_is_refused_by_name(text, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "dog.png")
    with pytest.raises(DataError, match=r"the prompt: Its text (has .* at most|holds half a character)"):
        require_prompt(text, "the prompt")
    if len(text) > 10:
        (tmp_path / "dog.txt").write_text(text)
        with pytest.raises(DataError, match=r"dog\.txt: Its text has .* a caption has 20,000 at most"):
            from_folder(tmp_path, "a dog")
        (tmp_path / "dog.txt").unlink()
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "dog.png", "text": text}) + "\n")
    reading = read_folder(tmp_path, "a dog")
    assert [picture.caption for picture in reading.pictures] == ["a dog"]
    assert "its caption" in "".join(notice.reason for notice in reading.notices)


@pytest.mark.parametrize(
    "line",
    ['{"file_name": ' + "[" * 9000, '{"file_name": "a.png", "n": ' + "9" * 9000 + "}", '{"text": "' + "x" * 2_000_000 + '"}'],
)
def test_a_line_of_a_metadata_file_that_is_no_line_is_passed_over(line, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "dog.png")
    (tmp_path / "metadata.jsonl").write_text(line + '\n{"file_name": "dog.png", "text": "a fine dog"}\n')
    reading = read_folder(tmp_path, "a dog")
    assert [picture.caption for picture in reading.pictures] == ["a fine dog"]
    assert "metadata.jsonl line 1" in "".join(name for notice in reading.notices for name in notice.names)
