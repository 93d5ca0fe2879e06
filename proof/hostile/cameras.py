"""Folders of groups and their files with cameras from a stranger: a data set comes of them,
or a word of the pack's own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from krona_train.batches.order import Order
from krona_train.config import DataConfig
from krona_train.data.choices import Captions
from krona_train.data.folder import Reading, files_of, read_folder
from krona_train.data.group_folders import may_hold_groups
from krona_train.data.grouping import size_of_group
from krona_train.data.pictures import Dataset

from ..driver import Bench, Outcome
from ..judge import unexplained
from ..words import unfit
from .dice import WORDS, json_token, json_with_a_hole, mutated

FILE = "cameras.json"
PICTURES = ("front.png", "side.png", "back.png", "2.png", "10.png", "above.png")
_GROUPS = ("fox", "cup", "2_hat", "tree")
_ODD_NAMES = (
    *(
        "a b",
        "名前",
        "\u202efox",
        "a\nb",
        "\x1b[2J",
        os.fsdecode(b"\xff\xfe"),
        "a" * 250,
        "NUL",
        "%s{0}",
        "ﬀ",
        "ẞ",
        "İ",
    ),
    *(
        "²",
        "٣",
        "٣_fox",
        "9" * 240,
        "9" * 240 + "_fox",
        "20240131_fox",
        "99999999999_fox",
        "10000_fox",
        "0_fox",
        "-1_fox",
    ),
    *("1_", "_", "1e9_fox", ".fox"),
)
_ANGLES = (
    *("1e999", "-1e400", "NaN", "Infinity", "361", "-360.0000001", "90.1", "1e-400", "9" * 39, "9" * 41, "9" * 5000),
    *("true", '"0"', "null", "[]", "-0", "0.1e1"),
)
_LARGE = (
    *(
        "[" * 100_000,
        "[" * 8 + "]" * 8,
        "[" + "[]," * 39_000 + "[]]",
        " " * 1_000_001,
        "[" + " " * 900_000 + "]",
        "[]" + " " * 900_000,
    ),
    *(
        "[" + '{"file":"front.png","azimuth":0,"elevation":0},' * 13_000 + "{}]",
        '["' + "\\" * 400_000 + '"]',
        '{"a":' * 9,
        "[" + "0," * 40_001,
    ),
    *(
        "[{" + ",".join(f'"{n}":0' for n in range(30_000)) + "}]",
        f'[{{"file":"{"a" * 900_000}","azimuth":0,"elevation":0}}]',
    ),
)

View = dict[str, Any]
Tree = dict[Path, list[View]]
"""The views of each group's folder, in an order that is not that of their names."""


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """A folder of groups with cameras, and one thing about it changed."""
    pictures = [bench.folder / name for name in ("a.png", "b.png", "c.png")]
    Image.new("RGB", (8, 8), "red").save(pictures[0])
    Image.new("RGB", (16, 8), "red").save(pictures[1])
    pictures[2].write_bytes(b"no picture")
    for number in numbers:
        rng, place = bench.rng(number), bench.place(number)
        top = place / "things"
        tree = _laid_out(top, pictures, rng)
        fault, change = rng.choice(_WAYS)
        change(top, tree, rng)
        yield Outcome(number, fault, tuple(filter(None, _wrong(top, tree if fault == "nothing" else None, rng))))
        shutil.rmtree(place)


def _laid_out(top: Path, pictures: list[Path], rng: Random) -> Tree:
    """Groups of two or more pictures; each with its file, or one above them for all."""
    names = rng.sample(PICTURES, rng.choice((2, 2, 3, 4)))
    views = [
        {"file": name, "azimuth": rng.choice((0, 45, 90.5, -360)), "elevation": rng.choice((0, -90, 20))}
        for name in names
    ]
    tree: Tree = {}
    inside = rng.choice(("", "", "scene"))
    for group in rng.sample(_GROUPS, rng.choice((1, 2, 3))):
        folder = top / inside / group
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).hardlink_to(rng.choice(pictures[:2] if rng.random() < 0.98 else pictures))
        tree[folder] = views
    for folder in tree if rng.random() < 0.6 else [rng.choice((top, top / inside))]:
        (folder / FILE).write_text(json.dumps(views))
    return tree


def _wrong(top: Path, tree: Tree | None, rng: Random) -> Iterator[str | None]:
    readings: list[Reading] = []
    prompt = rng.choice(("a thing", "a thing", ""))
    captions: Captions = rng.choice(("files", "prompt", "folders"))
    yield unexplained(lambda: readings.append(read_folder(top, prompt or "x", captions=captions, groups=True)))
    yield unexplained(lambda: list(files_of(top, groups=True)))
    yield unexplained(lambda: may_hold_groups(top))
    yield unexplained(lambda: read_folder(top, prompt, groups=False))
    for reading in readings:
        yield from (unfit(notice.text()) for notice in reading.notices)
        for picture in reading.pictures:
            yield unfit(picture.name)
            if picture.camera is not None and not (
                abs(picture.camera.azimuth) <= 360 and abs(picture.camera.elevation) <= 90
            ):
                yield f"{picture.camera} came out"
        yield unexplained(lambda reading=reading: _dataset(reading, rng))  # type: ignore[misc]
        if tree is not None:
            yield from _other_order(reading, tree)


def _dataset(reading: Reading, rng: Random) -> None:
    """What a training makes of the pictures before it encodes them."""
    settings = DataConfig(crops=rng.choice((1, 1, 2)), flip=rng.random() < 0.1)
    dataset = Dataset(reading.pictures, settings=settings)
    sizes = [size_of_group(group, 64, settings) for group in dataset.groups]
    Order(sizes, [group[0].repeats for group in dataset.groups], 2, seed=1).batch(3)


def _other_order(reading: Reading, tree: Tree) -> Iterator[str]:
    """What differs from files that are whole; a picture that cannot be read is refused with them."""
    for folder, views in tree.items():
        made = [
            picture
            for picture in reading.pictures
            if isinstance(picture.source, Path) and picture.source.parent == folder
        ]
        found = [
            (Path(str(picture.source)).name, picture.camera and (picture.camera.azimuth, picture.camera.elevation))
            for picture in made
        ]
        if found != [(view["file"], (view["azimuth"], view["elevation"])) for view in views]:
            yield f"other views than in the file: {found}"


# --------------------------------------------------------------------------------------------------------- what is changed


def _files(top: Path) -> list[Path]:
    return sorted(top.rglob(FILE))


def _rewritten(top: Path, rng: Random, change: Callable[[list[View]], str | bytes]) -> None:
    path = rng.choice(_files(top))
    made = change(json.loads(path.read_text()))
    path.write_bytes(made if isinstance(made, bytes) else made.encode("utf-8", "surrogatepass"))


def _nothing(top: Path, tree: Tree, rng: Random) -> None:
    """Nothing."""


def _value(top: Path, tree: Tree, rng: Random) -> None:
    _rewritten(top, rng, lambda views: json_with_a_hole(views, rng))


def _bytes(top: Path, tree: Tree, rng: Random) -> None:
    _rewritten(top, rng, lambda views: mutated(json.dumps(views).encode(), rng))


def _angle(top: Path, tree: Tree, rng: Random) -> None:
    def change(views: list[View]) -> str:
        rng.choice(views)[rng.choice(("azimuth", "elevation"))] = "hole"
        return json.dumps(views).replace('"hole"', rng.choice(_ANGLES))

    _rewritten(top, rng, change)


def _other_name(top: Path, tree: Tree, rng: Random) -> None:
    def change(views: list[View]) -> str:
        view, names = rng.choice(views), [view["file"] for view in views]
        odd = (*WORDS, *PICTURES, FILE, "FRONT.PNG", "./front.png", "../cup/front.png", "front.png/", "front", *names)
        view["file"] = rng.choice(odd)
        return json.dumps(views)

    _rewritten(top, rng, change)


def _other_views(top: Path, tree: Tree, rng: Random) -> None:
    def change(views: list[View]) -> str:
        kind = rng.randrange(5)
        if kind == 0:
            del views[rng.randrange(len(views))]
        elif kind == 1:
            views.append(rng.choice(views))
        elif kind == 2:
            rng.choice(views)[rng.choice((*WORDS, "roll", "distance", "File"))] = rng.choice((0, None, "x", []))
        elif kind == 3:
            views *= rng.choice((0, 2, 1000))
        else:
            del rng.choice(views)[rng.choice(("file", "azimuth", "elevation"))]
        return json.dumps(views)

    _rewritten(top, rng, change)


def _large(top: Path, tree: Tree, rng: Random) -> None:
    _rewritten(top, rng, lambda views: rng.choice(_LARGE))


def _encoding(top: Path, tree: Tree, rng: Random) -> None:
    code = rng.choice(("utf-16", "utf-8-sig", "utf-32", "utf-7", "cp037"))
    start, end = rng.choice((b"", b"\0", b"\xff", b"\xef\xbb\xbf" * 2)), rng.choice((b"", b"\0" * 9, b"\r\n", b"[]"))
    _rewritten(top, rng, lambda views: start + json.dumps(views).encode(code) + end)


def _no_file(top: Path, tree: Tree, rng: Random) -> None:
    """Where the file should be is something else of its name."""
    path = rng.choice(_files(top))
    path.unlink()
    kind = rng.randrange(7)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(
            rng.choice(
                (
                    path.name,
                    "nowhere",
                    "..",
                    "/dev/zero",
                    "/proc/self/mem",
                    "/dev/full",
                    "a" * 300,
                    "front.png",
                    "2.png",
                )
            )
        )
    elif kind == 3:
        path.write_bytes(b"")
    elif kind == 4:
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind == 5:
        path.with_name("CAMERAS.json").write_text(rng.choice(("[]", "{", json.dumps(next(iter(tree.values()))))))
    else:
        path.write_bytes(rng.randbytes(rng.choice((1, 100, 10_000))))


def _several(top: Path, tree: Tree, rng: Random) -> None:
    """Further files of the name, above, below and beside."""
    for _ in range(rng.choice((1, 2))):
        folder = rng.choice((top, *tree))
        views = rng.choice(list(tree.values()))
        text = rng.choice((json.dumps(views), json.dumps(views[::-1]), json_token(rng), json.dumps(views[1:])))
        (folder / rng.choice((FILE, "Cameras.json", "cameras.JSON"))).write_bytes(text.encode("utf-8", "surrogatepass"))


def _pictures(top: Path, tree: Tree, rng: Random) -> None:
    """Pictures come, go, or are called otherwise."""
    folder = rng.choice(list(tree))
    path = rng.choice(sorted(folder.glob("*.png")))
    for _ in range(rng.choice((1, 3))):
        name = rng.choice((*_ODD_NAMES, "front-mask", "FRONT", "Side", "1", "01", "metadata"))
        made = rng.choice((folder, folder, top)) / f"{name}{rng.choice(('.png', '.PNG', '.jpg', ''))}"
        if not made.exists() and len(os.fsencode(made.name)) < 256:
            made.hardlink_to(path)
    if rng.random() < 0.5:
        path.unlink()


def _folders(top: Path, tree: Tree, rng: Random) -> None:
    """Folders with other names, at other places, and links to folders."""
    folder = rng.choice(list(tree))
    kind = rng.choice((0, 0, 0, 1, 2, 3, 4))
    if kind == 0:
        made = folder.with_name(rng.choice(_ODD_NAMES))
        if not made.exists():
            folder.rename(made)
    elif kind == 1:
        deep = top.joinpath("deep", *(["x"] * rng.choice((1, 6, 7, 8, 60))))
        deep.mkdir(parents=True)
        folder.rename(deep / folder.name)
    elif kind == 2:
        (rng.choice((top, folder)) / "link").symlink_to(
            rng.choice((top, folder, top.parent, Path("a" * 300), Path(".")))
        )
    elif kind == 3:
        (folder / rng.choice(("inner", "1_x", ".x", FILE))).mkdir(exist_ok=True) if not (
            folder / FILE
        ).exists() else None
    else:
        for number in range(rng.choice((3, 300))):
            (top / f"{number}").mkdir()


_WAYS: tuple[tuple[str, Callable[[Path, Tree, Random], None]], ...] = (
    ("nothing", _nothing),
    ("a value of another kind", _value),
    ("bytes of the file", _bytes),
    ("an angle", _angle),
    ("a name", _other_name),
    ("other views than pictures", _other_views),
    ("a large or deep file", _large),
    ("another encoding", _encoding),
    ("no plain file", _no_file),
    ("several files", _several),
    ("other pictures", _pictures),
    ("other folders", _folders),
)
