"""Writes the small world's sample subjects, ``samples/world/<kind>/1.png`` and on:
what the examples and the demo train on.

python3 tools/host.py run benchmarks/world/make_samples.py [--out samples/world]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks.world.subjects import Subject  # noqa: E402

SHIPPED = ROOT / "samples" / "world"
SAMPLES = {"robot": Subject(0), "bird": Subject(4)}


def write(folder: Path) -> list[Path]:
    """All pictures."""
    paths = []
    for name, subject in SAMPLES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n, picture in enumerate(subject.training_pictures(), 1):
            paths.append(folder / name / f"{n}.png")
            Image.fromarray(picture).save(paths[-1], optimize=True)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    for path in write(parser.parse_args().out):
        sys.stdout.write(f"{path}  {path.stat().st_size} bytes\n")
