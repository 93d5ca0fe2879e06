"""Nothing in a folder is dropped without a word: what is used of it, and what is said about the rest."""

import json
import logging
import os
import sys

import pytest
from PIL import Image

from krona_ops.errors import DataError
from krona_train.config import DataConfig
from krona_train.data import kinds
from krona_train.data.choices import PictureFiles
from krona_train.data.folder import check_folder, files_of, from_folder, read_folder
from krona_train.data.group_folders import may_hold_groups
from krona_train.data.pictures import Dataset, from_tensor
from krona_train.data.source import read_pictures
from krona_train.drawing.contact_sheet import contact_sheet


def paint(path, size=(12, 8), mode="RGB", **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new(mode, size, 200 if mode == "L" else (200, 30, 60, 255)[: len(mode)]).save(path, **options)
    return path


def told(folder, **options):
    """File to reason, of what is left out or worth a word."""
    reading = read_folder(folder, "a dog", **options)
    return {name: f"{notice.what}: {notice.reason}" for notice in reading.notices for name in notice.names}


@pytest.fixture
def folder(tmp_path):
    paint(tmp_path / "dog.jpg")
    return tmp_path


def test_a_folder_of_which_all_is_used_has_nothing_to_say(folder):
    (folder / "dog.txt").write_text("a dog in snow")
    paint(folder / "3_cat" / "cat.png", mode="L")
    assert told(folder) == {}
    paint(folder / "dog-mask.png", mode="L")
    paint(folder / "3_cat" / "cat-mask.png", mode="L")
    assert told(folder, masks=True) == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("IMG_1.HEIC", "pip install pillow-heif"),
        ("IMG_1.heif", "pip install pillow-heif"),
        ("a.jxl", "pip install pillow-jxl-plugin"),
        ("a.CR2", "camera's raw"),
        ("a.dng", "camera's raw"),
        ("a.svg", "export it as PNG"),
        ("a.xcf", "export it as PNG"),
        ("a.exr", "save it as PNG or TIFF"),
        ("IMG_1.MOV", "a video"),
        ("a.mp4", "a video"),
        ("more.zip", "unpack it"),
        ("train.parquet", "unpack it"),
        ("favicon.ico", "an icon"),
        ("dog.json", "captions are read from .txt"),
        ("meta_cap.json", "captions are read from .txt"),
        ("dog.npz", "neither a picture nor a caption"),
        ("notes", "neither a picture nor a caption"),
        ("cat.txt", "no picture of this name is read"),
        ("cat.caption", "no picture of this name is read"),
        (".DS_Store", "of the operating system"),
        ("Thumbs.db", "of the operating system"),
        ("desktop.ini", "of the operating system"),
        ("._dog.jpg", "of the operating system"),
        (".dog.txt", "of the operating system"),
        ("broken.png", "cannot be read: it is no picture"),
    ],
)
def test_each_file_that_is_not_used_is_named_with_the_reason(folder, name, reason, caplog):
    (folder / name).write_bytes(b"whatever it is")
    assert list(told(folder)) == [name]
    assert reason in told(folder)[name]
    with caplog.at_level(logging.INFO):
        assert [picture.name for picture in from_folder(folder, "a dog")] == ["dog.jpg"]
    assert name in caplog.text
    assert "Left out (1)" in caplog.text


@pytest.mark.parametrize("name", ["b.jfif", "b.jpe", "b.JPG", "b.avif", "b.apng", "b.tga", "b.ppm", "b.jp2", "b.dib"])
def test_what_pillow_reads_is_read(folder, name):
    (folder / name).write_bytes((folder / "dog.jpg").read_bytes()) if name.lower()[:4] == "b.jp" else paint(folder / name)
    if name == "b.jp2":
        paint(folder / name)
    assert [picture.name for picture in from_folder(folder, "a dog")] == sorted(["dog.jpg", name])
    assert told(folder) == {}


def test_files_of_one_reason_are_counted_in_one_line(folder):
    for number in range(130):
        (folder / f"IMG_{number:03}.HEIC").write_bytes(b"")
    [notice] = read_folder(folder, "a dog").notices
    assert notice.text().startswith("Left out (130), HEIC needs a package, pip install pillow-heif")
    assert "IMG_099.HEIC and 30 more" in notice.text()
    assert notice.text(2).endswith(": IMG_000.HEIC, IMG_001.HEIC and 128 more")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such files")
def test_what_is_no_file_is_named_and_not_waited_for(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    assert told(folder) == dict.fromkeys(["gone.jpg", "pipe.png"], "Left out: a link to nothing, or no file")


# Captions under other names


@pytest.mark.parametrize(
    "name", ["dog.txt", "dog.TXT", "DOG.txt", "dog.caption", "dog.Caption", "dog.jpg.txt", "dog.jpg.caption"]
)
def test_captions_of_other_trainers_names_are_read(folder, name):
    (folder / name).write_text("its own")
    assert [picture.caption for picture in from_folder(folder, "a dog")] == ["its own"]
    assert told(folder) == {}
    assert {path.name for path in files_of(folder)} == {"dog.jpg", name}
    assert told(folder, captions="prompt") == {name: "Left out: captions are the prompt for every picture"}


def test_of_several_captions_one_counts_and_the_others_are_named(folder):
    for name in ("dog.txt", "dog.caption", "dog.jpg.txt"):
        (folder / name).write_text(name)
    assert [picture.caption for picture in from_folder(folder, "a dog")] == ["dog.txt"]
    assert told(folder) == dict.fromkeys(["dog.caption", "dog.jpg.txt"], "Left out: its picture has another caption")


def test_a_caption_file_that_is_empty_is_named(folder):
    (folder / "dog.txt").write_text(" \n")
    assert [picture.caption for picture in from_folder(folder, "a dog")] == ["a dog"]
    assert told(folder) == {"dog.txt": "Left out: it is empty, so the picture has no caption of its own"}


def test_a_caption_belongs_to_the_picture_of_exactly_its_name_first(tmp_path):
    try:
        paint(tmp_path / "a.png"), paint(tmp_path / "A.jpg")
    except OSError:
        pytest.skip("this disk does not tell letters apart")
    (tmp_path / "a.txt").write_text("small")
    captions = {picture.name: picture.caption for picture in from_folder(tmp_path, "the prompt")}
    assert captions == {"A.jpg": "the prompt", "a.png": "small"}


def rows(folder, *lines, name="metadata.jsonl"):
    (folder / name).write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def test_diffusers_image_folder_gives_captions_and_pictures_in_further_folders(folder):
    paint(folder / "front" / "a.png"), paint(folder / "front" / "b.png"), paint(folder / "5_cat" / "c.png")
    (folder / "dog.txt").write_text("its own")
    rows(
        folder,
        {"file_name": "dog.jpg", "text": "not this one"},
        {"file_name": "front/a.png", "text": "from the front"},
        {"file_name": "5_cat/C.png", "caption": "a cat"},
    )
    found = {picture.name: (picture.caption, picture.repeats) for picture in from_folder(folder, "a dog")}
    assert found == {"dog.jpg": ("its own", 1), "5_cat/c.png": ("a cat", 5), "front/a.png": ("from the front", 1)}
    said = told(folder)
    assert said.pop("dog.jpg") == "Described twice: their own text files count, not the metadata file"
    assert [*said] == ["front/ (1 picture)"]
    assert folder / "metadata.jsonl" in files_of(folder)
    assert "metadata.jsonl" in told(folder, captions="prompt")


def test_a_table_of_captions_is_read_too(folder):
    rows(folder, "file_name,text", 'dog.jpg,"a dog, in snow"', name="metadata.csv")
    assert [picture.caption for picture in from_folder(folder, "x")] == ["a dog, in snow"]
    assert told(folder) == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"file_name": "cat.jpg", "text": "a cat"}, "there is no such file"),
        ({"file_name": "../cat.jpg", "text": "a cat"}, "outside of the folder"),
        ({"file_name": "/etc/cat.jpg", "text": "a cat"}, "outside of the folder"),
        ({"file_name": "C:\\cat.jpg", "text": "a cat"}, "outside of the folder"),
        ({"file_name": "dog.jpg"}, "it has no file_name with a text"),
        ({"text": "a cat"}, "it has no file_name with a text"),
        ("{not json", "it is no JSON object"),
        ("[" * 5000, "it is no JSON object"),
    ],
)
def test_lines_that_describe_nothing_are_named(folder, line, reason):
    rows(folder, {"file_name": "dog.jpg", "text": "its own"}, line)
    assert [picture.caption for picture in from_folder(folder, "a dog")] == ["its own"]
    [said] = told(folder).items()
    assert reason in said[1]
    assert "line 2" in said[0] or "cat.jpg" in said[0]
    rows(folder, line, line, line)  # of another program: one word about it
    assert len(told(folder)) == 1


def test_a_description_that_is_no_text_is_named(folder):
    (folder / "metadata.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as UTF-8" in told(folder)["metadata.jsonl"]


# Masks


@pytest.mark.parametrize(
    "name",
    [
        "dog-mask.png",
        "dog-mask.PNG",
        "dog-mask.jpg",
        "dog-mask.webp",
        "dog-masklabel.png",
        "dog_mask.png",
        "dog.mask.png",
        "Dog-Mask.png",
    ],
)
def test_masks_of_other_trainers_names_are_masks_and_no_pictures(folder, name):
    paint(folder / name, mode="L")
    [picture] = from_folder(folder, "a dog", masks=True)
    assert picture.mask == folder / name
    assert told(folder, masks=True) == {}
    assert told(folder) == {name: "Left out: it is a mask, and masks are off"}


def test_a_mask_of_a_picture_that_is_not_read_is_no_picture(folder):
    (folder / "cat.heic").write_bytes(b"")
    paint(folder / "cat-mask.png", mode="L")
    (folder / "cat.txt").write_text("a cat")
    assert [picture.name for picture in from_folder(folder, "a dog", masks=True)] == ["dog.jpg"]
    assert {"cat.heic", "cat-mask.png", "cat.txt"} <= set(told(folder))


def test_what_is_no_mask_or_one_too_many_is_named(folder):
    for name in ("dog-mask.png", "dog-masklabel.png", "dog-condlabel.png"):
        paint(folder / name, mode="L")
    said = told(folder, masks=True)
    assert said == {
        "dog-masklabel.png": "Left out: its picture has another mask, or is not read",
        "dog-condlabel.png": "Left out: a condition for OneTrainer, neither a picture nor a mask",
    }


def test_pictures_without_a_mask_are_named_where_masks_are_wanted(folder):
    reason = "Learnt whole: masks are on, but no picture has one (as dog-mask.png beside dog.jpg, or transparency)"
    assert told(folder, masks=True) == {"dog.jpg": reason}
    paint(folder / "cat.png", mode="RGBA")
    assert "but these have none" in told(folder, masks=True)["dog.jpg"]
    assert "cat.png" not in told(folder, masks=True)


# Folders, animations


def test_subfolders_that_are_left_alone_are_named_with_their_pictures(folder):
    paint(folder / "front" / "a.png"), paint(folder / "front" / "b.heic", format="PNG"), paint(folder / "0_off" / "c.png")
    (folder / "empty").mkdir()
    paint(folder / "4_cat" / "deeper" / "a.png"), paint(folder / "4_cat" / "a.png")
    said = told(folder)
    assert set(said) == {"front/ (2 pictures)", "0_off/ (1 picture)", "empty/", "4_cat/deeper/ (1 picture)"}
    assert "as in 1_dog" in said["front/ (2 pictures)"]
    assert "comes 0 times" in said["0_off/ (1 picture)"]


@pytest.mark.parametrize("use", [from_folder, check_folder])
def test_a_folder_without_pictures_says_what_is_there_instead(tmp_path, use):
    paint(tmp_path / "front" / "a.png")
    with pytest.raises(DataError, match=r"There are no pictures in the folder.*1_dog: front/ \(1 picture\)"):
        use(tmp_path, "a dog")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match=r"HEIC needs a package, pip install pillow-heif.*IMG_1\.HEIC"):
        use(tmp_path, "a dog")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tiff", ".png"])
def test_only_the_first_frame_of_an_animation_is_learnt_and_that_is_said(folder, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(folder / f"moving{suffix}", save_all=True, append_images=frames[1:])
    assert told(folder) == {f"moving{suffix}": "Only the first frame or page is learnt: they have several"}
    paint(folder / f"still{suffix}")
    assert len(told(folder)) == 1


def test_a_plugin_of_pillow_is_used_where_it_is_installed(folder, tmp_path_factory, monkeypatch):
    plugins = tmp_path_factory.mktemp("plugins")
    (plugins / "pillow_jxl.py").write_text(
        "from PIL import Image, PngImagePlugin\n"
        "class Picture(PngImagePlugin.PngImageFile):\n    format = 'JXL'\n"
        "Image.register_open('JXL', Picture, lambda start: start.startswith(b'\\x89PNG'))\n"
    )
    paint(folder / "cat.jxl", format="PNG")
    assert "pip install pillow-jxl-plugin" in told(folder)["cat.jxl"]
    caches = (kinds._plugin.cache_clear, kinds.formats.cache_clear)
    monkeypatch.syspath_prepend(plugins)
    [clear() for clear in caches]
    try:
        assert [picture.name for picture in from_folder(folder, "a dog")] == ["cat.jxl", "dog.jpg"]
        (plugins / "pillow_jxl.py").write_text("raise ImportError('its library is missing')")
        sys.modules.pop("pillow_jxl")
        [clear() for clear in caches]
        assert "it is there, but fails: its library is missing" in told(folder)["cat.jxl"]
    finally:
        sys.modules.pop("pillow_jxl", None)
        Image.OPEN.pop("JXL", None)
        Image.ID.remove("JXL")
        [clear() for clear in caches]


# Where it is said


def test_a_data_set_knows_what_was_left_out_of_both_folders(folder, tmp_path_factory, caplog):
    others = tmp_path_factory.mktemp("others")
    paint(others / "a.png")
    (others / "b.heic").write_bytes(b"")
    (folder / "notes.md").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        dataset = read_pictures(
            PictureFiles(str(folder), "sks dog", class_folder=str(others), class_prompt="dog"), DataConfig()
        )
    assert [name for notice in dataset.notices for name in notice.names] == ["notes.md", f"{others.name}/b.heic"]
    assert "notes.md" in caplog.text
    assert "b.heic" in caplog.text


def test_the_contact_sheet_has_a_strip_of_words_where_something_is_left_out(folder):
    plain = contact_sheet(read_pictures(PictureFiles(str(folder), "sks dog"), DataConfig()), side=64)
    (folder / "IMG_1.HEIC").write_bytes(b"")
    said = contact_sheet(read_pictures(PictureFiles(str(folder), "sks dog"), DataConfig()), side=64)
    assert said.height > plain.height
    assert said.crop((0, 0, *plain.size)).tobytes() == plain.tobytes()
    assert len(said.crop((0, plain.height, *said.size)).getcolors()) > 10  # letters
    for number in range(40):  # however much there is, it stays a picture
        (folder / f"file.{number}").write_bytes(b"")
        (folder / f"{number}.heic").write_bytes(b"")
    assert contact_sheet(read_pictures(PictureFiles(str(folder), "sks dog"), DataConfig()), side=64).height < 3 * said.height


def test_reading_and_drawing_tell_how_far_they_are_and_can_be_stopped(folder):
    for number in range(4):
        paint(folder / f"{number}.png")

    def seen(use):
        calls = []
        use(lambda *call: calls.append(call))
        with pytest.raises(KeyboardInterrupt):
            use(stop)
        return calls

    def stop(done, total, what):
        if done == 2:
            raise KeyboardInterrupt

    names = ["0.png", "1.png", "2.png", "3.png", "dog.jpg"]
    expected = [(number, 5, name) for number, name in enumerate([*names, ""])]
    assert seen(lambda show: read_folder(folder, "a dog", progress=show)) == expected
    dataset = Dataset(from_folder(folder, "a dog"), 64)
    assert seen(lambda show: contact_sheet(dataset, progress=show)) == expected


def test_names_that_no_message_can_hold_are_shown_without_them(folder):
    paint(folder / "a\nb.png")
    assert [picture.name for picture in from_folder(folder, "a dog")] == ["a?b.png", "dog.jpg"]


def test_pictures_from_memory_have_no_notices():
    import torch

    assert Dataset(from_tensor(torch.zeros(1, 8, 8, 3), "a dog")).notices == ()


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("name", ["20240131_fox", "9" * 200 + "_cup"])
def test_a_number_that_is_no_count_of_repeats_is_refused_and_not_counted(tmp_path, name, groups):
    for picture in "ab":
        paint(tmp_path / name / f"{picture}.png")
    with pytest.raises(DataError, match=r"pictures would come .* times per epoch\. Write a smaller number") as caught:
        read_folder(tmp_path, "a thing", groups=groups)
    assert (caught.value.where, caught.value.expected) == (str(tmp_path / name), "10,000 times at most")
    (tmp_path / name).rename(tmp_path / "10000_fox")
    assert {picture.repeats for picture in read_folder(tmp_path, "a thing", groups=groups).pictures} == {10_000}


@pytest.mark.parametrize("groups", [False, True])
def test_the_number_of_a_folder_and_the_repeats_are_bounded_together(tmp_path, groups):
    for name in ("2_cup/a.png", "2_cup/b.png", "4000_fox/a.png", "4000_fox/b.png"):
        paint(tmp_path / name)
    with pytest.raises(DataError, match=r"12,000 times per epoch: 4,000 times by its name, .* 3 repeats\.") as caught:
        read_folder(tmp_path, "a thing", groups=groups, repeats=3)
    error = caught.value
    assert (error.where, error.found) == (str(tmp_path / "4000_fox"), "12,000 times")
    assert (error.expected, error.remedy) == (
        "10,000 times at most", "Lower 'repeats', or the number that the folder's name begins with."
    )  # fmt: skip
    allowed = read_folder(tmp_path, "a thing", groups=groups, repeats=2)
    assert {picture.repeats for picture in allowed.pictures} == {4, 8_000}


def test_the_number_of_a_folder_above_the_groups_counts_nothing(tmp_path):
    top = tmp_path / "20240131_things"
    for place in (top / "20240131_scene" / "fox" / name for name in ("a.png", "b.png")):
        paint(place)
    assert [picture.repeats for picture in read_folder(top, "a thing", groups=True).pictures] == [1, 1]


@pytest.mark.parametrize("groups", [False, True])
def test_a_link_whose_end_no_system_reaches_is_left_out(tmp_path, groups):
    """`Path.is_dir` raises there, and for a folder that may not be entered."""
    for name in ("1_fox/a.png", "1_fox/b.png"):
        paint(tmp_path / name)
    for place in (tmp_path, tmp_path / "1_fox"):
        (place / "link").symlink_to("x" * 300)
    for place in ("cameras.json", "c.png"):
        (tmp_path / "1_fox" / place).symlink_to("x" * 300)
    said = told(tmp_path, groups=groups)
    assert said["link"] == said["1_fox/link"] == said["1_fox/c.png"] == "Left out: a link to nothing, or no file"
    assert len(list(files_of(tmp_path, groups=groups))) == 2
    assert not groups or may_hold_groups(tmp_path) is False


def test_a_metadata_file_that_names_what_cannot_be_reached_is_told(folder):
    (folder / "link").symlink_to("x" * 300)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "link/a.png", "text": "a"}))
    assert told(folder)["link/a.png"] == "Left out: metadata.jsonl names it, but there is no such file"
