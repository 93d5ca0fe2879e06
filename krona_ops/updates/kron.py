"""The Kronecker product of two factors as a linear map: materialised, applied, transposed, added into a weight.

``A`` is ``(out_a, in_a)``, ``B`` is ``(out_b, in_b, *kernel)``. Two layouts name the rows of ``ΔW (out, in, *kernel)``:

- ``"kron"``: ``ΔW[m·out_b + k, i·in_b + j] = A[m, i]·B[k, j]``,
  which is ``torch.kron(A, B)`` (DiffuseKronA eq. 3, LoKr).
- ``"shuffled"``: ``ΔW[k·out_a + m, i·in_b + j] = A[m, i]·B[k, j]``. The same values with the rows in ``(out_b, out_a)``
  order: what the code released with DiffuseKronA computes,
  because it flattens row by row what the paper stacks by columns.

Nothing here forms ``ΔW`` but `materialise`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from .shapes import KronShape, Order

Layout = Literal["kron", "shuffled"]
CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (F.linear, F.conv1d, F.conv2d, F.conv3d)
"""By the number of kernel axes."""
CAST_AT_ONCE = 2**17
"""Numbers of a weight that are added to at once where a CPU has to cast them to the factors' precision and back: 512
KiB in float32, which stay in a core's cache. The whole weight at once took 1.1 to 1.3 times as long on one core, and
3.2 times where its copies were fresh memory."""


def shape_of(a: Tensor, b: Tensor) -> KronShape:
    """The sizes of a pair of factors.

    Raises:
        ShapeError: ``a`` is no matrix, or ``b`` has fewer than two dimensions.
    """
    if a.ndim != 2 or b.ndim < 2:
        raise ShapeError(
            f"Factors of shape {tuple(a.shape)} and {tuple(b.shape)} make no Kronecker product.",
            found=(tuple(a.shape), tuple(b.shape)),
            expected="A (out_a, in_a) and B (out_b, in_b, *kernel)",
            remedy="Get the file again, or give a matrix and a factor with two dimensions or more.",
        )
    return KronShape(a.shape[0], a.shape[1], b.shape[0], b.shape[1], tuple(b.shape[2:]))


def materialise(a: Tensor, b: Tensor, layout: Layout = "kron") -> Tensor:
    """``ΔW = A ⊗ B`` as a dense tensor ``(out_a·out_b, in_a·in_b, *kernel)``."""
    rows = "mkij..." if layout == "kron" else "kmij..."
    return torch.einsum(f"mi,kj...->{rows}", a, b).flatten(0, 1).flatten(1, 2)


def add_(weight: Tensor, a: Tensor, b: Tensor, scale: float = 1.0, layout: Layout = "kron") -> Tensor:
    """Add ``scale·ΔW`` into a weight in place, in one pass over it, without forming ``ΔW``.

    Splitting a dimension is always a view, so this also writes through narrowed weights (one part of a fused layer).

    Args:
        weight: ``(out, in, *kernel)``, any strides; changed in place.

    Returns:
        ``weight``.

    Raises:
        ShapeError: The product does not have the weight's shape.
    """
    sizes = shape_of(a, b)
    if tuple(weight.shape) != sizes.weight:
        raise ShapeError(
            f"A {tuple(a.shape)} ⊗ B {tuple(b.shape)} is {sizes.weight}, the weight is {tuple(weight.shape)}.",
            found=sizes.weight,
            expected=tuple(weight.shape),
            remedy="Choose the base model that the adapter was trained for, or leave this layer out.",
        )
    window = (None,) * len(sizes.kernel)
    blocks = weight.unflatten(1, (sizes.in_a, sizes.in_b))
    if layout == "kron":
        blocks = blocks.unflatten(0, (sizes.out_a, sizes.out_b))  # (out_a, out_b, in_a, in_b, *kernel)
        left, right = a[(slice(None), None, slice(None), None, *window)], b[None, :, None]
    else:
        blocks = blocks.unflatten(0, (sizes.out_b, sizes.out_a))  # (out_b, out_a, in_a, in_b, *kernel)
        left, right = a[(None, slice(None), slice(None), None, *window)], b[:, None, None]
    rows = len(blocks)
    if weight.device.type == "cpu" and torch.promote_types(a.dtype, b.dtype) != weight.dtype and weight.numel():
        rows = max(1, CAST_AT_ONCE * rows // weight.numel())
    left, right = left.expand(len(blocks), *left.shape[1:]), right.expand(len(blocks), *right.shape[1:])
    for part in zip(blocks.split(rows), left.split(rows), right.split(rows), strict=True):
        part[0].addcmul_(part[1], part[2], value=scale)
    return weight


def apply(a: Tensor, b: Tensor, x: Tensor, layout: Layout = "kron", order: Order | None = None) -> Tensor:
    """Multiply by a Kronecker product without forming it: ``y = ΔW x`` along the last axis.

    Args:
        a: ``(out_a, in_a)``.
        b: ``(out_b, in_b)``.
        x: ``(..., in_a·in_b)``.
        order: Which factor meets ``x`` first; ``None`` takes the cheaper one.

    Returns:
        ``(..., out_a·out_b)``.
    """
    x = x.unflatten(-1, (a.shape[1], b.shape[1]))  # (..., in_a, in_b)
    if (order or shape_of(a, b).cheapest_order) == "b first":
        y = a @ (x @ b.mT)  # (..., in_a, out_b), then (..., out_a, out_b)
    else:
        y = (a @ x) @ b.mT  # (..., out_a, in_b), then (..., out_a, out_b)
    return (y if layout == "kron" else y.mT).flatten(-2)


def add_product_(y: Tensor, a: Tensor, b: Tensor, x: Tensor, layout: Layout = "kron") -> Tensor:
    """Add ``ΔW x`` onto ``y`` in place, the last product as it is computed:
    `apply` without memory for its result, and without another pass to add it.

    Args:
        y: ``(..., out_a·out_b)``, contiguous, of the dtype of the others; changed in place.
        a: ``(out_a, in_a)``.
        b: ``(out_b, in_b)``.
        x: ``(..., in_a·in_b)``, contiguous.

    Returns:
        ``y``.
    """
    if layout == "shuffled":
        return y.add_(apply(a, b, x, layout))
    left, right = a.shape, b.shape  # each time it is asked for, a new object
    (out_a, in_a), (out_b, in_b) = left, right
    tokens = x.numel() // (in_a * in_b)
    if cheapest_order(left, right) == "b first":
        hidden = F.linear(x.view(-1, in_b), b).view(tokens, in_a, out_b)
        y.view(tokens, out_a, out_b).baddbmm_(a.expand(tokens, -1, -1), hidden)
    else:
        hidden = torch.bmm(a.expand(tokens, -1, -1), x.view(tokens, in_a, in_b))
        y.view(-1, out_b).addmm_(hidden.view(-1, in_b), b.mT)
    return y


@cache
def cheapest_order(left: torch.Size, right: torch.Size) -> Order:
    """Which of ``A`` and ``B``, given their sizes, is cheaper to multiply the input with first."""
    return KronShape(*left, *right).cheapest_order


def adjoint(a: Tensor, b: Tensor, y: Tensor, layout: Layout = "kron", order: Order | None = None) -> Tensor:
    """Multiply by the transpose: ``x = ΔWᵀ y`` along the last axis, ``(..., out_a·out_b)`` to ``(..., in_a·in_b)``.

    ``(A ⊗ B)ᵀ = Aᵀ ⊗ Bᵀ``; in the shuffled layout the rows are put back first.
    """
    if layout == "shuffled":
        y = y.unflatten(-1, (b.shape[0], a.shape[0])).mT.flatten(-2)
    return apply(a.mT, b.mT, y, "kron", order)


def convolve(
    a: Tensor,
    b: Tensor,
    x: Tensor,
    layout: Layout = "kron",
    order: Order | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Convolve with a Kronecker product without forming it.

    ``B`` slides over each group of ``in_b`` channels, ``A`` mixes the groups.

    Args:
        a: ``(out_a, in_a)``.
        b: ``(out_b, in_b, *kernel)`` with one to three kernel axes.
        x: ``(batch, in_a·in_b, *space)``.
        stride, padding, dilation: As in `torch.nn.functional.conv2d`.

    Returns:
        ``(batch, out_a·out_b, *space')``.
    """
    sizes = shape_of(a, b)
    slide = CONVOLUTIONS[len(sizes.kernel)]
    x = x.unflatten(1, (sizes.in_a, sizes.in_b))  # (batch, in_a, in_b, *space)
    first = order or sizes.cheapest_order
    if first == "a first":
        x = torch.einsum("mi,ni...->nm...", a, x)
    y = slide(x.flatten(0, 1), b, stride=stride, padding=padding, dilation=dilation)
    y = y.unflatten(0, x.shape[:2])  # (batch, in_a or out_a, out_b, *space')
    if first == "b first":
        y = torch.einsum("mi,ni...->nm...", a, y)
    return (y if layout == "kron" else y.transpose(1, 2)).flatten(1, 2)
