"""The ways to compute a Kronecker update beside a frozen layer, in turns: which one does a device do best?

    python3 tools/host.py run benchmarks/ways.py [--rounds 7] [--cpu]      on a GPU, if there is one, in bfloat16; on a CPU in float32

All are exact, and keep the input and the factors only; a run is a forward pass and the gradients of the input and both
factors. ``A`` has to meet the middle one of three dimensions (tokens, in_a, out_b), and they differ in how:

- ``each``: one small product for each token (`krona_train.adapters.layers.kron_linear`).
- ``turned``: the last two dimensions change places in memory, and then it is one flat product.
- ``wide``: ``A ⊗ 1`` is formed, and it is one flat product without moving anything:
  a LoRA of rank in_a · out_b, with that many more multiplications.
- ``compiled``: PyTorch's operations, by ``torch.compile`` (on a GPU).
- ``mixed``: kernels of its own (`benchmarks/triton_kernels.py`; on a GPU).

Answers are compared with float64 first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks.contest import arguments, finish, require_close, table, take_turns
from krona_ops.updates import kron
from krona_ops.updates.shapes import split
from krona_train.adapters.layers.kron_linear import KronLinear

SHAPES = ((1024, 1280, 1280), (4096, 640, 640), (77, 2048, 1280), (4096, 3072, 3072))
"""Tokens, in, out: SDXL's, and Flux's."""
REHEARSAL = ((8, 128, 192),)
FACTORS = ((64, 4), (4, 64), (8, 8), (16, 16))
Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``(x, A, B, W) -> W x + ΔW x``, differentiable."""
Leaves = tuple[Tensor, Tensor, Tensor]
"""``x (N, in)``, ``A`` and ``B``, of which gradients are wanted."""


def each(x: Tensor, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """The trainer's own operation, factored."""
    return KronLinear.apply(x, a, b, weight, None, "kron", "factored")


class Turned(torch.autograd.Function):
    """Values between the factors change places, so that both products are flat."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """``x (N, in)`` to ``(N, out)``."""
        a, b = a.to(x.dtype), b.to(x.dtype)
        ctx.save_for_backward(x, a, b, weight)
        y = F.linear(x, weight)
        (out_a, in_a), (out_b, in_b) = a.shape, b.shape
        if kron.cheapest_order(a.shape, b.shape) == "b first":
            hidden = _turned(F.linear(x.view(-1, in_b), b), in_a, out_b)
            y.view(-1, out_a, out_b).add_((hidden @ a.mT).view(-1, out_b, out_a).mT)
        else:
            hidden = _turned(_turned(x, in_a, in_b) @ a.mT, in_b, out_a)
            y.view(-1, out_b).addmm_(hidden, b.mT)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``x``, ``A`` and ``B``."""
        x, a, b, weight = ctx.saved_tensors
        (out_a, in_a), (out_b, in_b) = a.shape, b.shape
        dx = dy @ weight
        if kron.cheapest_order(a.shape, b.shape) == "b first":
            columns = x.view(-1, in_b)
            rows = _turned(dy, out_a, out_b)  # (N out_b, out_a)
            da = rows.mT @ _turned(F.linear(columns, b), in_a, out_b)
            back = _turned(rows @ a, out_b, in_a)  # (N in_a, out_b)
            db = back.mT @ columns
            dx.view(-1, in_b).addmm_(back, b)
        else:
            columns, flat = _turned(x, in_a, in_b), dy.view(-1, out_b)
            db = flat.mT @ _turned(columns @ a.mT, in_b, out_a)
            back = _turned(flat @ b, out_a, in_b)  # (N in_b, out_a)
            da = back.mT @ columns
            dx.view(-1, in_a, in_b).add_((back @ a).view(-1, in_b, in_a).mT)
        return dx, da.float(), db.float(), None


class Wide(torch.autograd.Function):
    """``A ⊗ 1`` as a matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """``x (N, in)`` to ``(N, out)``."""
        a, b = a.to(x.dtype), b.to(x.dtype)
        ctx.save_for_backward(x, a, b, weight)
        y = F.linear(x, weight)
        (in_a, (out_b, in_b)) = a.shape[1], b.shape
        if kron.cheapest_order(a.shape, b.shape) == "b first":
            y.addmm_(F.linear(x.view(-1, in_b), b).view(-1, in_a * out_b), _widened(a, out_b).mT)
        else:
            y.view(-1, out_b).addmm_(F.linear(x, _widened(a, in_b)).view(-1, in_b), b.mT)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``x``, ``A`` and ``B``."""
        x, a, b, weight = ctx.saved_tensors
        (out_a, in_a), (out_b, in_b) = a.shape, b.shape
        dx = dy @ weight
        if kron.cheapest_order(a.shape, b.shape) == "b first":
            columns = x.view(-1, in_b)
            whole = dy.mT @ F.linear(columns, b).view(-1, in_a * out_b)
            da = whole.view(out_a, out_b, in_a, out_b).diagonal(dim1=1, dim2=3).sum(-1, dtype=torch.float32)
            back = (dy @ _widened(a, out_b)).view(-1, out_b)
            db = back.mT @ columns
            dx.view(-1, in_b).addmm_(back, b)
        else:
            wide, flat = _widened(a, in_b), dy.view(-1, out_b)
            db = flat.mT @ F.linear(x, wide).view(-1, in_b)
            back = (flat @ b).view(-1, out_a * in_b)
            da = (back.mT @ x).view(out_a, in_b, in_a, in_b).diagonal(dim1=1, dim2=3).sum(-1, dtype=torch.float32)
            dx.addmm_(back, wide)
        return dx, da, db.float(), None


def _turned(value: Tensor, rows: int, columns: int) -> Tensor:
    """``(N, rows · columns)`` or anything of as many numbers, in that order, to ``(N · columns, rows)``."""
    return value.view(-1, rows, columns).mT.reshape(-1, rows)


def _widened(a: Tensor, size: int) -> Tensor:
    """``A ⊗ 1`` with the identity of that size: ``(out_a · size, in_a · size)``."""
    one = torch.eye(size, dtype=a.dtype, device=a.device)
    return (a[:, None, :, None] * one[None, :, None, :]).view(a.shape[0] * size, a.shape[1] * size)


def composed(x: Tensor, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """The formula."""
    return F.linear(x, weight) + kron.apply(a.to(x.dtype), b.to(x.dtype), x)


def ways(device: torch.device) -> dict[str, Way]:
    """All that the device can do."""
    by_name: dict[str, Way] = {"each": each, "turned": Turned.apply, "wide": Wide.apply}
    if device.type == "cuda":
        by_name["compiled"] = torch.compile(composed, dynamic=False)
        if find_spec("triton"):
            from benchmarks.triton_kernels import Mixed

            by_name["mixed"] = Mixed.apply
    return by_name


def train(way: Way, leaves: Leaves, weight: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients."""
    y = way(*leaves, weight)
    return (y, *torch.autograd.grad(y, leaves, dy))


def check(field: dict[str, Way], leaves: Leaves, weight: Tensor, dy: Tensor) -> None:
    """Everybody's output and gradients against the dense formula in float64."""
    x, a, b = (t.detach().double().requires_grad_() for t in leaves)
    y = F.linear(x, weight.double() + kron.materialise(a, b))
    expected = (y, *torch.autograd.grad(y, (x, a, b), dy.double()))
    # Roundings of n additions walk √n far; a factor's gradient has as many as tokens times rows of the other factor.
    added = [len(dy) * other.shape[0] for other in (leaves[2], leaves[1])]
    eps = torch.finfo(dy.dtype).eps
    tolerances = [max(100 * eps, eps / 2 * n**0.5) if dy.dtype == torch.float32 else 4 * eps for n in (0, 0, *added)]
    for name, way in field.items():
        answers = zip(("y", "dx", "dA", "dB"), train(way, leaves, weight, dy), expected, tolerances, strict=True)
        for what, one, other, tolerance in answers:
            require_close(f"{what} of {name}", one.detach(), other.detach(), tolerance)


def main() -> None:
    """Measure all shapes and factors, print, write."""
    options = arguments(__doc__.partition("\n")[0], rounds=7, cpu=False)
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    rows, cells = [], {}
    for tokens, width, out in REHEARSAL if options.rehearse else SHAPES:
        weight = torch.randn(out, width, device=device, dtype=dtype) * width**-0.5
        for factors in FACTORS:
            sizes = split((out, width), factors)
            x = torch.randn(tokens, width, device=device, dtype=dtype, requires_grad=True)
            dy = torch.randn(tokens, out, device=device, dtype=dtype)
            a = (torch.randn(sizes.out_a, sizes.in_a, device=device) / sizes.out_a).requires_grad_()
            b = (torch.randn(sizes.out_b, sizes.in_b, device=device) * 0.01).requires_grad_()
            leaves, candidates = (x, a, b), ways(device)
            check(candidates, leaves, weight, dy)

            def frozen(x: Tensor = x, dy: Tensor = dy, weight: Tensor = weight) -> object:
                return torch.autograd.grad(F.linear(x, weight), x, dy)

            field: dict[str, Callable[[], object]] = {"frozen": frozen}
            field |= {n: partial(train, way, leaves, weight, dy) for n, way in candidates.items()}
            wait = torch.cuda.synchronize if device.type == "cuda" else None
            times = take_turns(field, options.rounds, warm_up=2, wait=wait)
            key = f"{tokens} × {width} → {out}, {sizes.out_a} × {sizes.in_a}"
            frozen_time = times["frozen"].median
            rows.append(
                (key, f"{1e3 * frozen_time:.2f}", *(f"{times[n].median / frozen_time:.2f}" for n in candidates))
            )
            print(*rows[-1], sep="  ", flush=True)
            cells[key] = {"seconds": {name: t.as_row() for name, t in times.items()}}
    print("\n" + table(("layer", "frozen ms", *candidates), rows))
    finish("ways", cells, options, threads=options.threads, rounds=options.rounds, dtype=str(dtype))


if __name__ == "__main__":
    main()
