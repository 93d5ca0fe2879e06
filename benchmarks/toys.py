"""One step onto a ring of eight Gaussians: how near score matching comes, by its settings, where the truth is known.

    python3 tools/host.py run benchmarks/toys.py [--steps 400]

The model is that of `benchmarks.plane`. Energy distances are of 2,000 points to 2,000 of the truth; between two draws of the
truth it is 0 ± 0.002.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks.contest import Times, arguments, finish, table  # noqa: E402
from benchmarks.plane import NO_CLASS, Mixture, PlaneBackbone, drawn, energy_distance, learn, ring  # noqa: E402
from krona_ops import Adapter, TargetRule  # noqa: E402
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit  # noqa: E402
from krona_train.adapters.attach import attached  # noqa: E402
from krona_train.adapters.targets import targets_of  # noqa: E402
from krona_train.adapters.trainee import build_layers  # noqa: E402
from krona_train.batches.examples import Example  # noqa: E402
from krona_train.config import EmaConfig  # noqa: E402
from krona_train.objectives.score_matching_config import ScoreMatchingConfig  # noqa: E402

ADAPTER = AdapterConfig(
    targets=(TargetRule((4, 4), (), "hidden"), TargetRule(projections=(), pattern="proj", kind="difference")),
    init_std=0.1,
)
"""Kronecker products on what is square, differences on the rest: 4,770 numbers, 13 % of the model's."""
SCORE_MATCHING = TrainConfig(
    steps=300,
    batch_size=64,
    save_every=0,
    adapter=ADAPTER,
    optimizer=OptimizerConfig(learning_rate=5e-4, betas=(0.0, 0.999), weight_decay=0.0),
    objective=ScoreMatchingConfig(guidance=1.0, score_rate=5e-4),
)
"""Without guidance, so that the ring itself is what is to be drawn."""
WAYS: Mapping[str, Mapping[str, Any]] = {
    "as the settings are": {},
    "one step of the score": {"score_steps": 1},
    "four steps of the score": {"score_steps": 4},
    "stopped gradient": {"gradient": "stopped"},
    "squared distance (SiD)": {"distance": "l2"},
    "no average": {"ema": EmaConfig(0.0)},
}
NOTHING = Adapter({})


def no_class(count: int) -> list[Example]:
    """Prompts that say nothing."""
    return [Example(None, torch.tensor(NO_CLASS), f"prompt {n}", shape=(2, 1, 1)) for n in range(count)]


def judged(backbone: PlaneBackbone, adapter: Adapter, mixture: Mixture, steps: int) -> dict[str, float]:
    """What is drawn in so many steps: its energy distance to the truth, how many modes have a quarter of their share or
    more, and how many points are at one."""
    layers = build_layers(targets_of(backbone, ADAPTER), ADAPTER, 0, backbone.device, backbone.net.get_parameter)
    layers = {name: layer for name, layer in layers.items() if name in adapter.layers}
    for name, layer in layers.items():
        layer.begin_at(adapter.layers[name])
    truth, _ = mixture.draw(2000, torch.Generator().manual_seed(5))
    with attached(backbone, layers):
        points = drawn(backbone, torch.full((2000,), NO_CLASS), steps)
    shares = mixture.modes(points)
    modes = int((shares > 0.25 / len(shares)).sum())
    return {"energy distance": energy_distance(points, truth), "modes": modes, "at a mode": float(shares.sum())}


def main() -> None:
    """Learn the ring, and try each way once."""
    options = arguments(str(__doc__).splitlines()[0], steps=400, threads=1)
    steps, learnt = (1, 2) if options.rehearse else (options.steps, 3000)
    mixture, backbone = ring(), PlaneBackbone(8)
    learn(backbone, mixture, learnt)
    results: dict[str, dict[str, Any]] = {
        f"the model, {count} step{'s' if count > 1 else ''}": judged(backbone, NOTHING, mixture, count)
        for count in (1, 30)
    }
    for way, changes in WAYS.items():
        ema = changes.get("ema", SCORE_MATCHING.ema)
        own = {name: value for name, value in changes.items() if name != "ema"}
        objective = ScoreMatchingConfig(**{"guidance": 1.0, "score_rate": 5e-4, **own})
        config = replace(SCORE_MATCHING, steps=steps, ema=ema, objective=objective)
        began = time.perf_counter()
        adapter = fit(backbone, no_class(8), config)
        seconds = Times((time.perf_counter() - began,)).as_row()
        results[f"one step, {way}"] = {**judged(backbone, adapter, mixture, 1), "seconds": seconds}
    rows = [
        (name, f"{row['energy distance']:.4f}", row["modes"], f"{row['at a mode']:.1%}", _seconds(row))
        for name, row in results.items()
    ]
    print(table(("a ring of eight Gaussians", "energy distance", "modes", "points at one", "seconds"), rows))
    finish("toys", {"ring": results}, options, steps=steps, threads=options.threads)


def _seconds(row: Mapping[str, Any]) -> str:
    return f"{row['seconds']['median']:.1f}" if "seconds" in row else ""


if __name__ == "__main__":
    main()
