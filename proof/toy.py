"""A training of a second on the pack's toy model, for whatever is done to its folder;
and what must hold of the folder afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from krona_ops import TargetRule, load
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example, Item, Seen
from krona_train.batches.fingerprint import fingerprint
from krona_train.batches.samples import as_items
from krona_train.config import PreviewConfig, ValidationConfig
from krona_train.data.cache import Cache
from krona_train.run.claim import claim, claim_new
from krona_train.run.events import Event
from krona_train.run.folder import Run
from krona_train.run.layout import METRICS
from krona_train.run.metrics import read
from krona_train.run.state import TrainState, newest_whole, same_run

from .words import in_short

CONFIG = TrainConfig(
    steps=16,
    batch_size=2,
    save_every=3,
    keep_states=2,
    adapter=AdapterConfig(targets=(TargetRule(factors=(8, 4)),)),
    optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0),
    validation=ValidationConfig(every=5, pictures=1),
    preview=PreviewConfig(every=4),
)
RESULT = "adapter.safetensors"


def examples() -> list[Example]:
    """Five encoded pictures."""
    rng = torch.Generator().manual_seed(1)
    return [
        Example(torch.randn(4, 6, 5, generator=rng), torch.randn(7, 24, generator=rng), f"caption {number}")
        for number in range(5)
    ]


@dataclass(frozen=True)
class Trained:
    """What a training has left."""

    folder: Path
    layers: Mapping


def drawings() -> list[Item]:
    """Five drawings in three moments each, for what learns from what the model has drawn."""
    rng = torch.Generator().manual_seed(2)
    items = []
    for n in range(5):
        condition, shape = torch.randn(7, 24, generator=rng), (4, 6, 5)
        x_t, x0 = torch.randn(3, *shape, generator=rng), torch.randn(3, *shape, generator=rng)
        seen = [Seen(x_t[m], 0.9 - 0.3 * m, 2.0 + n, x0[m]) for m in range(3)]
        items.append(Item(tuple(Example(None, condition, f"drawing {n}", shape=shape, seen=each) for each in seen)))
    return items


def train(
    parent: Path,
    watch: Callable[[Event], object] = lambda event: None,
    config: TrainConfig = CONFIG,
    data: Sequence[Example | Item] | None = None,
) -> Trained:
    """Train a run called ``run`` below a folder as the node does it:
    go on with the one that can go on, else begin a new one.

    Args:
        watch: Gets every event after the folder has.
        data: `examples` without it.
    """
    data = examples() if data is None else data
    there = sorted(parent.glob("run*"), reverse=True)
    earlier = same_run(there, config, ToyBackbone().fingerprint(), fingerprint(as_items(data)))
    if earlier and earlier[1].step == config.steps and (earlier[0] / RESULT).is_file():
        return Trained(earlier[0], load(earlier[0] / RESULT).layers)
    with claim(earlier[0]) if earlier else claim_new(parent / "run") as held:
        state = newest_whole(held.folder) if earlier else None
        run = Run(held.folder, config, {}, held=True)

        def sink(event: Event) -> None:
            run(event)
            watch(event)

        return Trained(held.folder, fit(ToyBackbone(), data, config, sink, state, preview=draw).layers)


def draw(adapter: object) -> list[Image.Image]:
    """A preview."""
    return [Image.new("RGB", (64, 64), "red")]


def wrong_in(folder: Path) -> list[str]:
    """What is wrong with what a training has left in a folder, whatever happened to it:
    files are whole or absent, and nothing is left over."""
    wrong = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix in (".part", ".upload"):
            wrong.append(f"{path.name} is left over")
            continue
        try:
            _read(path)
        except Exception as error:
            wrong.append(f"{path.name} is not whole: {in_short(error)}")
    return wrong


def _read(path: Path) -> None:
    if path.name.startswith("state-"):
        TrainState.load(path)
    elif path.suffix == ".safetensors":
        load(path)
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.name == "run.yaml" and not path.read_text(encoding="utf-8").strip():
        raise ValueError("it is empty")


def wrong_with_rows(folder: Path, steps: int = CONFIG.steps) -> list[str]:
    """Whether the metrics tell of each step once."""
    written = [row["step"] for row in read(folder / METRICS) if row["event"] == "step"]
    return [] if written == list(range(1, steps + 1)) else [f"the metrics tell of the steps {written}"]


def wrong_in_cache(folder: Path) -> list[str]:
    """Whether each entry of a cache can be read, and nothing is left over."""
    cache = Cache(folder)
    wrong = [f"{path.name} is left over" for path in folder.rglob("*.part")]
    for path in folder.rglob("*.safetensors"):
        if cache.get(path.stem) is None:
            wrong.append(f"{path.name} is not whole")
    return wrong
