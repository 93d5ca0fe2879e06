"""Products by the small factor as kernels of their own, for `benchmarks/ways.py`:
a contestant, which the trainer does not use.

The small factor meets the middle one of three dimensions. A library's batched product takes one matrix of a few numbers
for each token; here each value is read once from memory and the few multiplications are done on the way. Import needs
Triton. Without a GPU its interpreter runs this (``TRITON_INTERPRET=1``), slowly.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from krona_ops.updates import kron

TOKENS, ELEMENTS = 16, 128
"""Tokens, and values of each, that one program of `mix` computes."""
PROGRAMS, CHUNK = 256, 64
"""Programs of `gram`, each of which leaves one partial sum, and summands at once."""


@triton.jit
def _mix(
    left, middle, out, tokens, columns, row_stride, inner_stride,
    rows: tl.constexpr, inner: tl.constexpr, add: tl.constexpr, width: tl.constexpr, height: tl.constexpr,
):  # fmt: skip
    """``out[n, r, c] (+)= Σ_i left[r, i] · middle[n, i, c]``."""
    n = (tl.program_id(0) * height + tl.arange(0, height))[:, None].to(tl.int64)
    e = (tl.program_id(1) * width + tl.arange(0, width))[None, :]
    row, column = e // columns, e % columns
    mask = (n < tokens) & (e < rows * columns)
    total = tl.zeros((height, width), dtype=tl.float32)
    for i in range(0, inner):
        factor = tl.load(left + row * row_stride + i * inner_stride, mask=e < rows * columns, other=0.0)
        value = tl.load(middle + n * (inner * columns) + i * columns + column, mask=mask, other=0.0)
        total += factor.to(tl.float32) * value.to(tl.float32)
    place = out + n * (rows * columns) + e
    if add:
        total += tl.load(place, mask=mask, other=0.0).to(tl.float32)
    tl.store(place, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _gram(
    left, right, out, summands, columns,
    rows: tl.constexpr, inner: tl.constexpr, height: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr,
):  # fmt: skip
    """``out[p, r, i] = Σ left[n, r, c] · right[n, i, c]`` over one program's share of all ``(n, c)``."""
    r, i = tl.arange(0, height), tl.arange(0, width)
    total = tl.zeros((height, width), dtype=tl.float32)
    for number in range(0, chunks):
        k = (tl.program_id(0) * chunks + number) * chunk + tl.arange(0, chunk)
        n, column, inside = (k // columns).to(tl.int64), k % columns, k < summands
        one = tl.load(
            left + (n * (rows * columns) + column)[None, :] + (r * columns)[:, None],
            mask=inside[None, :] & (r < rows)[:, None],
            other=0.0,
        )
        other = tl.load(
            right + (n * (inner * columns) + column)[:, None] + (i * columns)[None, :],
            mask=inside[:, None] & (i < inner)[None, :],
            other=0.0,
        )
        total = tl.dot(one, other, total, input_precision="ieee")
    place = out + tl.program_id(0) * (rows * inner) + r[:, None] * inner + i[None, :]
    tl.store(place, total, mask=(r < rows)[:, None] & (i < inner)[None, :])


def mix(left: Tensor, middle: Tensor, out: Tensor, *, add: bool) -> Tensor:
    """``out[n] (+)= left @ middle[n]``: ``(rows, inner)``, ``(N, inner, columns)``, ``(N, rows, columns)``;
    both contiguous."""
    tokens, inner, columns = middle.shape
    rows = left.shape[0]
    grid = (triton.cdiv(tokens, TOKENS), triton.cdiv(rows * columns, ELEMENTS))
    _mix[grid](left, middle, out, tokens, columns, *left.stride(), rows, inner, add, ELEMENTS, TOKENS)
    return out


def gram(left: Tensor, right: Tensor) -> Tensor:
    """``Σ_n left[n] @ right[n]ᵀ`` of ``(N, rows, columns)`` and ``(N, inner, columns)``, both contiguous:
    ``(rows, inner)`` in float32."""
    tokens, rows, columns = left.shape
    inner, summands = right.shape[1], tokens * columns
    chunks = triton.cdiv(triton.cdiv(summands, PROGRAMS), CHUNK)
    programs = triton.cdiv(summands, chunks * CHUNK)
    out = left.new_empty(programs, rows, inner, dtype=torch.float32)
    sides = (max(16, triton.next_power_of_2(size)) for size in (rows, inner))
    _gram[(programs,)](left, right, out, summands, columns, rows, inner, *sides, CHUNK, chunks)
    return out.sum(0)


class Mixed(torch.autograd.Function):
    """``W x + ΔW x`` with the products by ``A`` in `mix` and `gram`, those by ``B`` in PyTorch's flat ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """``x (N, in)`` to ``(N, out)``."""
        a, b = a.to(x.dtype), b.to(x.dtype)
        ctx.save_for_backward(x, a, b, weight)
        y = F.linear(x, weight)
        (out_a, in_a), (out_b, in_b) = a.shape, b.shape
        if kron.cheapest_order(a.shape, b.shape) == "b first":
            mix(a, F.linear(x.view(-1, in_b), b).view(-1, in_a, out_b), y.view(-1, out_a, out_b), add=True)
        else:
            hidden = mix(a, x.view(-1, in_a, in_b), x.new_empty(len(x), out_a, in_b), add=False)
            y.view(-1, out_b).addmm_(hidden.view(-1, in_b), b.mT)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``x``, ``A`` and ``B``."""
        x, a, b, weight = ctx.saved_tensors
        (out_a, in_a), (out_b, in_b) = a.shape, b.shape
        dx, dy = dy @ weight, dy.contiguous()
        if kron.cheapest_order(a.shape, b.shape) == "b first":
            columns, rows = x.view(-1, in_b), dy.view(-1, out_a, out_b)
            hidden = F.linear(columns, b).view(-1, in_a, out_b)
            da = gram(rows, hidden)
            back = mix(a.mT, rows, hidden, add=False).view(-1, out_b)
            db = back.mT @ columns
            dx.view(-1, in_b).addmm_(back, b)
        else:
            columns, flat = x.view(-1, in_a, in_b), dy.view(-1, out_b)
            db = flat.mT @ mix(a, columns, x.new_empty(len(x), out_a, in_b), add=False).view(-1, in_b)
            back = (flat @ b).view(-1, out_a, in_b)
            da = gram(back, columns)
            mix(a.mT, back, dx.view(-1, in_a, in_b), add=True)
        return dx, da, db.float(), None
