"""Train the small world's parallel branches: on many characters, for those that nobody has seen.

    python3 tools/host.py run benchmarks/world/train_branches.py --folder FOLDER [--modes reference,first,views] [--out samples/world] [--scale 1.0]

An hour of one core for `reference`, half of one for `views`. A training that was stopped goes on. Characters are those
of the base model's training, five pictures each.

`first` is not trained: its numbers are those of `reference` in OUT. It reads the first picture alone, in one pass of the
frozen model at no noise, as `reference` reads its picture; and a character's pictures here have no order, so that any of
them may be the first. Then the two trainings are one computation, on the same draws bit for bit, which
tests/train/objectives/test_branch.py holds.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.world.characters import character  # noqa: E402
from benchmarks.world.command import arguments, say  # noqa: E402
from benchmarks.world.grammar import caption, draw_scene, who  # noqa: E402
from benchmarks.world.pictures import Shot, rendered  # noqa: E402
from benchmarks.world.render import SIDE  # noqa: E402
from krona_ops import Adapter, LayerName, TargetRule, load, save  # noqa: E402
from krona_ops.names.branches import Mode, layer_name, place_of  # noqa: E402
from krona_ops.updates.reading import in_metadata  # noqa: E402
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit  # noqa: E402
from krona_train.objectives.branch_config import BranchConfig  # noqa: E402

CHARACTERS, PICTURES = 2500, 5
"""To learn from: so many characters, so many pictures of each."""
COLOUR = 0.25
"""How often a caption says the colour; the rest must come from what the branch looks at."""


@dataclass(frozen=True)
class Recipe:
    """How a branch is trained."""

    objective: BranchConfig
    factors: tuple[int, int]
    groups: int
    """Of a step."""
    steps: int


_ALWAYS: dict[str, Any] = {"drop_text": 0, "drop_source": 0, "drop_both": 0, "embedded_guidance": 0}
_A_TENTH = {**_ALWAYS, "drop_text": 0.1, "drop_source": 0.1, "drop_both": 0.1}
"""What the settings' defaults were when `views` was trained."""
RECIPES: dict[Mode, Recipe] = {
    # Many groups of few pictures are many characters and noise levels in a step. A branch that counts for the wanted rows
    # alone learns nothing from a group without its source.
    "reference": Recipe(BranchConfig(mode="reference", targets=2, **_ALWAYS), (2, 2), 8, 5000),
    "views": Recipe(BranchConfig(mode="views", **_A_TENTH), (4, 4), 4, 3000),
}
MODES: tuple[Mode, ...] = ("reference", "first", "views")
"""In the order in which they are made: `first` from `reference`."""
RATE, FASTER = 5e-4, 20.0
"""Gates learn at 2e-2, factors at 1e-2."""


def shot(n: int) -> Shot:
    """The n-th picture: even characters, as for pre-training, each in several scenes."""
    number = 2 * (n // PICTURES)
    rng = np.random.default_rng([20_30, n])
    someone, scene = character(number), draw_scene(rng)
    paint = someone.paint if rng.uniform() < COLOUR else None
    return Shot(number, scene, caption(scene, who(someone.kind, paint)), int(rng.integers(2**31)))


def settings(mode: Mode, steps: int) -> TrainConfig:
    """How the branches of the world are trained."""
    recipe = RECIPES[mode]
    return TrainConfig(
        steps=steps,
        batch_size=recipe.groups,
        save_every=500,
        adapter=AdapterConfig(targets=(TargetRule(recipe.factors, rate=FASTER),)),
        optimizer=OptimizerConfig(learning_rate=RATE, rate_by_width=0.0, schedule="cosine", warmup=steps // 20),
        objective=recipe.objective,
    )


@torch.inference_mode()
def groups(clip: Any, vae: Any, pictures: NDArray[np.uint8]) -> list[Any]:
    """The characters' pictures, encoded."""
    from krona_train.batches.examples import Example, Group, Item
    from krona_train.comfyui.encode import PictureSize, TextCondition

    latents = torch.cat(
        [
            vae.encode(torch.from_numpy(part.copy()).float() / 255)
            for part in np.array_split(pictures, max(1, len(pictures) // 250))
        ]
    )
    texts: dict[str, Any] = {}
    size = PictureSize(SIDE, SIDE, 0, 0, SIDE, SIDE)
    examples = []
    for n, latent in enumerate(latents):
        said = shot(n).caption
        if said not in texts:
            embedding, pooled = clip.encode_from_tokens(clip.tokenize(said), return_pooled=True)
            texts[said] = TextCondition(embedding, {} if pooled is None else {"pooled_output": pooled}, size)
        examples.append(Item((Example(latent.clone(), texts[said], said),)))
    return [Group(tuple(examples[n : n + PICTURES])) for n in range(0, len(examples), PICTURES)]


def train(mode: Mode, folder: Path, steps: int, characters: int = CHARACTERS) -> Adapter:
    """A branch of a mode, from where an earlier run has stopped."""
    from krona_host.model.small_world import load_world
    from krona_train.comfyui.encode import ComfyEncoder
    from krona_train.comfyui.model import ComfyBackbone
    from krona_train.run.events import Event, Stepped, to_all
    from krona_train.run.folder import Run
    from krona_train.run.state import newest_whole

    model, clip, vae = load_world()
    pictures = rendered(folder / "groups.u8", shot, characters * PICTURES, say)
    data = groups(clip, vae, pictures)
    config = settings(mode, steps)
    place = folder / f"{mode}-{steps}"
    losses, began = [], time.monotonic()

    def tell(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.loss)
            if event.step % 50 == 0:
                each = (time.monotonic() - began) / len(losses)
                say(f"{mode}: step {event.step} of {steps}: loss {np.mean(losses[-50:]):.4f}, {each:.2f} s each")

    resume = newest_whole(place) if place.exists() else None
    empty = ComfyEncoder(clip, vae).encode_captions([""])[""]
    backbone = ComfyBackbone(model, without=empty, guidance=0.0)
    return fit(backbone, data, config, to_all(Run(place, config, {}), tell), resume)


def first_of(reference: Adapter) -> Adapter:
    """The branch of the mode `first` that reads the first picture alone and has the numbers of one of `reference`."""

    def renamed(name: LayerName) -> LayerName:
        place = place_of(name)
        return name if place is None else layer_name(place.site, "first", place.part)

    layers = {renamed(name): delta for name, delta in reference.layers.items()}
    return replace(reference, layers=layers).with_metadata(**in_metadata("alone"))


def main() -> None:
    """One mode after the other."""
    options = arguments(__doc__, ROOT / "samples" / "world", modes=",".join(MODES))
    host.start()
    from krona_host.model.small_world import BRANCHES

    for mode in [mode for mode in MODES if mode in options.modes.split(",")]:
        if mode == "first":
            adapter = first_of(load(options.out / BRANCHES["reference"].name))
        else:
            adapter = train(mode, options.folder, max(2, round(RECIPES[mode].steps * options.scale)))
        out = options.out / BRANCHES[mode].name
        save(adapter.to(dtype=torch.float16).with_metadata(made="benchmarks/world/train_branches.py"), out)
        say(f"written {out}: {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
