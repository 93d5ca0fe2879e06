"""A frozen layer with a Kronecker update beside it, as one differentiable operation that saves ``x`` and the factors only.

``y = W x + bias + ΔW x`` with ``ΔW = A ⊗ B``; with ``X (in_a, in_b)`` and ``dY (out_a, out_b)`` one token's input and output gradient
as matrices, ``ΔW x`` is ``A X Bᵀ`` and

- ``∂A = Σ dY (X Bᵀ)ᵀ`` and ``∂B = Σ (Aᵀ dY)ᵀ X``, or, where ``A`` meets the input first,
- ``∂B = Σ dYᵀ (A X)`` and ``∂A = Σ (dY B) Xᵀ``,

over all tokens, and ``∂x = Wᵀ dy + Aᵀ dY B``. The intermediate products are computed again in the backward pass: they cost a few per cent of
the base's products, and kept they would be as large as the layer's output. `krona_train.scheme` says when ``W + ΔW`` is formed instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from krona_ops import kron
from krona_ops.kron import Layout
from krona_ops.shapes import KronShape, Order

from .scheme import Scheme

LARGEST = 2**23
"""Numbers of an input above which a CPU takes its tokens in pieces of half of that: the C library (glibc) gives blocks of more than 32 MB back to
the system as soon as they are free, and the next one's pages are faulted in again (4096 tokens of width 3072, 8 × 8: 140 ms whole, 81 in pieces)."""


class KronLinear(torch.autograd.Function):
    """``W x + bias + ΔW x``; no gradient for ``W`` and ``bias``, which are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, scheme: Scheme
    ) -> Tensor:
        """``x (..., in)``, ``A (out_a, in_a)``, ``B (out_b, in_b)``, ``W (out, in)`` to ``(..., out)``."""
        ctx.layout, ctx.scheme = layout, scheme
        ctx.save_for_backward(x, a, b, weight)
        flat = _rows(x)
        if scheme == "factored":
            y = F.linear(flat, weight, bias)
            _add_product(y, flat, a, b, layout)
        else:
            y = F.linear(flat, formed(weight, a, b, layout), bias)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``x``, ``A`` and ``B``."""
        x, a, b, weight = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[:3]
        flat_x, flat_dy = _rows(x), _rows(dy)
        dx = da = db = None
        if ctx.scheme == "factored":
            if need_x:
                dx = flat_dy @ weight
            da, db = _factored(flat_x, flat_dy, a, b, ctx.layout, onto=dx)
        else:
            if need_x:
                dx = flat_dy @ formed(weight, a, b, ctx.layout)
            if need_a or need_b:
                gradients = _dense if ctx.scheme == "dense" else _factored
                da, db = gradients(flat_x, flat_dy, a, b, ctx.layout)
        return None if dx is None else dx.view(x.shape), da, db, None, None, None, None


class KronUpdate(torch.autograd.Function):
    """``y + ΔW x`` where the base layer is not ours to compute: quantised, offloaded, or somebody else's."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        """``y (..., out)``, ``x (..., in)``, ``A (out_a, in_a)``, ``B (out_b, in_b)`` to ``(..., out)``."""
        ctx.layout = layout
        ctx.save_for_backward(x, a, b)
        total = y.clone(memory_format=torch.contiguous_format)
        _add_product(total.view(-1, total.shape[-1]), _rows(x), a, b, layout)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``y``, ``x``, ``A`` and ``B``."""
        x, a, b = ctx.saved_tensors
        flat_x, flat_dy = _rows(x), _rows(dy)
        dx = torch.zeros_like(flat_x) if ctx.needs_input_grad[1] else None
        da, db = _factored(flat_x, flat_dy, a, b, ctx.layout, onto=dx)
        return dy, None if dx is None else dx.view(x.shape), da, db, None


class KronConvolution(torch.autograd.Function):
    """``ΔW ∗ x``; what lies between the factors is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, layout: Layout, options: Mapping[str, Any]) -> Tensor:
        """``x (N, in, *space)``, ``A (out_a, in_a)``, ``B (out_b, in_b, *kernel)`` to ``(N, out, *space')``."""
        ctx.layout, ctx.options = layout, options
        ctx.save_for_backward(x, a, b)
        return kron.convolve(a, b, x, layout, **options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``x``, ``A`` and ``B``."""
        leaves = [t.detach().requires_grad_(need) for t, need in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)]
        with torch.enable_grad():
            x, a, b = leaves
            y = kron.convolve(a, b, x, ctx.layout, **ctx.options)
        found = iter(torch.autograd.grad(y, [leaf for leaf in leaves if leaf.requires_grad], dy))
        return (*(next(found) if leaf.requires_grad else None for leaf in leaves), None, None)


def formed(weight: Tensor, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """``W + A ⊗ B`` in new memory, in one pass over the weight: ``(out, in)``."""
    blocks = weight.unflatten(1, (a.shape[1], b.shape[1]))
    if layout == "kron":
        blocks = blocks.unflatten(0, (a.shape[0], b.shape[0]))  # (out_a, out_b, in_a, in_b)
        total = torch.addcmul(blocks, a[:, None, :, None], b[None, :, None, :])
    else:
        blocks = blocks.unflatten(0, (b.shape[0], a.shape[0]))  # (out_b, out_a, in_a, in_b)
        total = torch.addcmul(blocks, a[None, :, :, None], b[:, None, None, :])
    return total.view(weight.shape)


def _rows(x: Tensor) -> Tensor:
    """``(..., width)`` as ``(N, width)``, contiguous.

    A UNet's gradients come as transposed pictures, for which PyTorch's batched product on a CPU falls back to one call per token.
    """
    return x.reshape(-1, x.shape[-1]).contiguous()


def _order(a: Tensor, b: Tensor) -> Order:
    return _cheapest_order(*a.shape, *b.shape)


@cache
def _cheapest_order(out_a: int, in_a: int, out_b: int, in_b: int) -> Order:
    return KronShape(out_a, in_a, out_b, in_b).cheapest_order


def _add_product(y: Tensor, x: Tensor, a: Tensor, b: Tensor, layout: Layout) -> None:
    """Add ``ΔW x`` onto ``y (N, out)`` in place, for ``x (N, in)``: the last product is added as it is computed."""
    tokens = x.shape[0]
    if layout == "shuffled":
        y += kron.apply(a, b, x, layout)
    elif _order(a, b) == "b first":
        hidden = (x.view(-1, b.shape[1]) @ b.mT).view(tokens, a.shape[1], b.shape[0])
        y.view(tokens, a.shape[0], b.shape[0]).baddbmm_(_each(a, tokens), hidden)
    else:
        hidden = torch.bmm(_each(a, tokens), x.view(tokens, a.shape[1], b.shape[1]))
        y.view(-1, b.shape[0]).addmm_(hidden.view(-1, b.shape[1]), b.mT)


def _factored(x: Tensor, dy: Tensor, a: Tensor, b: Tensor, layout: Layout, onto: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The factors' gradients from ``x (N, in)`` and ``dy (N, out)``; ``ΔWᵀ dy`` is added onto ``onto (N, in)`` on the way."""
    largest = max(x.numel(), dy.numel())
    if x.device.type != "cpu" or largest <= LARGEST:
        return _factored_at_once(x, dy, a, b, layout, onto)
    size = max(1, x.shape[0] * LARGEST // (2 * largest))
    da, db = torch.zeros_like(a), torch.zeros_like(b)
    for start in range(0, x.shape[0], size):
        piece = slice(start, start + size)
        more_a, more_b = _factored_at_once(x[piece], dy[piece], a, b, layout, None if onto is None else onto[piece])
        da += more_a
        db += more_b
    return da, db


def _factored_at_once(
    x: Tensor, dy: Tensor, a: Tensor, b: Tensor, layout: Layout, onto: Tensor | None
) -> tuple[Tensor, Tensor]:
    tokens = x.shape[0]
    rows = dy.view(tokens, b.shape[0], a.shape[0]).mT if layout == "shuffled" else dy.view(tokens, a.shape[0], b.shape[0])
    columns = x.view(tokens, a.shape[1], b.shape[1])
    # The second intermediate value takes the place of the first: memory that has just been used is there, new memory has to be faulted in.
    if _order(a, b) == "b first":
        hidden = (x.view(-1, b.shape[1]) @ b.mT).view(tokens, a.shape[1], b.shape[0])  # X Bᵀ
        da = _sum_of_products(rows, hidden)
        back = torch.bmm(_each(a.mT, tokens), rows, out=hidden).view(-1, b.shape[0])  # Aᵀ dY
        db = back.mT @ x.view(-1, b.shape[1])
        if onto is not None:
            onto.view(-1, b.shape[1]).addmm_(back, b)
    else:
        flat = rows.reshape(-1, b.shape[0])
        hidden = torch.bmm(_each(a, tokens), columns).view(-1, b.shape[1])  # A X
        db = flat.mT @ hidden
        back = torch.mm(flat, b, out=hidden).view(tokens, a.shape[0], b.shape[1])  # dY B
        da = _sum_of_products(back, columns)
        if onto is not None:
            onto.view(tokens, a.shape[1], b.shape[1]).baddbmm_(_each(a.mT, tokens), back)
    return da, db


def _dense(x: Tensor, dy: Tensor, a: Tensor, b: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The factors' gradients from that of ``ΔW``, which is as large as the weight."""
    order = "mkij" if layout == "kron" else "kmij"
    rows = (a.shape[0], b.shape[0]) if layout == "kron" else (b.shape[0], a.shape[0])
    whole = (dy.mT @ x).view(*rows, a.shape[1], b.shape[1])
    return torch.einsum(f"{order},kj->mi", whole, b), torch.einsum(f"{order},mi->kj", whole, a)


def _each(factor: Tensor, tokens: int) -> Tensor:
    """The same matrix for each token, without a copy."""
    return factor.expand(tokens, *factor.shape)


def _sum_of_products(left: Tensor, right: Tensor) -> Tensor:
    """``Σ_n left[n] right[n]ᵀ`` of ``(N, m, k)`` and ``(N, i, k)``: ``(m, i)``."""
    _, m, k = left.shape
    i = right.shape[1]
    if m * i <= (m + i) * k:  # one small product for each token takes less memory than the transposed copies of both
        return torch.bmm(left, right.mT).sum(0)
    return left.transpose(0, 1).reshape(m, -1) @ right.transpose(0, 1).reshape(i, -1).mT
