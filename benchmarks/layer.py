"""One adapted linear layer, forward and backward: KronA, its peers and the frozen layer, in turns.

    python3 tools/host.py run benchmarks/layer.py [--threads 2] [--rounds 5] [--flux]

Shapes and token counts are those of SDXL at 1024 pixels, or with ``--flux`` those of Flux (three quarters of an hour,
two rounds). Everybody trains the same factors: peers that choose their own get ours put in their place. Each run is a
forward pass and the gradients of the input and of both factors; the frozen layer's is its forward pass and the gradient
of its input, less than which nobody can do. The answers are compared with float64 first. ``bytes`` is what autograd
keeps for the backward pass, the weight left out; ``x + f`` the input and the factors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks import host
from benchmarks.contest import arguments, finish, require_close, table, take_turns
from krona_ops.updates import kron
from krona_ops.updates.shapes import KronShape, nearest_divisor, split
from krona_train.adapters.attach import forward_with
from krona_train.adapters.layers import KronLayer
from krona_train.adapters.layers.scheme import choose

SDXL = ((1024, 1280, 1280), (4096, 640, 640), (77, 2048, 1280), (1024, 1280, 5120))
"""Tokens, in, out: self-attention at both depths, keys and values of a prompt, feed-forward."""
FLUX = ((4096, 3072, 3072), (4608, 3072, 21504))
REHEARSAL = ((8, 128, 192),)
FACTORS = ((64, 4), (4, 64), (64, 8), (8, 64), (8, 8), (16, 16), (0, 0))
"""``(out_a, in_a)``; zeros: as square as the sizes allow."""
RANKS = (4, 64)
Run = Callable[[Tensor], Tensor]


def contestants(base: nn.Linear, a: Tensor, b: Tensor) -> dict[str, tuple[Run, tuple[Tensor, ...]]]:
    """Name to ``x -> y`` and the tensors that are trained."""
    field: dict[str, tuple[Run, tuple[Tensor, ...]]] = {"frozen": (base, ()), "KronA": _ours(base, a, b)}
    field |= _core(base, a, b) | _lycoris(base, a, b) | _peft(base, a, b)
    for rank in RANKS:
        field[f"LoRA r{rank}"] = _lora(base, rank)
    return field


def _ours(base: nn.Linear, a: Tensor, b: Tensor) -> tuple[Run, tuple[Tensor, ...]]:
    layer = KronLayer(KronShape(*a.shape, *b.shape), "kron", torch.Generator())
    layer.a, layer.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())
    forward = forward_with(layer, base, "layer")
    return lambda x: forward(base.forward, x), (layer.a, layer.b)


def _core(base: nn.Linear, a: Tensor, b: Tensor) -> dict[str, tuple[Run, tuple[Tensor, ...]]]:
    from comfy.weight_adapter.lokr import LokrDiff

    diff = LokrDiff((a.clone(), b.clone(), 1.0, None, None, None, None, None, None))
    factors = (diff.lokr_w1, diff.lokr_w2)

    def weight(x: Tensor) -> Tensor:
        return nn.functional.linear(x, diff(base.weight), base.bias)

    def bypass(x: Tensor) -> Tensor:
        y = base(x)
        return diff.g(y + diff.h(x, y))

    return {"core weight": (weight, factors), "core bypass": (bypass, factors)}


def _lycoris(base: nn.Linear, a: Tensor, b: Tensor) -> dict[str, tuple[Run, tuple[Tensor, ...]]]:
    from lycoris.modules.lokr import LokrModule

    field: dict[str, tuple[Run, tuple[Tensor, ...]]] = {}
    for name, bypass in (("lycoris weight", False), ("lycoris bypass", True)):
        module = LokrModule("layer", base, lora_dim=10**6, alpha=1, factor=8, bypass_mode=bypass)
        module.lokr_w1, module.lokr_w2 = nn.Parameter(a.clone()), nn.Parameter(b.clone())
        field[name] = module, (module.lokr_w1, module.lokr_w2)
    return field


def _peft(base: nn.Linear, a: Tensor, b: Tensor) -> dict[str, tuple[Run, tuple[Tensor, ...]]]:
    from peft import LoKrConfig, get_peft_model

    config = LoKrConfig(r=10**6, alpha=10**6, target_modules=["0"], decompose_factor=8)
    model: Any = get_peft_model(nn.Sequential(base), config)
    layer = model.base_model.model[0]
    layer.lokr_w1["default"], layer.lokr_w2["default"] = nn.Parameter(a.clone()), nn.Parameter(b.clone())
    base.requires_grad_(False)
    return {"peft": (layer, (layer.lokr_w1["default"], layer.lokr_w2["default"]))}


def _lora(base: nn.Linear, rank: int) -> tuple[Run, tuple[Tensor, ...]]:
    down, up = (
        nn.Parameter(torch.randn(rank, base.in_features) / rank),
        nn.Parameter(torch.zeros(base.out_features, rank)),
    )
    return lambda x: base(x) + nn.functional.linear(nn.functional.linear(x, down), up), (down, up)


def bytes_saved(run: Run, x: Tensor, base: nn.Linear) -> int:
    """What autograd keeps for the backward pass, each memory once, without the frozen weights."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(x)
    own = {p.untyped_storage().data_ptr() for p in base.parameters()}
    return sum(size for place, size in kept.items() if place not in own)


def check(field: dict[str, tuple[Run, tuple[Tensor, ...]]], base: nn.Linear, x: Tensor, dy: Tensor) -> None:
    """Everybody's output and gradients against the dense formula in float64: all tokens, because their number decides
    the scheme. Everybody has run once afterwards.

    A factor's gradient adds up tokens × rows of the other factor; roundings of n float32 additions walk 2⁻²⁴ √n far. On
    an AMD EPYC ComfyUI's bypass has 1.07e-5 where that is 3.4e-5 (4096 × 640 by 8 × 8).
    """
    _, factors = field["KronA"]
    a, b, wide = (t.detach().double().requires_grad_() for t in (*factors, x))
    weight = base.weight.double() + kron.materialise(a, b)
    y = nn.functional.linear(wide, weight, base.bias.double())
    expected = (y, *torch.autograd.grad(y, (wide, a, b), dy.double()))
    tokens = x.numel() // x.shape[-1]
    walked = [max(1e-5, 2**-24 * (tokens * other.shape[0]) ** 0.5) for other in (b, a)]
    for name, (run, factors) in field.items():
        out = run(x)
        if name == "frozen" or name.startswith("LoRA"):
            torch.autograd.grad(out, (x, *factors), dy)
            continue
        for what, one, other, tolerance in zip(
            ["y", "dx", "dA", "dB"],
            (out, *torch.autograd.grad(out, (x, *factors), dy)),
            expected,
            [1e-5, 1e-5, *walked],
            strict=True,
        ):
            require_close(f"{what} of {name}", one.detach(), other.detach(), tolerance)


def main() -> None:
    """Measure all shapes and factors, print, write."""
    options = arguments(__doc__.partition("\n")[0], rounds=5, flux=False)
    host.start()
    torch.manual_seed(0)
    rows, cells = [], {}
    for tokens, width, out in REHEARSAL if options.rehearse else FLUX if options.flux else SDXL:
        for wanted in FACTORS:
            square = (nearest_divisor(out, round(out**0.5)), nearest_divisor(width, round(width**0.5)))
            sizes = split((out, width), wanted if any(wanted) else square)
            base = nn.Linear(width, out).requires_grad_(False)
            x, dy = torch.randn(1, tokens, width, requires_grad=True), torch.randn(1, tokens, out)
            a, b = torch.randn(sizes.out_a, sizes.in_a) / sizes.out_a, torch.randn(sizes.out_b, sizes.in_b) * 0.01
            field = contestants(base, a, b)
            check(field, base, x, dy)

            def one(run: Run, factors: tuple[Tensor, ...], x: Tensor = x, dy: Tensor = dy) -> object:
                return torch.autograd.grad(run(x), (x, *factors), dy)

            times = take_turns({name: partial(one, *entry) for name, entry in field.items()}, options.rounds, warm_up=0)
            kept = {name: bytes_saved(run, x, base) for name, (run, _) in field.items()}
            frozen, least = times["frozen"].median, 4 * (x.numel() + a.numel() + b.numel())
            is_dear = sizes.apply_cost("b first") > 2 * sizes.apply_cost("a first")
            scheme = choose(sizes, tokens, exact=True)
            key = f"{tokens} × {width} → {out}, {sizes.out_a} × {sizes.in_a}"
            rows.append(
                (key, scheme, f"{1e3 * frozen:.1f}", *(f"{times[n].median / frozen:.2f}" for n in field if n != "frozen"),
                 f"{kept['KronA'] / 1e6:.2f}", f"{least / 1e6:.2f}")
            )  # fmt: skip
            print(*rows[-1], sep="  ", flush=True)
            cells[key] = {
                "scheme": scheme, "core's order is dear": is_dear, "x + f bytes": least,
                "seconds": {name: t.as_row() for name, t in times.items()}, "bytes kept": kept,
            }  # fmt: skip
    print(
        "\n" + table(("layer", "scheme", "frozen ms", *(n for n in field if n != "frozen"), "MB kept", "x + f"), rows)
    )
    finish("layer-flux" if options.flux else "layer", cells, options, threads=options.threads, rounds=options.rounds)


if __name__ == "__main__":
    main()
