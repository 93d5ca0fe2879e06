"""Renders the sample subject that the pack ships: five pictures of one small ceramic robot.

    python3 tools/generate/samples.py [--out samples/krobot] [--jobs 2]

Needs Pillow and numpy only. The same numpy and Pillow write the same bytes.
"""

import argparse
import multiprocessing
import os
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from tools.krobot.scenes import SCENES  # noqa: E402  (needs the line above)

SHIPPED = PACK / "samples" / "krobot"
SIZE = 512


def write_sample(name: str, folder: Path, size: int = SIZE) -> Path:
    """Render one scene into ``folder/<name>.jpg``."""
    path = folder / f"{name}.jpg"
    # 4:4:4: with halved chroma the coral tiles bleed into their cream joints
    SCENES[name]().picture(size).save(path, quality=90, subsampling=0, optimize=True)
    return path


def write_samples(folder: Path, jobs: int | None = None) -> list[Path]:
    """Render all scenes, several at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    work = [(name, folder) for name in SCENES]
    # spawn: a fork of a process with threads, such as one that has run torch, may hang
    with multiprocessing.get_context("spawn").Pool(jobs or min(len(work), os.cpu_count() or 1)) as pool:
        return pool.starmap(write_sample, work, chunksize=1)


def main() -> None:
    """Write the pictures and say where they are."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=SHIPPED)
    options.add_argument("--jobs", type=int)
    chosen = options.parse_args()
    for path in write_samples(chosen.out, chosen.jobs):
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
