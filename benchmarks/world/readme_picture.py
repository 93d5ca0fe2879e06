"""The README's first pictures: pictures of a subject go in, and what is asked for comes out;
the first three of the eight subjects, none chosen.

    python3 tools/host.py run benchmarks/world/readme_picture.py [--what trained,untrained] [--out docs/images] [--subjects 3]

Everything is as docs/quality.md measures it: the pack's default settings, prompts of `SCENES`, the first of the four
pictures of each. ``untrained`` is the branch that looks at one picture. Two minutes a subject for ``trained``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.world.judge_branches import Gallery  # noqa: E402
from benchmarks.world.subjects import SCENES, Subject, subjects  # noqa: E402
from benchmarks.world.trial import SEEDS, Studio, Trial, as_it_comes  # noqa: E402
from krona_ops import load  # noqa: E402
from krona_train.drawing.lettering import font  # noqa: E402

IMAGES = ROOT / "docs" / "images"
BRANCH = ROOT / "samples" / "world" / "reference.safetensors"
SHOWN = (0, 1, 3, 10)
"""Prompts, by their places in `SCENES`: each pose once, all of them by day, so that the colours can be seen."""
SIDE = 128
"""Of a picture that comes out: twice its 64 pixels. Those that go in are shown as they are."""
GAP, BETWEEN, HEAD = 2, 34, 38
"""Pixels between pictures, between columns (an arrow has room there), and above everything."""
Headings = tuple[tuple[str, str], ...]
"""Words above each column, and smaller ones below them."""
TRAINED: Headings = (
    ("four pictures in", "to train on"),
    ("the base model", "the four prompts, untrained"),
    ("out: the same prompts with the adapter", ""),
)
UNTRAINED: Headings = (
    ("one picture in", "to look at"),
    ("the base model", "the four prompts"),
    ("out: the same prompts with the branch, nothing trained on the picture", ""),
)
INK, PALE = (20, 20, 20), (110, 110, 110)
Block = tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]
"""A subject's pictures that go in, what the base model draws, and what comes out, ``(64, 64, 3)``; four each, or one
that goes in."""


def block(studio: Studio, subject: Subject) -> Block:
    """Train with the default settings and draw what is shown."""
    base, drawn = (
        studio.pictures(trial) for trial in (Trial("base", subject=subject.number), as_it_comes(subject.number))
    )
    return list(subject.training_pictures()), shown(base), shown(drawn)


def looked_at(gallery: Gallery, subject: Subject) -> Block:
    """Draw what is shown with the branch that looks at one of the subject's pictures."""
    prompts = subject.class_prompts()
    model = gallery.with_branch(load(BRANCH), subject)
    base, drawn = (np.concatenate(gallery.drawn(prompts, each)) for each in (gallery.model, model))
    return list(subject.training_pictures(1)), shown(base), shown(drawn)


def shown(pictures: np.ndarray) -> list[np.ndarray]:
    """The first picture of each prompt that is shown, of ``(12 * 4, 64, 64, 3)``."""
    return [pictures[scene * SEEDS] for scene in SHOWN]


def sheet(blocks: list[Block], headings: Headings) -> Image.Image:
    """A row for each subject, below the words that say what is seen."""
    lefts = (0, SIDE + BETWEEN, 2 * (SIDE + BETWEEN))
    width, height = lefts[2] + 4 * (SIDE + GAP) - GAP, HEAD + len(blocks) * (SIDE + 3 * GAP) - 3 * GAP
    made = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(made)
    for left, (words, more) in zip(lefts, headings, strict=True):
        pen.text((left, 2), words, fill=INK, font=font(14))
        pen.text((left, 21), more, fill=PALE, font=font(11))
    for number, scene in enumerate(SHOWN):
        pen.text((lefts[2] + number * (SIDE + GAP), 21), asked(scene), fill=PALE, font=font(11))
    for number, (given, base, drawn) in enumerate(blocks):
        top = HEAD + number * (SIDE + 3 * GAP)
        _square(made, given, lefts[0], top)
        _square(made, base, lefts[1], top)
        _arrow(pen, lefts[2] - BETWEEN, top + SIDE // 2)
        for place, picture in enumerate(drawn):
            made.paste(_scaled(picture, SIDE), (lefts[2] + place * (SIDE + GAP), top))
    return made


def asked(scene: int) -> str:
    """A prompt of `SCENES` in a few words: pose, accessory and place."""
    pose, accessory, place, _ = SCENES[scene]
    return ", ".join(word for word in (pose, accessory, place) if word != "none")


def _square(onto: Image.Image, pictures: list[np.ndarray], left: int, top: int) -> None:
    """Four pictures, two by two, in the place of a large one; or that one."""
    if len(pictures) == 1:
        onto.paste(_scaled(pictures[0], SIDE), (left, top))
        return
    side = (SIDE - GAP) // 2
    for number, picture in enumerate(pictures):
        place = left + number % 2 * (side + GAP), top + number // 2 * (side + GAP)
        onto.paste(_scaled(picture, side), place)


def _scaled(picture: np.ndarray, side: int) -> Image.Image:
    how = Image.Resampling.NEAREST if side >= len(picture) else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize((side, side), how)


def _arrow(pen: ImageDraw.ImageDraw, left: int, middle: int) -> None:
    pen.line((left + 8, middle, left + BETWEEN - 12, middle), fill=PALE, width=3)
    tip = left + BETWEEN - 6
    pen.polygon(((tip, middle), (tip - 8, middle - 6), (tip - 8, middle + 6)), fill=PALE)


def main() -> None:
    """Train, draw, put together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="trained,untrained")
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.add_argument("--subjects", type=int, default=3)
    options = parser.parse_args()
    host.start()
    made = {}
    if "trained" in options.what.split(","):
        studio = Studio()
        made["in-and-out"] = sheet([block(studio, subject) for subject in subjects(options.subjects)], TRAINED)
    if "untrained" in options.what.split(","):
        gallery = Gallery()
        made["one-picture"] = sheet([looked_at(gallery, each) for each in subjects(options.subjects)], UNTRAINED)
    for name, picture in made.items():  # every pixel as it was drawn: a palette of 256 colours can be seen
        picture.save(options.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
