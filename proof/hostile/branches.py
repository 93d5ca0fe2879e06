"""Files of parallel branches, the pack's own and those of MV-Adapter and I2V-Adapter, put on a model and drawn with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch

from krona_ops import Adapter, Full, Kron, LayerName, LowRank, Matrix, blend, inspect_header, load, report, save
from krona_ops.branches.branch import branches_of
from krona_ops.files import load_tensors, read_header
from krona_ops.names.branches import AMONG_VIEWS, GATE, MODES, PROJECTIONS, AmongViews, layer_name
from krona_ops.updates.delta import Delta
from tools.comfyui.server import PACK

from ..driver import Bench, Outcome
from ..judge import unexplained
from ..words import unfit
from .tensors import Tensors, damaged, stored

sys.path.append(str(PACK / "tests" / "support"))
import official_branches
import views

SITES = official_branches.unet_sites(
    {0: (2, 1, 32), 1: (2, 1, 64), 2: (2, 1, 128)}, (1, 128), {1: (3, 1, 128), 2: (3, 1, 64), 3: (3, 1, 32)}
)
"""The self-attentions of the narrow UNet, as diffusers and as the host call them."""
BOMBS = (
    "{}.attn1.processor.to_q_mv.weight",
    "{}.attn1.krona_row.to_q.lokr_w1",
    "{}.attn1.to_out_ff.bias",
    "unet.down_blocks.{}.attentions.0.transformer_blocks.0.attn1.krona_first.gate.diff",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.krona_views.to_v.x{}",
    "adapter.body.{}.weight",
)
"""What the tensors of a header with very many are called."""


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """A file of each kind by a grammar, damaged, and used as the nodes use it."""
    model, prompts = views.model_of("sd21"), [views.conditioning("sd21", seed) for seed in (1, 2)]
    path = bench.folder / "a.safetensors"
    for number in numbers:
        rng = bench.rng(number)
        tensors, metadata = _whole(path, rng)
        fault, data = damaged(tensors, metadata, rng, rng.choice(BOMBS).format)
        path.write_bytes(data)
        yield Outcome(number, fault, tuple(filter(None, _wrong(path, model, prompts, rng))))


def _whole(path: Path, rng: Random) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a file that can be used, or of two that are put together as nobody would."""
    tensors, metadata = _of_one_kind(path, rng)
    if rng.random() < 0.1:
        more, _ = _of_one_kind(path, rng)
        tensors |= more
    return tensors, metadata


def _of_one_kind(path: Path, rng: Random) -> tuple[Tensors, dict[str, str]]:
    names = rng.sample(list(SITES), rng.choice((1, 2, 2, 5, len(SITES))))
    some = {name: SITES[name] for name in names}
    prefix, seed = rng.choice(("", "", "unet.", "diffusion_model.")), rng.randrange(1000)
    kind = rng.randrange(3)
    if kind == 0:
        return _ours(path, some, rng)
    if kind == 1:
        kinds = rng.choice((("mv",), ("ref",), ("mv", "ref")))
        made = official_branches.mv_adapter(some, kinds, seed, prefix=prefix, encoder=rng.random() < 0.2)
    else:
        made = official_branches.i2v_adapter(some, seed, processor=rng.random() < 0.5, prefix=prefix)
    dtype = rng.choice((torch.float32, torch.float16, torch.bfloat16))
    return stored({name: tensor.to(dtype) for name, tensor in made.items()}), {"format": "pt"}


def _ours(path: Path, sites: official_branches.Sites, rng: Random) -> tuple[Tensors, dict[str, str]]:
    """A branch as the pack saves it."""
    layers: dict[LayerName, Delta] = {}
    dice = torch.Generator().manual_seed(rng.randrange(1000))
    chosen = rng.choice((0, 0, 1))
    for mode in rng.sample(MODES, rng.choice((1, 1, 2))):
        for theirs, (width, host) in sites.items():
            site = (theirs, host)[chosen if rng.random() < 0.98 else 1 - chosen]
            for part in PROJECTIONS:
                if rng.random() < 0.8:
                    layers[layer_name(site, mode, part)] = _update(width, dice, rng)
            if rng.random() < 0.8:
                gate = torch.tensor([rng.choice((0.0, 0.5, 1.0, -3.0))])
                layers[layer_name(site, mode, GATE)] = Matrix(Full(gate))
    if rng.random() < 0.1:
        layers[LayerName("diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q")] = _update(128, dice, rng)
    save(Adapter(layers), path)
    return stored(load_tensors(path)), dict(read_header(path).metadata)


def _update(width: int, dice: torch.Generator, rng: Random) -> Delta:
    def matrix(out: int, wide: int) -> Full:
        return Full(torch.randn(out, wide, generator=dice) / width**0.5)

    kind = rng.randrange(3)
    if kind == 0:
        return Kron(matrix(4, 2), matrix(width // 4, width // 2))
    if kind == 1:
        return Matrix(LowRank(matrix(width, 2).value, matrix(2, width).value))
    return Matrix(matrix(width, width))


def _wrong(path: Path, model: Any, prompts: list, rng: Random) -> Iterator[str | None]:
    yield unexplained(lambda: inspect_header(path))
    read: list[Adapter] = []
    yield unexplained(lambda: read.append(load(path)))
    for adapter in read:
        yield from map(unfit, adapter.notes)
        yield unexplained(lambda adapter=adapter: branches_of(adapter))  # type: ignore[misc]
        for name, use in rng.sample(_uses(adapter, path, model, rng), 2):
            wrong = unexplained(use)
            yield wrong and f"{name}: {wrong}"
        yield from _drawn(adapter, model, prompts, rng)


def _uses(adapter: Adapter, path: Path, model: Any, rng: Random) -> list[tuple[str, Callable[[], object]]]:
    """What else is done with a branch."""
    from krona_host.names.canonical import named_for_core

    other = path.with_name("b.safetensors")
    format = rng.choice(("lokr", "lokr", "lokr", "lokr", "kohya", "peft", "lora"))

    def again() -> object:
        named = named_for_core(adapter, format, model if rng.random() < 0.5 else None)
        save(named, other, format, rank=2)
        return branches_of(load(other))

    return [
        ("report", lambda: report(adapter).table("layer")),
        ("save", again),
        ("blend", lambda: branches_of(blend([(adapter, 0.5), (adapter.scaled(0.3), 1.0)], method=rng.choice(("sum", "ties"))))),
        ("scale", lambda: branches_of(adapter.scaled(rng.choice((0.0, -2.0, float("inf")))))),
    ]  # fmt: skip


def _drawn(adapter: Adapter, model: Any, prompts: list, rng: Random) -> Iterator[str | None]:
    """The branch on the model, and mostly a step with it."""
    from krona_host.branches.apply import Use, apply_branches

    count = rng.choice((1, 2, 2, 3, 6))
    shape = rng.choice((*[(1, 4, 8, 8)] * 6, *[(2, 4, 8, 8)] * 3, (1, 4, 5, 7), (1, 3, 8, 8), (4, 8, 8)))
    mode: AmongViews | None = rng.choice((*[None] * 9, *AMONG_VIEWS))
    applied: list[tuple[Any, str]] = []

    def apply() -> None:
        use = Use(
            rng.choice((1.0, 1.0, 0.5, -10.0, 0.0)),
            torch.randn(shape) if rng.random() < 0.9 else None,
            rng.choice((0, 0, 1, 2, 6)),
            rng.choice((None, "positive", "both")),
            *rng.choice((*[(0.0, 1.0)] * 6, (0.5, 1.0), (0.0, 0.2), (0.5, 0.2))),
            mode,
        )
        applied.append(apply_branches(adapter, model, use))

    yield unexplained(apply)
    for patched, said in applied:
        yield unfit(said)
        if rng.random() < 0.7:
            latent = torch.randn(count, 4, 8, 8) if rng.random() < 0.7 else torch.zeros(count, 4, 8, 8)
            wrong = unexplained(lambda patched=patched, latent=latent: draw(patched, prompts, latent))  # type: ignore[misc]
            yield wrong and f"drawing: {wrong}"


def draw(model: Any, prompts: list, latent: torch.Tensor) -> torch.Tensor:
    """One step of the host's sampler on a small latent."""
    import comfy.sample

    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        made: torch.Tensor = comfy.sample.sample(
            model, noise, 1, 3.0, "euler", "normal", *prompts, latent, denoise=1.0, seed=5, disable_pbar=True
        )
    return made
