"""A frozen layer with a Kronecker update beside it, as one differentiable operation that saves ``x`` and the factors.

``y = W x + bias + ΔW x`` with ``ΔW = A ⊗ B``; with ``X (in_a, in_b)`` and ``dY (out_a, out_b)`` one token's input and
output gradient as matrices, ``ΔW x`` is ``A X Bᵀ`` and

- ``∂A = Σ dY (X Bᵀ)ᵀ`` and ``∂B = Σ (Aᵀ dY)ᵀ X``, or, where ``A`` meets the input first,
- ``∂B = Σ dYᵀ (A X)`` and ``∂A = Σ (dY B) Xᵀ``,

over all tokens, and ``∂x = Wᵀ dy + Aᵀ dY B``. The intermediate products are computed again in the backward pass: they
cost a few per cent of the base's products, and kept they would be as large as the layer's output.
`krona_train.adapters.layers.scheme` says when ``W + ΔW`` is formed instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Protocol, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from krona_ops.updates import kron
from krona_ops.updates.kron import Layout

from .scheme import Scheme

LARGEST = 2**23
"""Numbers of an input above which a CPU takes its tokens in pieces of half of that.

The C library (glibc) gives blocks of more than 32 MB back to the system as soon as they are free, and the next one's
pages are faulted in again (4096 tokens of width 3072, 8 × 8: 140 ms whole, 81 in pieces).
"""


class ConvolutionOptions(TypedDict):
    """How a convolution moves over its input, `krona_ops.live.attach.convolution_options`."""

    stride: int | Sequence[int]
    padding: int | str | Sequence[int]
    dilation: int | Sequence[int]


class Context(Protocol):
    """What an operation here keeps from its forward to its backward pass; autograd makes it."""

    layout: Layout
    scheme: Scheme
    factors: torch.dtype
    """Of the parameters, in which their gradients are wanted."""
    options: ConvolutionOptions

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """Those of `save_for_backward`."""

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """For each argument of ``forward``."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep these."""


Backward = Callable[[Context, Tensor], tuple[Tensor | None, ...]]


def _once(backward: Backward) -> Backward:
    """`once_differentiable`, which is asked only where somebody wants to differentiate the gradients again.

    In every other pass it would switch off gradients that are off already, for 7 of the 100 µs of a small layer's
    backward pass.
    """
    guarded: Backward = once_differentiable(backward)

    @wraps(backward)
    def checked(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
        return guarded(ctx, dy) if torch.is_grad_enabled() else backward(ctx, dy)

    return checked


class KronLinear(torch.autograd.Function):
    """``W x + bias + ΔW x``; no gradient for ``W`` and ``bias``, which are frozen."""

    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        layout: Layout,
        scheme: Scheme,
    ) -> Tensor:
        """``x (..., in)``, ``A (out_a, in_a)``, ``B (out_b, in_b)``, ``W (out, in)`` to ``(..., out)``.

        The factors may be of a wider dtype than ``x``.
        """
        ctx.layout, ctx.scheme, ctx.factors = layout, scheme, a.dtype
        a, b = _like(a, x), _like(b, x)
        ctx.save_for_backward(x, a, b, weight)  # as it is: a copy in order would be kept beside it
        x = x.contiguous()
        if scheme != "factored":
            return F.linear(x, formed(weight, a, b, layout), bias)
        # y ← W x + bias, and the update's last product adds onto it: no pass over y for the sum.
        return kron.add_product_(F.linear(x, weight, bias), a, b, x, layout)

    @staticmethod
    @_once
    def backward(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``x``, ``A`` and ``B``, from ``dy (..., out)``."""
        x, a, b, weight = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[:3]
        x, dy = x.contiguous(), dy.contiguous()
        dx = da = db = None
        if ctx.scheme == "factored":
            if need_x:
                dx = dy @ weight  # Wᵀ dy, rows as tokens
            da, db = _factored(x, dy, a, b, ctx.layout, ctx.factors, onto=dx)  # adds Aᵀ dY B onto dx
        else:
            if need_x:
                dx = dy @ formed(weight, a, b, ctx.layout)  # (W + ΔW)ᵀ dy in one product
            if need_a or need_b:  # neither in another adapter's turn, when only dx is passed on
                gradients = _dense if ctx.scheme == "dense" else _factored
                da, db = gradients(x, dy, a, b, ctx.layout, ctx.factors)
        return dx, da, db, None, None, None, None


class KronUpdate(torch.autograd.Function):
    """``y + ΔW x`` where the base layer is not ours to compute: quantised, offloaded, or somebody else's."""

    @staticmethod
    def forward(ctx: Context, y: Tensor, x: Tensor, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        """``y (..., out)``, ``x (..., in)``, ``A (out_a, in_a)``, ``B (out_b, in_b)`` to ``(..., out)``."""
        ctx.layout, ctx.factors = layout, a.dtype
        a, b = _like(a, x), _like(b, x)
        ctx.save_for_backward(x, a, b)
        # A copy: y is somebody else's output, which may be kept or be a view.
        return kron.add_product_(y.clone(memory_format=torch.contiguous_format), a, b, x.contiguous(), layout)

    @staticmethod
    @_once
    def backward(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``y``, ``x``, ``A`` and ``B``; that of ``y`` is ``dy``, since ``∂(y + ΔW x)/∂y = 1``."""
        x, a, b = ctx.saved_tensors
        x = x.contiguous()
        dx = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        da, db = _factored(x, dy.contiguous(), a, b, ctx.layout, ctx.factors, onto=dx)
        return dy, dx, da, db, None


class KronConvolution(torch.autograd.Function):
    """``ΔW ∗ x``; what lies between the factors is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, a: Tensor, b: Tensor, layout: Layout, options: ConvolutionOptions) -> Tensor:
        """``x (N, in, *space)``, ``A (out_a, in_a)``, ``B (out_b, in_b, *kernel)`` to ``(N, out, *space')``."""
        ctx.layout, ctx.options = layout, options
        ctx.save_for_backward(x, a, b)
        return kron.convolve(a, b, x, layout, **options)

    @staticmethod
    @_once
    def backward(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``x``, ``A`` and ``B``: autograd's own, of the same convolution computed again."""
        needs = ctx.needs_input_grad[:3]
        leaves = [t.detach().requires_grad_(need) for t, need in zip(ctx.saved_tensors, needs, strict=True)]
        with torch.enable_grad():
            x, a, b = leaves
            y = kron.convolve(a, b, x, ctx.layout, **ctx.options)
        gradients = iter(torch.autograd.grad(y, [leaf for leaf in leaves if leaf.requires_grad], dy))
        return (*(next(gradients) if leaf.requires_grad else None for leaf in leaves), None, None)


def formed(weight: Tensor, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """``W + A ⊗ B`` in new memory, in one pass over the weight: ``(out, in)``.

    As blocks ``W[i, k, j, l] + A[i, j] B[k, l]`` for the row ``(i, k)`` and the column ``(j, l)``, which one
    ``addcmul`` computes from broadcast factors; ``A ⊗ B`` itself is never in memory.
    """
    blocks = weight.unflatten(1, (a.shape[1], b.shape[1]))
    if layout == "kron":
        blocks = blocks.unflatten(0, (a.shape[0], b.shape[0]))  # (out_a, out_b, in_a, in_b)
        total = torch.addcmul(blocks, a[:, None, :, None], b[None, :, None, :])
    else:
        blocks = blocks.unflatten(0, (b.shape[0], a.shape[0]))  # (out_b, out_a, in_a, in_b)
        total = torch.addcmul(blocks, a[None, :, :, None], b[:, None, None, :])
    return total.view(weight.shape)


def _like(factor: Tensor, x: Tensor) -> Tensor:
    """A factor in the dtype of ``x``.

    Cast outside of the operation, it would leave a node of autograd for each layer, for which Python waits twice in a
    step.
    """
    return factor if factor.dtype == x.dtype else factor.to(x.dtype)


def _factored(
    x: Tensor, dy: Tensor, a: Tensor, b: Tensor, layout: Layout, dtype: torch.dtype, onto: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The factors' gradients, in ``dtype``, from ``x (..., in)`` and ``dy (..., out)``.

    ``ΔWᵀ dy`` is added onto ``onto (..., in)`` on the way. All are contiguous: a UNet's gradients come as transposed
    pictures, for which PyTorch's batched product on a CPU falls back to one call per token.
    """
    largest = max(x.numel(), dy.numel())
    if largest <= LARGEST or x.device.type != "cpu":
        return _factored_at_once(x, dy, a, b, layout, dtype, onto)
    x, dy = x.view(-1, x.shape[-1]), dy.view(-1, dy.shape[-1])
    onto = None if onto is None else onto.view(x.shape)
    size = max(1, x.shape[0] * LARGEST // (2 * largest))
    da, db = torch.zeros_like(a, dtype=dtype), torch.zeros_like(b, dtype=dtype)
    for start in range(0, x.shape[0], size):
        piece = slice(start, start + size)
        more = _factored_at_once(x[piece], dy[piece], a, b, layout, dtype, None if onto is None else onto[piece])
        da += more[0]
        db += more[1]
    return da, db


def _factored_at_once(
    x: Tensor, dy: Tensor, a: Tensor, b: Tensor, layout: Layout, dtype: torch.dtype, onto: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`_factored` for tokens few enough to be taken together; the module's formulas in batched products."""
    left, right = a.shape, b.shape  # each time it is asked for, a new object
    (out_a, in_a), (out_b, in_b) = left, right
    tokens = x.numel() // (in_a * in_b)
    # dY of each token, (N, out_a, out_b); the shuffled layout has its rows in (out_b, out_a) order.
    rows = dy.view(tokens, out_b, out_a).mT if layout == "shuffled" else dy.view(tokens, out_a, out_b)
    # The second intermediate value takes the place of the first (out=hidden; both have one size): memory that has just
    # been used is there, new memory has to be faulted in.
    if kron.cheapest_order(left, right) == "b first":
        columns = x.view(-1, in_b)  # X of all tokens, one above the other: (N·in_a, in_b)
        back = F.linear(columns, b)  # X Bᵀ, (N·in_a, out_b)
        hidden = back.view(tokens, in_a, out_b)
        da = _sum_of_products(rows, hidden, dtype)  # Σ dY (X Bᵀ)ᵀ
        torch.bmm(a.mT.expand(tokens, -1, -1), rows, out=hidden)  # Aᵀ dY, which is in `back` now
        db = torch.mm(back.mT, columns)  # Σ (Aᵀ dY)ᵀ X: the sum over tokens is inside the product
        if onto is not None:
            onto.view(-1, in_b).addmm_(back, b)  # + (Aᵀ dY) B
    else:
        columns = x.view(tokens, in_a, in_b)  # X
        flat = rows.reshape(-1, out_b)  # dY of all tokens, one above the other: (N·out_a, out_b)
        back = torch.bmm(a.expand(tokens, -1, -1), columns)  # A X, (N, out_a, in_b)
        hidden = back.view(-1, in_b)
        db = torch.mm(flat.mT, hidden)  # Σ dYᵀ (A X)
        torch.mm(flat, b, out=hidden)  # dY B, which is in `back` now
        da = _sum_of_products(back, columns, dtype)  # Σ (dY B) Xᵀ
        if onto is not None:
            onto.view(tokens, in_a, in_b).baddbmm_(a.mT.expand(tokens, -1, -1), back)  # + Aᵀ (dY B)
    return da, db if db.dtype == dtype else db.to(dtype)


def _dense(x: Tensor, dy: Tensor, a: Tensor, b: Tensor, layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The factors' gradients from that of ``ΔW``, ``G = Σ dy xᵀ``, which is as large as the weight.

    With ``G`` in blocks ``G[m, k, i, j]`` as ``ΔW[m, k, i, j] = A[m, i] B[k, j]``: ``∂A[m, i] = Σ_kj G B[k, j]`` and
    ``∂B[k, j] = Σ_mi G A[m, i]``.
    """
    order = "mkij" if layout == "kron" else "kmij"
    rows = (a.shape[0], b.shape[0]) if layout == "kron" else (b.shape[0], a.shape[0])
    whole = (dy.view(-1, dy.shape[-1]).mT @ x.view(-1, x.shape[-1])).view(*rows, a.shape[1], b.shape[1])
    da, db = torch.einsum(f"{order},kj->mi", whole, b), torch.einsum(f"{order},mi->kj", whole, a)
    return da.to(dtype), db.to(dtype)


def _sum_of_products(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """``Σ_n left[n] right[n]ᵀ`` of ``(N, m, k)`` and ``(N, i, k)``: ``(m, i)``."""
    _, m, k = left.shape
    i = right.shape[1]
    if m * i <= (m + i) * k:  # one small product for each token takes less memory than the transposed copies of both
        return torch.bmm(left, right.mT).sum(0, dtype=dtype)
    # Both with the tokens along their columns, (m, N·k) and (i, N·k): one product sums over tokens and k together.
    flat = left.transpose(0, 1).reshape(m, -1) @ right.transpose(0, 1).reshape(i, -1).mT
    return flat.to(dtype)
