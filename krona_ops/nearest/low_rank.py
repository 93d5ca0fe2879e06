"""The nearest low-rank update of any other: how anything becomes a LoRA.

The singular value decomposition of ``A ⊗ B`` is the Kronecker product of those of ``A`` and ``B`` (Van Loan 2000,
section 2), so the best ``up @ down`` of one Kronecker product takes the largest products of two singular values. A sum
of structured terms is ``U Vᵀ`` with the columns of all of them: two thin QR decompositions and a small SVD. Only what
has a dense term, or more columns than half of its smaller side, is formed, one layer at a time.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..errors import ShapeError
from ..room import require_room
from ..updates.contraction import require_plain, terms_of, wide
from ..updates.delta import Delta, Kron, Matrix, Sum, tensors
from ..updates.factor import Full, LowRank, Tucker, wide_dtype
from . import linalg
from .kronecker import NOISE, Nearest

Decomposition = tuple[Tensor, Tensor, Tensor]
"""``U (out, n)``, all singular values descending, ``Vᵀ (n, in·kernel)``, in float64."""


def to_low_rank(delta: Delta, rank: int | None = None) -> Nearest:
    """The nearest update ``up @ down`` of a given rank, with its relative error.

    Args:
        delta: ``(out, in, *kernel)``; of a convolution the kernel goes to ``down``.
        rank: At most this many columns; ``None`` takes as many as are exact.

    Raises:
        ShapeError: The update is a vector, or ``rank`` is not positive.
        KronaError: It is a DoRA update.
    """
    if rank is not None and rank < 1:
        raise ShapeError(
            f"A rank of {rank} is not possible.", found=rank, expected="1 or more", remedy="Choose a rank of 1 or more."
        )
    up, values, down = decompose(delta, rank)
    kept = max(1, min(int((values > NOISE * values[0]).sum()), rank or len(values)))
    energy = values.square()
    total = float(energy.sum())
    error = (float(energy[kept:].sum()) / total) ** 0.5 if total else 0.0
    root = values[:kept].sqrt()
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors(delta)) else torch.float32
    factor = LowRank(
        (up[:, :kept] * root).to(dtype).contiguous(),
        (root[:, None] * down[:kept]).unflatten(1, delta.shape[1:]).to(dtype).contiguous(),
    )
    return Nearest(Matrix(factor), error)


def without_core(delta: Delta) -> Delta:
    """A LoRA with a core between its two sides as one without, exactly: the core goes into ``down (r, in, *kernel)``.

    In the core's own type, or float32 where that is narrower; any other update comes back as it is.
    """
    if not isinstance(delta, Matrix) or not isinstance(delta.factor, Tucker):
        return delta
    factor = delta.factor
    dtype = wide_dtype(*(tensor.dtype for tensor in (factor.core, factor.up, factor.down)))
    require_room((factor.core.shape[0], *factor.shape[1:]), "Its down without a core")
    down = torch.einsum("rs...,si->ri...", factor.core.to(dtype), factor.down.to(dtype))
    return Matrix(LowRank(factor.up.mT.to(dtype).contiguous(), down.contiguous()), delta.scale)


def decompose(delta: Delta, vectors: int | None = None) -> Decomposition:
    """The singular value decomposition of ``ΔW (out, in·kernel)``, by its structure where it has one.

    Args:
        vectors: How many of the singular vectors are needed, at least; ``None`` for all.
    """
    require_plain(delta, "written as a low-rank update")
    if len(delta.shape) < 2:
        raise ShapeError(
            f"An update of shape {delta.shape} has no rank.",
            found=delta.shape,
            expected="(out, in, *kernel)",
            remedy="Save it in the lokr format, which keeps it as it is.",
        )
    terms = [wide(term) for term in terms_of(delta)]
    if len(terms) == 1 and isinstance(terms[0], Kron):
        return _of_kron(terms[0], vectors)
    if 2 * sum(map(_columns, terms)) <= min(delta.shape[0], prod(delta.shape[1:])):
        pairs = [_pair(term) for term in terms]
        return _of_pair(torch.cat([u for u, _ in pairs], 1), torch.cat([v for _, v in pairs], 0))
    return _of_dense((Sum(tuple(terms)) if len(terms) > 1 else terms[0]).dense().flatten(1))


def spectrum(delta: Delta, most: int = 512) -> Tensor | None:
    """The singular values of ``ΔW``, descending; ``None`` where finding them needs a
    decomposition larger than ``most``."""
    size = min(delta.shape[0], prod(delta.shape[1:])) if len(delta.shape) > 1 else 0
    terms = terms_of(delta)
    is_kron = len(terms) == 1 and isinstance(terms[0], Kron)
    if not size or delta.needs_weight or not (is_kron or min(sum(map(_columns, terms)), size) <= most):
        return None
    return decompose(delta, 1)[1]


def _columns(term: Delta) -> int:
    """How many columns ``U`` of ``U Vᵀ`` has for one term."""
    if isinstance(term, Kron):
        a, b = term.a.shape, term.b.shape
        return min(a) * min(b[0], prod(b[1:]))
    assert isinstance(term, Matrix)  # as in `_pair`
    factor = term.factor
    if isinstance(factor, LowRank):
        return factor.up.shape[1]
    return factor.up.shape[0] if isinstance(factor, Tucker) else min(term.shape[0], prod(term.shape[1:]))


def _pair(term: Delta) -> tuple[Tensor, Tensor]:
    """``U (out, n)`` and ``Vᵀ (n, in·kernel)`` of one term."""
    if isinstance(term, Kron):
        u, values, v = _of_kron(term)
        return u * values, v
    assert isinstance(term, Matrix)  # what depends on the weight was refused, sums and rows were taken apart
    factor, scale = term.factor, term.scale
    if isinstance(factor, LowRank):
        return factor.up * scale, factor.down.flatten(1)
    if isinstance(factor, Tucker):
        require_room((factor.core.shape[0], *factor.shape[1:]), "Its down without a core")
        return factor.up.mT * scale, torch.einsum("rs...,si->ri...", factor.core, factor.down).flatten(1)
    u, values, v = _of_dense(factor.dense().flatten(1))
    return u * values * scale, v


def _of_kron(term: Kron, vectors: int | None = None) -> Decomposition:
    """Of a Kronecker product: its singular values are all products of one of ``A`` and one of ``B``, sorted."""
    ua, sa, va = linalg.svd(term.a.dense())
    ub, sb, vb = linalg.svd(term.b.dense().flatten(1))
    values, order = torch.outer(sa, sb).flatten().sort(descending=True, stable=True)
    kept = len(order[:vectors])
    require_room((max(term.shape[0], prod(term.shape[1:])), kept), "Its singular vectors together")
    first, second = order[:vectors] // len(sb), order[:vectors] % len(sb)
    rows = "an,bn->abn" if term.layout == "kron" else "an,bn->ban"
    up = torch.einsum(rows, ua[:, first], ub[:, second]).flatten(0, 1)
    down = torch.einsum("na,nb->nab", va[first], vb[second]).flatten(1)
    sign = -1.0 if term.scale < 0 else 1.0
    return up * sign, values * abs(term.scale), down


def _of_pair(u: Tensor, v: Tensor) -> Decomposition:
    """Of ``u @ v``: ``(out, n)`` and ``(n, in·kernel)``."""
    (qu, ru), (qv, rv) = linalg.qr(u), linalg.qr(v.mT)
    left, values, right = linalg.svd(ru @ rv.mT)
    return qu @ left, values, right @ qv.mT


def _of_dense(matrix: Tensor) -> Decomposition:
    """By the eigenvectors of the Gram matrix of the smaller side:
    half the time of an SVD, exact to 1e-8 of the norm."""
    if matrix.shape[0] > matrix.shape[1]:
        right, values, left = _of_dense(matrix.mT)
        return left.mT, values, right.mT
    energy, vectors = linalg.eigh(matrix @ matrix.mT)
    values, u = energy.flip(0).clamp_min(0).sqrt(), vectors.flip(1)
    return u, values, (u.mT @ matrix) / values[:, None].clamp_min(torch.finfo(torch.float64).tiny)


def to_dense(delta: Delta) -> Matrix:
    """The update formed, as one dense term in the dtype that its factors are computed in."""
    require_plain(delta, "formed")
    return Matrix(Full(delta.dense()))
