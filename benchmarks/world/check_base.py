"""Does the base model draw what it is told? Attribute accuracy of its samples, by the judges, and a sheet of them.

python3 tools/host.py run benchmarks/world/check_base.py [--base FILE] [--judges FILE] [--count 512] [--sheet base.png]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.world.autoencoder import pixels  # noqa: E402
from benchmarks.world.command import say  # noqa: E402
from benchmarks.world.draw import GUIDANCE, draw  # noqa: E402
from benchmarks.world.grammar import caption, who  # noqa: E402
from benchmarks.world.judges import HEADS  # noqa: E402
from benchmarks.world.pictures import held_out  # noqa: E402
from benchmarks.world.train_judges import truths  # noqa: E402
from krona_train.evaluation.small_world import FILE as JUDGES  # noqa: E402
from krona_train.evaluation.small_world import Attributes, SmallWorldJudge  # noqa: E402


def accuracy(judge: Attributes, pictures: np.ndarray, shown: list) -> dict[str, float]:
    """Share of pictures that show what was asked for, by attribute."""
    with torch.no_grad():
        scores = judge(pixels(pictures))
    truth = truths(shown)
    return {name: float((scores[name].argmax(1) == truth[name]).float().mean()) for name in HEADS}


def sheet(pictures: np.ndarray, columns: int = 12) -> np.ndarray:
    """Pictures ``(N, side, side, 3)`` in rows, the last one filled up with black."""
    columns = min(columns, len(pictures))
    whole = np.concatenate([pictures, np.zeros_like(pictures[: -len(pictures) % columns])])
    return np.concatenate([np.concatenate(list(whole[n : n + columns]), 1) for n in range(0, len(whole), columns)])


def main() -> None:
    """Draw, judge, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--judges", type=Path, default=JUDGES)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--sheet", type=Path)
    chosen = parser.parse_args()
    host.start()
    from krona_host.model import small_world as world

    with torch.inference_mode():
        model, clip, vae = world.load_world(chosen.base or world.FILE)
    shown = [held_out(4 * n) for n in range(chosen.count)]  # scenes that nothing was trained on
    captions = [caption(each.scene, who(each.character.kind, each.character.paint)) for each in shown]
    pictures = draw(model, clip, vae, captions, list(range(chosen.count)), guidance=chosen.guidance)
    if chosen.sheet:
        Image.fromarray(sheet(pictures[:96])).save(chosen.sheet)
        say("\n".join(captions[:12]))
    if chosen.judges.exists():
        for name, rate in accuracy(SmallWorldJudge(chosen.judges).attributes, pictures, shown).items():
            say(f"{name}: {100 * rate:.1f} % as asked")


if __name__ == "__main__":
    main()
