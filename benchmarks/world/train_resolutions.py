"""Train the small world's adapters for other sizes than its own, on pictures of those sizes (ResAdapter).

    python3 tools/host.py run benchmarks/world/train_resolutions.py --folder FOLDER [--recipes norms,both] [--out FOLDER] [--scale 1.0]

The base with two levels was trained on pictures of 64 pixels. A recipe says what of it learns 48 and 96, with the
ordinary loss, and makes ``<recipe>.safetensors``. Sizes are drawn by the law of Cheng et al. 2024 (ResAdapter):
p(x) ∝ (x − 64)². A training that was stopped goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.world.command import arguments, say, write_adapter  # noqa: E402
from benchmarks.world.pictures import for_training, rendered  # noqa: E402
from benchmarks.world.render import SIDE  # noqa: E402
from krona_ops import Adapter, TargetRule  # noqa: E402
from krona_ops.targets.parts import NORMS, SAMPLERS  # noqa: E402
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit  # noqa: E402
from krona_train.config import DataConfig, EmaConfig  # noqa: E402
from krona_train.data.resolutions import size_weights  # noqa: E402

SIZES = (48, 96)
"""Pixels along a side, other than the base's own."""
PICTURES = 500
"""Different ones of each size."""


@dataclass(frozen=True)
class Recipe:
    """What of the base learns other sizes."""

    rules: tuple[TargetRule, ...]
    rate: float = 5e-3
    steps: int = 1200
    batch: int = 8
    own: int = 0
    """The share of the base's own size, where the law gives it none."""


_norms = TargetRule(projections=(), part=NORMS, rate=0.6)
_convolutions = TargetRule((2, 2), projections=(), part=SAMPLERS)
RECIPES = {
    "norms": Recipe((_norms,)),
    "convolutions": Recipe((_convolutions,)),
    "both": Recipe((_norms, _convolutions)),
    "both with 64": Recipe((_norms, _convolutions), steps=800, own=4),
    "attention": Recipe((TargetRule((4, 4)),), steps=600),
}


def settings(recipe: Recipe, steps: int) -> TrainConfig:
    """How a recipe is trained in so many steps."""
    return TrainConfig(
        steps=steps,
        batch_size=recipe.batch,
        save_every=40,
        adapter=AdapterConfig(targets=recipe.rules),
        optimizer=OptimizerConfig(
            learning_rate=recipe.rate,
            rate_by_width=0.0,
            weight_decay=0.0,
            schedule="cosine",
            warmup=max(1, steps // 10),
        ),
        ema=EmaConfig(min(0.99, 1 - 10 / steps) if steps > 10 else 0.0),
        data=DataConfig(caption_dropout=0.1),  # drawings are guided, so no prompt counts too
    )


def items(clip: Any, vae: Any, folder: Path, count: int, own: int = 0) -> Iterator[Any]:
    """The first pictures that the base was trained on, of each of the `SIZES`, and of its own with the share ``own``."""
    from krona_train.batches.examples import Example, Item
    from krona_train.comfyui.encode import ComfyEncoder, PictureSize

    encoder = ComfyEncoder(clip, vae)
    captions = [for_training(n).caption for n in range(count)]
    with torch.no_grad():
        encoded = encoder.encode_captions([*captions, ""])
        for side, share in (size_weights(SIZES, SIDE) | {SIDE: own}).items():
            if not share:
                continue
            pictures = rendered(folder / f"training-{side}.rgb", for_training, count, lambda line: None, 20, side)
            size = PictureSize(side, side, 0, 0, side, side)
            for caption, picture in zip(captions, pictures, strict=True):
                latent = encoder.encode_picture(torch.from_numpy(np.array(picture)).float() / 255)
                yield Item(
                    (Example(latent, encoder.condition(encoded[caption], size, caption), caption),), weight=share
                )


def train(name: str, folder: Path, steps: int) -> Adapter:
    """A recipe's adapter, from where an earlier run has stopped."""
    from krona_host.model.small_world import load_world
    from krona_train.comfyui.model import ComfyBackbone
    from krona_train.run.events import Event, Stepped, to_all
    from krona_train.run.folder import Run
    from krona_train.run.state import newest_whole

    recipe = RECIPES[name]
    model, clip, vae = load_world(base="two levels")
    config = settings(recipe, steps)
    data = tuple(items(clip, vae, folder, PICTURES if steps >= recipe.steps else 20))
    place = folder / f"{name}-{steps}"
    losses: list[float] = []
    began = time.monotonic()

    def tell(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.loss)
            if event.step % 20 == 0:
                each = (time.monotonic() - began) / len(losses)
                say(f"{name}: step {event.step} of {steps}: loss {np.mean(losses[-20:]):.4f}, {each:.2f} s each")

    backbone = ComfyBackbone(model, guidance=0.0)
    resume = newest_whole(place) if place.exists() else None
    return fit(backbone, data, config, to_all(Run(place, config, {}), tell), resume)


def main() -> None:
    """One recipe after the other."""
    options = arguments(__doc__, ROOT / "world-work" / "resolutions", recipes=",".join(RECIPES))
    host.start()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.recipes.split(","):
        recipe = RECIPES[name]
        steps = max(2, round(recipe.steps * options.scale))
        adapter = train(name, options.folder, steps)
        made = "benchmarks/world/train_resolutions.py"
        write_adapter(adapter, settings(recipe, steps), options.out / f"{name}.safetensors", made)


if __name__ == "__main__":
    main()
