"""Files with cameras: the order of the views, what is refused and in which words."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mean_encoder import MeanEncoder
from PIL import Image

from krona_ops.errors import ConfigError, DataError
from krona_train.batches.camera import Camera
from krona_train.config import DataConfig
from krona_train.data.cameras import REMEDY, read_cameras
from krona_train.data.choices import PictureFiles
from krona_train.data.encoding import encode
from krona_train.data.folder import files_of, read_folder
from krona_train.data.pictures import Dataset
from krona_train.data.source import read_pictures

ORBIT = [("front.png", 0, 0), ("side.png", 90, 10.5), ("back.png", 180, 0), ("above.png", -360, 90)]


def rows(views=ORBIT):
    return [{"file": file, "azimuth": azimuth, "elevation": elevation} for file, azimuth, elevation in views]


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    """Two things, four views of each."""
    for thing in ("fox", "cup"):
        (tmp_path / thing).mkdir()
        for file, *_ in ORBIT:
            Image.new("RGB", (24, 16), "red").save(tmp_path / thing / file)
    return tmp_path


def views(folder):
    """Name and camera of each picture, in the order of the data set."""
    return [(picture.name, picture.camera) for picture in read_folder(folder, "a thing", groups=True).pictures]


def expected(thing, orbit=ORBIT):
    return [(f"{thing}/{file}", Camera(azimuth, elevation)) for file, azimuth, elevation in orbit]


def refused(folder, value, thing="fox"):
    """What is said about a file with cameras in a group's folder."""
    path = write(folder / thing / "cameras.json", value)
    with pytest.raises(DataError) as caught:
        read_folder(folder, "a thing", groups=True)
    assert caught.value.where == str(path)
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.remedy.startswith(REMEDY)
    return caught.value.reason.removesuffix(f" {caught.value.remedy}")


def test_a_file_gives_one_group_its_cameras_and_its_order(folder):
    write(folder / "fox" / "cameras.json", rows())
    alone = [(f"cup/{file}", None) for file in ("above.png", "back.png", "front.png", "side.png")]
    assert views(folder) == [*alone, *expected("fox")]
    assert folder / "fox" / "cameras.json" in set(files_of(folder, groups=True))


def test_a_file_in_the_top_folder_is_for_all_and_the_nearest_counts(folder):
    write(folder / "CAMERAS.json", rows())
    assert views(folder) == [*expected("cup"), *expected("fox")]
    write(folder / "fox" / "cameras.json", rows(ORBIT[::-1]))
    assert views(folder) == [*expected("cup"), *expected("fox", ORBIT[::-1])]
    assert {path.name for path in files_of(folder, groups=True) if path.suffix == ".json"} == {"CAMERAS.json", "cameras.json"}


def test_letters_may_be_small_or_large_where_no_other_picture_is_meant(folder):
    (folder / "fox" / "front.png").rename(folder / "fox" / "FRONT.png")
    write(folder / "cameras.json", rows())
    assert views(folder)[4] == ("fox/FRONT.png", Camera(0, 0))


def test_a_camera_goes_with_the_picture_to_what_is_trained_on(folder):
    write(folder / "cameras.json", rows())
    files = PictureFiles(str(folder), "a thing", groups=True)
    groups = encode(read_pictures(files, DataConfig(caption_dropout=0.5)), 64, MeanEncoder())
    assert len(groups) == 2
    for group in groups:
        for member, (_, camera) in zip(group.members, expected("fox"), strict=True):
            assert [form.camera for form in (*member.forms, *member.uncaptioned)] == [camera, camera]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[", "The file cannot be read as JSON: Expecting value: line 1 column 2 (char 1)."),
        ("", "The file cannot be read as JSON: Expecting value: line 1 column 1 (char 0)."),
        ({"front.png": 0}, 'The file is {"front.png": 0}, not a list of 40,000 values at most.'),
        ([3], "view 1 is 3, not a mapping with names as its keys."),
        ([{**rows()[0], "roll": 3}], "A key of view 1 is roll, not file or azimuth or elevation."),
        ([rows()[0], {"azimuth": 0, "elevation": 0}], "The file of view 2 is None, not a text of 255 characters at most."),
        ([{"file": "front.png", "azimuth": 0}], "The elevation of view 1 is None, not a number from -90 to 90."),
        (rows([("front.png", 361, 0)]), "The azimuth of view 1 is 361, not a number from -360 to 360."),
        (rows([("front.png", -360.5, 0)]), "The azimuth of view 1 is -360.5, not a number from -360 to 360."),
        (rows([("front.png", 0, 91)]), "The elevation of view 1 is 91, not a number from -90 to 90."),
        (rows([("front.png", True, 0)]), "The azimuth of view 1 is True, not a number from -360 to 360."),
        (rows([("front.png", "0", 0)]), "The azimuth of view 1 is 0, not a number from -360 to 360."),
        ('[{"file": "front.png", "azimuth": NaN}]', "The file cannot be read as JSON: NaN is no number."),
        (rows([("x" * 256, 0, 0)]), None),
        ("[" * 9 + "]" * 9, "The file cannot be read as JSON: its lists and mappings are 9 deep, 8 are allowed."),
        (f"[{'0,' * 40_000}0]", "The file cannot be read as JSON: it has 40,001 values, 40,000 are allowed."),
        (" " * 1_000_001, "The file cannot be read as JSON: it has 1,000,001 bytes, 1,000,000 are allowed."),
        (rows(ORBIT[:3]), "cameras.json leaves out above.png of the group fox."),
        ([], "cameras.json leaves out above.png, back.png, front.png, side.png of the group fox."),
        (rows([*ORBIT, ("below.png", 0, 0)]), "cameras.json names below.png, which is not among the pictures of the group fox."),
        (rows([("../cup/front.png", 0, 0)]), None),
        (rows([*ORBIT, ORBIT[0]]), "cameras.json names front.png twice, in the group fox."),
        (rows([*ORBIT, ("FRONT.png", 0, 0)]), "cameras.json names FRONT.png twice, in the group fox."),
    ],
)
def test_what_is_no_list_of_the_groups_views_is_refused(folder, value, reason):
    message = refused(folder, value)
    if reason is not None:
        assert message == reason


def test_a_file_that_cannot_be_opened_is_refused(folder):
    if os.geteuid() == 0:
        with pytest.raises(DataError, match="The file with the cameras cannot be read: No such file"):
            read_cameras(folder / "nowhere.json")
        return
    path = write(folder / "fox" / "cameras.json", rows())
    path.chmod(0)
    with pytest.raises(DataError, match="The file with the cameras cannot be read: Permission denied"):
        read_cameras(path)


@given(st.one_of(st.binary(max_size=60), st.recursive(st.none() | st.floats() | st.text(max_size=9), st.lists).map(lambda v: json.dumps(v).encode())))
def test_whatever_the_file_is_it_gives_cameras_or_an_error_of_the_pack(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "cameras.json"
    path.write_bytes(content)
    said = ""
    try:
        views = read_cameras(path)
    except DataError as error:
        views, said = (), error.remedy
    assert said in ("", REMEDY)
    assert all(isinstance(camera, Camera) for _, camera in views)


def test_a_view_that_cannot_be_read_is_refused_and_not_left_out(folder):
    write(folder / "cameras.json", rows())
    (folder / "fox" / "side.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"fox/side\.png: It cannot be read, and cameras\.json names it: .*take it out of cameras\.json"):
        views(folder)


def test_groups_with_cameras_have_all_the_same_number_of_views(folder):
    (folder / "cup" / "side.png").unlink()
    write(folder / "fox" / "cameras.json", rows())
    write(folder / "cup" / "cameras.json", rows([ORBIT[0], *ORBIT[2:]]))
    pictures = read_folder(folder, "a thing", groups=True).pictures
    with pytest.raises(DataError, match=r"different numbers of views: cup has 3, fox has 4\. Add the missing views"):
        Dataset(pictures)
    (folder / "cup" / "cameras.json").unlink()  # a group without cameras may be of any size
    assert [len(group) for group in Dataset(read_folder(folder, "a thing", groups=True).pictures).groups] == [3, 4]


def test_views_with_cameras_are_not_mirrored(folder):
    pictures = read_folder(folder, "a thing", groups=True).pictures
    assert Dataset(pictures, settings=DataConfig(flip=True)).groups
    write(folder / "cameras.json", rows())
    with pytest.raises(ConfigError, match=r"flip: Views with cameras cannot be mirrored.*Turn flip off"):
        Dataset(read_folder(folder, "a thing", groups=True).pictures, settings=DataConfig(flip=True))
