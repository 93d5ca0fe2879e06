"""A picture of what was learnt: for each subject its training pictures, then four prompts:
real, and drawn by everybody.

python3 tools/host.py run benchmarks/world/show.py --out docs/images/quality-subjects.png [--subjects 4] [--contenders '{"lora 4": 5e-4}']
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.world.contenders import SETTINGS  # noqa: E402
from benchmarks.world.subjects import subjects  # noqa: E402
from benchmarks.world.trial import SEEDS, Studio, Trial, as_it_comes  # noqa: E402
from krona_train.drawing.lettering import font  # noqa: E402

SHOWN = (1, 3, 6, 11)
"""Prompts, by their places in `benchmarks.world.subjects.SCENES`."""
SIDE, GAP, HEAD = 96, 8, 22


def column(pictures: np.ndarray) -> list[np.ndarray]:
    """The first picture of each prompt that is shown, of 12 × 4."""
    return [pictures[n * SEEDS] for n in SHOWN]


def main() -> None:
    """Train, draw, put together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--contenders", type=json.loads, default={})
    options = parser.parse_args()
    host.start()
    studio = Studio()
    names = ["trained on", "real", "base", SETTINGS, *options.contenders]
    blocks = []
    for subject in subjects(options.subjects):
        drawn = [
            list(subject.training_pictures()),
            column(subject.real_pictures(SEEDS)),
            column(studio.pictures(Trial("base", subject=subject.number))),
            column(studio.pictures(as_it_comes(subject.number))),
        ]
        drawn += [
            column(studio.pictures(Trial(name, rate, subject.number))) for name, rate in options.contenders.items()
        ]
        blocks.append(drawn)
    width = len(names) * (4 * SIDE + GAP)
    sheet = Image.new("RGB", (width, HEAD + len(blocks) * (SIDE + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for x, name in enumerate(names):
        pen.text((x * (4 * SIDE + GAP) + 2, 3), name, fill="black", font=font(14))
        for y, drawn in enumerate(blocks):
            for n, picture in enumerate(drawn[x]):
                tile = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                sheet.paste(tile, (x * (4 * SIDE + GAP) + n * SIDE, HEAD + y * (SIDE + GAP)))
    sheet.save(options.out, optimize=True)


if __name__ == "__main__":
    main()
