"""Class pictures: made once, the missing ones only, and always the same."""

import numpy as np
import pytest
from PIL import Image

from krona_ops.errors import AdapterFileError, DataError
from krona_train.data.class_pictures import class_folder, make_class_pictures


class Cancelled(Exception):
    pass


class Painter:
    """Noise of the number, and a list of what was asked for."""

    def __init__(self):
        self.drawn = []

    def __call__(self, number):
        self.drawn.append(number)
        return Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 7, 3), dtype=np.uint8))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_missing_ones_are_made_and_the_others_count(tmp_path):
    first, second = Painter(), Painter()
    assert len(make_class_pictures(tmp_path / "a", 3, first)) == 3
    paths = make_class_pictures(tmp_path / "a", 5, second)
    assert (first.drawn, second.drawn) == ([0, 1, 2], [3, 4])
    assert [path.name for path in paths] == [f"class-{n:05}.png" for n in range(5)]
    assert set(paths) == set((tmp_path / "a").iterdir())


def test_fewer_than_there_are_takes_the_first(tmp_path):
    painter = Painter()
    make_class_pictures(tmp_path, 4, painter)
    assert [path.name for path in make_class_pictures(tmp_path, 2, painter)] == ["class-00000.png", "class-00001.png"]
    assert painter.drawn == [0, 1, 2, 3]


@pytest.mark.parametrize("where", ["progress", "drawing"])
def test_an_interrupted_making_goes_on_to_the_same_set(tmp_path, where):
    make_class_pictures(tmp_path / "whole", 4, Painter(), prompt="a dög")

    def cancel(done, total):
        if where == "progress" and done == 2:
            raise Cancelled

    def draw(number):
        if where == "drawing" and number == 2:
            raise Cancelled
        return Painter()(number)

    with pytest.raises(Cancelled):
        make_class_pictures(tmp_path / "parts", 4, draw, cancel, prompt="a dög")
    assert len(contents(tmp_path / "parts")) == 2
    again = Painter()
    make_class_pictures(tmp_path / "parts", 4, again, prompt="a dög")
    assert again.drawn == [2, 3]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_progress_counts_from_what_is_there(tmp_path):
    make_class_pictures(tmp_path, 2, Painter())
    told = []
    make_class_pictures(tmp_path, 4, Painter(), lambda *numbers: told.append(numbers))
    assert told == [(2, 4), (3, 4), (4, 4)]


def test_damaged_pictures_are_made_again(tmp_path):
    make_class_pictures(tmp_path, 3, Painter())
    before = contents(tmp_path)
    (tmp_path / "class-00001.png").write_bytes(before["class-00001.png"][:60])
    painter = Painter()
    make_class_pictures(tmp_path, 3, painter)
    assert painter.drawn == [1]
    assert contents(tmp_path) == before


def test_the_users_own_pictures_count_and_stay(tmp_path):
    Image.new("RGB", (5, 5), "red").save(tmp_path / "my dog.jpg")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("not one either")
    before = contents(tmp_path)
    painter = Painter()
    paths = make_class_pictures(tmp_path, 3, painter)
    assert [path.name for path in paths] == ["my dog.jpg", "class-00000.png", "class-00001.png"]
    assert {name: data for name, data in contents(tmp_path).items() if name in before} == before
    assert make_class_pictures(tmp_path, 3, painter) == paths
    assert painter.drawn == [0, 1]


def test_more_of_the_users_own_than_wanted_need_none(tmp_path):
    for name in "abc":
        Image.new("RGB", (5, 5)).save(tmp_path / f"{name}.png")
    painter = Painter()
    assert [path.name for path in make_class_pictures(tmp_path, 2, painter)] == ["a.png", "b.png"]
    assert painter.drawn == []


def test_each_file_says_its_prompt(tmp_path):
    [path] = make_class_pictures(tmp_path, 1, Painter(), prompt="a photo of a 猫")
    with Image.open(path) as image:
        assert image.info["Description"] == "a photo of a 猫"


def test_pictures_of_another_prompt_are_not_mixed_in(tmp_path):
    make_class_pictures(tmp_path, 2, Painter(), prompt="a cat")
    with pytest.raises(DataError, match=r"another prompt.*a cat"):
        make_class_pictures(tmp_path, 2, Painter(), prompt="a dog")


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(AdapterFileError, match="taken"):
        make_class_pictures(tmp_path / "taken", 1, Painter())


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "CON", "", "  ", "a/b\\c:d*e?\0f", "猫 " * 200, "x." * 99])
def test_the_folders_name_is_safe_and_its_own(tmp_path, prompt):
    folder = class_folder(tmp_path, prompt, "fingerprint")
    assert folder.parent == tmp_path
    assert folder.name.strip(" .") == folder.name
    assert not set(folder.name) & set('/\\:*?"<>|\0')
    assert len(folder.name.encode()) < 200
    folder.mkdir()
    assert folder == class_folder(tmp_path, prompt, "fingerprint")
    assert folder != class_folder(tmp_path, prompt, "another model")
    assert folder != class_folder(tmp_path, prompt + "!", "fingerprint")
