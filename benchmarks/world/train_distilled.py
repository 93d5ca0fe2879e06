"""Train the small world's distilled adapters: few steps and no guidance, from prompts alone.

    python3 tools/host.py run benchmarks/world/train_distilled.py --folder FOLDER [--recipes pairs,pairs-mse] [--out FOLDER] [--scale 1.0]

A recipe is an objective and how it is trained, and makes ``<recipe>.safetensors``. A training that was stopped goes on,
and what the model draws for it stays in the folder's cache.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.world.characters import character  # noqa: E402
from benchmarks.world.command import arguments, say, write_adapter  # noqa: E402
from benchmarks.world.draw import GUIDANCE, STEPS  # noqa: E402
from benchmarks.world.grammar import Scene, caption, draw_scene, who  # noqa: E402
from benchmarks.world.render import SIDE  # noqa: E402
from benchmarks.world.vocabulary import Kind, Paint  # noqa: E402
from krona_ops import Adapter, TargetRule  # noqa: E402
from krona_ops.targets.rules import FEED_FORWARD_LAYERS  # noqa: E402
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit  # noqa: E402
from krona_train.config import EmaConfig, ValidationConfig  # noqa: E402
from krona_train.objectives.guidance_config import GuidanceConfig  # noqa: E402
from krona_train.objectives.pairs_config import PairsConfig  # noqa: E402
from krona_train.objectives.score_matching_config import ScoreMatchingConfig  # noqa: E402
from krona_train.settings.codec import OfKind  # noqa: E402

ALL = ""
"""Of `TargetRule.pattern`: every layer."""
COLOUR = 0.5
"""How often a prompt says the colour."""


@dataclass(frozen=True)
class Recipe:
    """How an adapter is distilled."""

    objective: OfKind
    rules: tuple[TargetRule, ...]
    steps: int
    batch: int
    rate: float
    prompts: int = 256
    """So many different ones, at most: an objective's drawings take them in turn."""
    kept_out: int = 12
    """Items that only the validation sees."""
    calls: int = 1
    """Steps in which pictures are drawn with it, without guidance."""


_EVERY_LAYER = (TargetRule((4, 4), projections=(), pattern=ALL),)
_PAIRS = PairsConfig(
    drawings=128, drawing_steps=STEPS, guidance=GUIDANCE, sampler="dpmpp_2m", scheduler="karras", edges=0, frequencies=0
)
_by_pairs = partial(Recipe, rules=_EVERY_LAYER, steps=300, batch=8, rate=5e-3)
_NEAR_PROMPTS = (TargetRule((2, 2)), TargetRule((2, 2), projections=(), pattern=FEED_FORWARD_LAYERS))
_GUIDANCE = GuidanceConfig(drawings=1024, drawing_steps=STEPS, sampler="dpmpp_2m", scheduler="karras")
_guidance = partial(
    Recipe, rules=_NEAR_PROMPTS, steps=2000, batch=16, rate=1e-2, prompts=512, kept_out=32, calls=STEPS
)
RECIPES: dict[str, Recipe] = {
    "guidance": _guidance(_GUIDANCE),
    "guidance-plain": _guidance(replace(_GUIDANCE, states="plain")),
    "scores": Recipe(ScoreMatchingConfig(guidance=GUIDANCE), _EVERY_LAYER, steps=600, batch=16, rate=1e-3),
    "pairs-mse": _by_pairs(_PAIRS),
    "pairs-complex": _by_pairs(replace(_PAIRS, edges=1, frequencies=1)),
    "pairs-magnitude": _by_pairs(replace(_PAIRS, edges=0, frequencies=1, compare="magnitude")),
    "pairs-magnitude-3": _by_pairs(replace(_PAIRS, edges=0, frequencies=3, compare="magnitude")),
    "pairs-magnitude-10": _by_pairs(replace(_PAIRS, edges=0, frequencies=10, compare="magnitude")),
    "pairs-squared": _by_pairs(replace(_PAIRS, edges=3, frequencies=3, distance="squared")),
    "pairs-pixels": _by_pairs(replace(_PAIRS, edges=0, frequencies=10, compare="magnitude", where="pixels")),
}


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for."""

    kind: Kind
    paint: Paint | None
    """``None`` where it does not say."""
    scene: Scene

    @property
    def text(self) -> str:
        """The prompt."""
        return caption(self.scene, who(self.kind, self.paint))


def asked(stream: int, n: int) -> Asked:
    """The n-th prompt.

    Args:
        stream: 0 to learn from; another one to judge with.
    """
    rng = np.random.default_rng([20_31, stream, n])
    someone = character(2 * int(rng.integers(2500)))
    scene = draw_scene(rng)
    return Asked(someone.kind, someone.paint if rng.uniform() < COLOUR else None, scene)


def settings(recipe: Recipe, steps: int) -> TrainConfig:
    """How a recipe is trained in so many steps."""
    return TrainConfig(
        steps=steps,
        batch_size=recipe.batch,
        save_every=100,
        adapter=AdapterConfig(targets=recipe.rules),
        optimizer=OptimizerConfig(
            learning_rate=recipe.rate,
            rate_by_width=0.0,
            weight_decay=0.0,
            schedule="cosine",
            warmup=max(1, steps // 10),
        ),
        objective=recipe.objective,
        ema=EmaConfig(min(0.99, 1 - 10 / steps) if steps > 10 else 0.0),
        validation=ValidationConfig(every=max(1, steps // 2), pictures=recipe.kept_out),
    )


def prompts(model: Any, clip: Any, vae: Any, texts: Sequence[str]) -> tuple[Any, ...]:
    """Prompts as items, in the order of the texts."""
    from krona_train.batches.examples import Example, Item
    from krona_train.comfyui.encode import ComfyEncoder, PictureSize
    from krona_train.comfyui.sampling import latent_shape

    encoder = ComfyEncoder(clip, vae)
    with torch.no_grad():
        encoded = encoder.encode_captions(texts)
    shape, size = tuple(latent_shape(model, SIDE, SIDE)[1:]), PictureSize(SIDE, SIDE, 0, 0, SIDE, SIDE)
    conditions = {text: encoder.condition(encoded[text], size, text) for text in encoded}
    return tuple(Item((Example(None, conditions[text], text, shape=shape),)) for text in texts)


def train(name: str, folder: Path, steps: int) -> Adapter:
    """A recipe's adapter, from where an earlier run has stopped."""
    from krona_host.model.small_world import load_world
    from krona_train.comfyui.encode import ComfyEncoder
    from krona_train.comfyui.model import ComfyBackbone
    from krona_train.data.cache import Cache
    from krona_train.objectives.kinds import objective_of
    from krona_train.run.events import Event, Stepped, Validated, to_all
    from krona_train.run.folder import Run
    from krona_train.run.state import newest_whole
    from krona_train.session.material import drawn

    recipe = RECIPES[name]
    model, clip, vae = load_world()
    config = settings(recipe, steps)
    objective = objective_of(config.objective, config.prior)
    data = prompts(model, clip, vae, [asked(0, n).text for n in range(recipe.prompts)])
    encoder = ComfyEncoder(clip, vae)
    if (how := objective.rollouts) is not None:
        began = time.monotonic()

        def progress(done: int, total: int, what: str) -> None:
            say(f"{name}: {done} of {total} drawn, {time.monotonic() - began:.0f} s")

        data = drawn(model, data, how, encoder, Cache(folder / "cache"), config, progress)
    place = folder / f"{name}-{steps}"
    losses: list[float] = []
    began = time.monotonic()

    def tell(event: Event) -> None:
        if isinstance(event, Validated):
            say(f"{name}: step {event.step}: {event.loss:.5f} on what is kept out")
        if isinstance(event, Stepped):
            losses.append(event.loss)
            if event.step % 25 == 0:
                each = (time.monotonic() - began) / len(losses)
                say(f"{name}: step {event.step} of {steps}: loss {np.mean(losses[-25:]):.4f}, {each:.2f} s each")

    empty = encoder.encode_captions([""])[""] if "unconditional" in objective.needs else None
    sees = vae if "decoder" in objective.needs else None
    backbone = ComfyBackbone(model, guidance=0.0, without=empty, vae=sees)
    resume = newest_whole(place) if place.exists() else None
    return fit(backbone, data, config, to_all(Run(place, config, {}), tell), resume)


def main() -> None:
    """One recipe after the other."""
    options = arguments(__doc__, ROOT / "world-work" / "distilled", recipes="pairs-mse,pairs-magnitude-3")
    host.start()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.recipes.split(","):
        recipe = RECIPES[name]
        steps = max(2, round(recipe.steps * options.scale))
        adapter = train(name, options.folder, steps)
        made = "benchmarks/world/train_distilled.py"
        write_adapter(adapter, settings(recipe, steps), options.out / f"{name}.safetensors", made)


if __name__ == "__main__":
    main()
