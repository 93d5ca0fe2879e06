"""Files with MV-Adapter's condition encoder, damaged, and the control that comes of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch

from krona_ops import inspect_header, load
from tools.comfyui.server import PACK

from ..driver import Bench, Outcome
from ..judge import unexplained
from .branches import draw
from .tensors import Tensors, damaged, filled, packed, stored

sys.path.append(str(PACK / "tests" / "support"))
import views

if TYPE_CHECKING:
    from krona_host.views.encoder import Encoder

PREFIX = "adapter."
"""What all its tensors' names begin with."""
BOMBS = (
    f"{PREFIX}body.{{}}.resnets.0.block1.weight",
    f"{PREFIX}body.0.resnets.{{}}.block2.bias",
    f"{PREFIX}x{{}}",
    "{}.attn1.processor.to_k_ref.weight",
)
"""What the tensors of a header with very many are called."""


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """An encoder for a family, damaged, and used as the node uses it."""
    models = {family: views.model_of(family) for family in views.KINDS}
    path = bench.folder / "mvadapter.safetensors"
    for number in numbers:
        rng = bench.rng(number)
        tensors = _whole(rng)
        fault, data = damaged(tensors, {"format": "pt"}, rng, rng.choice(BOMBS).format)
        if rng.random() < 0.15:
            fault, data = "another layout", _other_layout(tensors, rng)
        path.write_bytes(data)
        yield Outcome(number, fault, tuple(filter(None, _wrong(path, models, rng))))


def _whole(rng: Random) -> Tensors:
    """The tensors of an encoder that can be used, perhaps with some of the attention's."""
    from krona_host.views.encoder import PATCHES, Layout

    channels = rng.choice((*[views.NARROW] * 4, *[(2, 3, 4, 4)] * 4, (1, 1, 1, 1), (2, 3, 4, 5)))
    shapes = Layout(rng.choice(list(PATCHES.values())), channels, rng.choice((*[1] * 9, 3, 2))).shapes()
    dice = torch.Generator().manual_seed(rng.randrange(1000))
    dtype = rng.choice((torch.float32, torch.float16, torch.bfloat16, torch.float64))
    made = {name: torch.randn(shape, generator=dice).to(dtype) for name, shape in shapes.items()}
    if rng.random() < 0.3:
        site = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
        made |= {f"{site}.to_{part}_mv.weight": torch.zeros(4, 4) for part in "qkv"}
    return stored(made)


def _other_layout(tensors: Tensors, rng: Random) -> bytes:
    """The tensors that tell how an encoder is built tell something else."""
    tensors = dict(tensors)
    for _ in range(rng.choice((1, 2, 5))):
        which = rng.choice(("conv_in.weight", "body.{}.resnets.0.block1.weight", "body.0.resnets.0.block2.weight"))
        name = f"{PREFIX}{which.format(rng.randrange(5))}"
        sizes = [
            rng.choice((1, 1, 1, 2, 3, 384, 1536, 4096, 2**16, 2**20, 2**22, 0))
            for _ in range(rng.choice((4, 4, 4, 3, 5)))
        ]
        tensors[name] = filled(tuple(sizes), rng.choice(("U8", "F4", "F16")), rng)
    return packed(tensors, {})


def _wrong(path: Path, models: dict[str, Any], rng: Random) -> Iterator[str | None]:
    from krona_host.views.encoder import layout_of, load_encoder

    yield unexplained(lambda: layout_of(path))
    if rng.random() < 0.3:
        yield unexplained(lambda: inspect_header(path))
        yield unexplained(lambda: load(path))
    read: list[Encoder] = []
    yield unexplained(lambda: read.append(load_encoder(path)))
    for encoder in read:
        yield from _used(encoder, models, rng)


def _used(encoder: Encoder, models: dict[str, Any], rng: Random) -> Iterator[str | None]:
    """The features for a latent; and a step of a model with them, which it may not fit."""
    from krona_host.views.condition import ViewControl, with_views

    count, rows = rng.choice((1, 2, 3)), rng.choice((1, 2, 6))
    size = rng.choice(((8, 8), (5, 7), (1, 1), (9, 2)))
    control = ViewControl(encoder, torch.rand(count, 6, 64, 64))
    chunks = rng.choice((1, 2))
    x = torch.randn(chunks * rows, 4, *size).to(rng.choice((torch.float32, torch.bfloat16)))
    yield unexplained(lambda: control.get_control(x, torch.ones(len(x)), {}, chunks, {}))
    if rng.random() < 0.5 and encoder.layout.channels == views.NARROW:
        family = rng.choice(list(models))
        prompts = [views.conditioning(family, seed) for seed in (1, 2)]
        start, end = rng.choice(((0.0, 1.0), (0.0, 1.0), (0.5, 0.2)))
        call: Callable[[], object] = lambda: draw(  # noqa: E731
            models[family],
            with_views(prompts, control, rng.choice((1.0, -3.0, 0.0)), start, end),
            torch.zeros(rows, 4, 8, 8),
        )
        wrong = unexplained(call)
        yield wrong and f"drawing: {wrong}"
