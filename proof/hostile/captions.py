"""Captions, metadata files and their names from a stranger: a data set comes of them, or a word of the pack's own."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from PIL import Image

from krona_train.data.captions import class_caption, orders, tags
from krona_train.data.folder import check_folder, read_folder

from ..driver import Bench, Outcome
from ..judge import foreign
from ..words import unfit
from .dice import WORDS, json_with_a_hole, mutated

_PIECES = (
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ", ",
        ":",
        "\\",
        ":)",
        ":(",
        "sks dog",
        "tag",
        "(a:1.2)",
        "\n",
        "  ",
        "　",
        "，",
        "'s",
        "\ufeff",
    ),
    *WORDS,
)


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """A text file, or a metadata file, beside one picture."""
    picture = bench.folder / "dog.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    for number in numbers:
        rng, folder = bench.rng(number), bench.place(number)
        (folder / "dog.png").hardlink_to(picture)
        fault, name, data = _file(rng)
        (folder / name).write_bytes(data)
        yield Outcome(number, fault, tuple(filter(None, _wrong(folder, rng))))
        shutil.rmtree(folder)


def _wrong(folder: Path, rng: Random) -> Iterator[str | None]:
    readings: list = []
    trigger = rng.choice(("sks dog", "(", "sks", "\\", "a" * 100, " "))
    yield foreign(
        lambda: readings.append(read_folder(folder, "a dog", captions=rng.choice(("files", "prompt", "folders"))))
    )
    yield foreign(lambda: check_folder(folder, "a dog"))
    for reading in readings:
        yield from (unfit(notice.text()) for notice in reading.notices)
        for picture in reading.pictures:
            yield foreign(partial(_read, picture.caption))
            yield foreign(partial(class_caption, picture.caption, trigger, ""))


def _read(caption: str) -> object:
    return tags(caption), orders(caption, 8, keep=1), caption.encode()


def _file(rng: Random) -> tuple[str, str, bytes]:
    kind = rng.randrange(4)
    if kind == 0:
        text = "".join(rng.choices(_PIECES, k=rng.choice((1, 5, 30, 300))))
        data = text.encode(rng.choice(("utf-8", "utf-16", "latin-1")), "replace")
        return (
            "a caption",
            rng.choice(("dog.txt", "dog.caption", "dog.png.txt")),
            mutated(data, rng) if rng.random() < 0.3 else data,
        )
    if kind == 1:
        piece = rng.choice(("tag, ", "(", ")", "([{", "(a, ", "])", ":) ", "\\(", "x"))
        return (
            "a long caption",
            "dog.txt",
            (piece * (rng.choice((100, 19_000, 60_000, 500_000)) // len(piece))).encode(),
        )
    row = {
        "file_name": rng.choice(("dog.png", "../dog.png", "DOG.PNG", "x/y.png", "C:\\x.png", "/etc/passwd")),
        "text": rng.choice(WORDS),
        "caption": "a",
    }
    if kind == 2:
        lines = [json_with_a_hole(row, rng) for _ in range(rng.choice((1, 3)))]
        return "metadata.jsonl", "metadata.jsonl", mutated("\n".join(lines).encode("utf-8", "surrogatepass"), rng)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(list(row))
    writer.writerows(
        [[*row.values()], [rng.choice(WORDS)] * rng.randrange(6), ["dog.png", "x" * rng.choice((5, 200_000))]]
    )
    return "metadata.csv", "metadata.csv", mutated(out.getvalue().encode("utf-8", "surrogatepass"), rng)
