"""The nearest Kronecker product, or sum of several, to an update (Van Loan and Pitsianis 1993).

Put every block of ``ΔW`` that one entry of ``A`` scales into a row:
``R(ΔW)[(m, i), (k, j, *)] = ΔW[m·out_b + k, i·in_b + j, *]``, ``(out_a·in_a, out_b·in_b·kernel)``. Then
``R(A ⊗ B) = vec(A) vec(B)ᵀ``, and the best sum of ``k`` products is the truncated singular value decomposition of ``R``
(Eckart and Young 1936), its squared error the tail of the squared spectrum.

``R`` is never formed where the update has a structure: where its terms have the wanted factor sizes already, matrices
as small as the number of terms are enough; else the Gram matrix of the smaller side is contracted
(`krona_ops.updates.contraction`). Gram matrices square the spectrum, so relative errors below 1e-8 read as about 1e-8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ShapeError
from ..updates.contraction import (
    Digits,
    Leg,
    Network,
    Node,
    bra,
    common_digits,
    contract,
    dense_term,
    networks,
    plan_of,
    require_plain,
    terms_of,
)
from ..updates.delta import Delta, Kron, Sum, tensors
from ..updates.factor import Full
from ..updates.kron import Layout
from ..updates.shapes import KronShape, split
from . import linalg

NOISE = 1e-7
"""Singular values below this part of the largest one are rounding (see above), and make no term of their own."""


class Nearest(NamedTuple):
    """An approximation of an update, and its relative error."""

    delta: Delta
    error: float
    """``‖ΔW − approximation‖ / ‖ΔW‖``; 0 for an update that is zero."""


def nearest_kron(delta: Delta, factors: tuple[int, int], terms: int = 1, layout: Layout = "kron") -> Nearest:
    """The sum of at most ``terms`` Kronecker products that is nearest to an update.

    Args:
        delta: ``(out, in, *kernel)``; of a convolution the kernel goes to ``B``.
        factors: Wanted ``(out_a, in_a)``; the nearest divisors are taken, as in `krona_ops.updates.shapes.split`.
        terms: Products at most; fewer where fewer are exact.

    Raises:
        ShapeError: The update is a vector, or ``terms`` is not positive.
        KronaError: It is a DoRA update.
    """
    if terms < 1:
        raise ShapeError(
            f"{terms} Kronecker terms are not possible.", found=terms, expected="1 or more", remedy="Choose 1 or more."
        )
    return Rearrangement(delta, split(delta.shape, factors), layout).nearest(terms)


@dataclass(frozen=True)
class _Factored:
    """``R = left · diag(values) · right`` with orthonormal columns and rows;
    a side that is ``None`` is not known yet."""

    values: Tensor
    """Descending, ``(n,)``."""
    left: Tensor | None
    """``(out_a·in_a, n)``."""
    right: Tensor | None
    """``(out_b·in_b·kernel, n)``."""


class Rearrangement:
    """``R(ΔW)`` for one choice of factors, known by its structure."""

    def __init__(self, delta: Delta, sizes: KronShape, layout: Layout = "kron") -> None:
        require_plain(delta, "compressed")
        self.sizes, self.layout = sizes, layout
        self.dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors(delta)) else torch.float32
        cut = (sizes.out_a if layout == "kron" else sizes.out_b, sizes.in_a)
        terms = terms_of(delta)
        digits = common_digits(delta.shape, terms, cut)
        if digits is None:  # sizes that do not divide one another: this layer is formed
            terms = (dense_term(delta),)
            digits = common_digits(delta.shape, (), cut)
        assert digits is not None  # a single cut always divides its own layer
        self.digits: Digits = digits
        self.networks = networks(terms, digits)
        ends = ("first", "last") if layout == "kron" else ("last", "first")
        self.a_legs = (*digits.row_legs(sizes.out_a, ends[0]), *digits.column_legs(sizes.in_a, "first"))
        self.b_legs = (*digits.row_legs(sizes.out_b, ends[1]), *digits.column_legs(sizes.in_b, "last"), "w")

    @property
    def spectrum(self) -> Tensor:
        """Singular values of ``R(ΔW)``, descending, float64; those left out are zero."""
        return self._factored.values

    def error(self, terms: int) -> float:
        """The relative error of the best ``terms`` products: the tail of the spectrum."""
        energy = self.spectrum.square()
        total = float(energy.sum())
        return (float(energy[terms:].sum()) / total) ** 0.5 if total else 0.0

    @property
    def norm(self) -> float:
        """``‖ΔW‖``, which rearranging does not change."""
        return float(self.spectrum.square().sum()) ** 0.5

    def nearest(self, terms: int) -> Nearest:
        """The best sum of at most ``terms`` products, both factors of each with the same norm."""
        values = self.spectrum[:terms]
        kept = max(1, int((values > NOISE * values[0]).sum()))
        left, right = self._sides(kept)
        root = values[:kept].sqrt()
        a_shape = self.sizes.out_a, self.sizes.in_a
        b_shape = self.sizes.out_b, self.sizes.in_b, *self.sizes.kernel
        krons = tuple(
            Kron(
                Full((left[:, n] * root[n]).reshape(a_shape).to(self.dtype)),
                Full((right[:, n] * root[n]).reshape(b_shape).to(self.dtype)),
                layout=self.layout,
            )
            for n in range(kept)
        )
        return Nearest(krons[0] if kept == 1 else Sum(krons), self.error(kept))

    @cached_property
    def _factored(self) -> _Factored:
        return self._by_factors() or self._by_gram()

    def _sides(self, count: int) -> tuple[Tensor, Tensor]:
        """The first singular vectors of both sides, as columns."""
        factored = self._factored
        left = None if factored.left is None else factored.left[:, :count]
        right = None if factored.right is None else factored.right[:, :count]
        weights = factored.values[:count].clamp_min(torch.finfo(torch.float64).tiny)
        if left is None:
            assert right is not None  # one side is always known
            left = self._carried(right, self.b_legs, self.a_legs) / weights
        elif right is None:
            right = self._carried(left, self.a_legs, self.b_legs) / weights
        return left, right

    def _by_factors(self) -> _Factored | None:
        """``R = U Vᵀ`` with as many columns as there are terms: all that is decomposed is as small as their number."""
        pairs = [pair for network in self.networks if (pair := self._split(network)) is not None]
        if len(pairs) < len(self.networks):
            return None
        u, v = (torch.cat([pair[side] for pair in pairs], 1) for side in (0, 1))
        if 2 * u.shape[1] > min(u.shape[0], v.shape[0]) and u.shape[1] > 1:
            return None
        (qu, ru), (_, rv) = _orthonormal(u), _orthonormal(v)
        left, values, _ = linalg.svd(ru @ rv.mT)
        return _Factored(values, qu @ left, None)

    def _split(self, network: Network) -> tuple[Tensor, Tensor] | None:
        """A network that is one node on each side, as ``(a side, bond)`` and ``(b side, bond)``."""
        if len(network) != 2:
            return None
        for first, second in (network, network[::-1]):
            bond = first.legs[:1]
            if set(first.legs[1:]) <= set(self.a_legs) and set(second.legs[1:]) <= set(self.b_legs):
                left, right = contract((first,), (*self.a_legs, *bond)), contract((second,), (*self.b_legs, *bond))
                return left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1])
        return None

    def _by_gram(self) -> _Factored:
        """Eigenvectors of ``R Rᵀ`` or ``Rᵀ R``, whichever is smaller."""
        a_is_smaller = self._size(self.a_legs) <= self._size(self.b_legs)
        kept, summed = (self.a_legs, self.b_legs) if a_is_smaller else (self.b_legs, self.a_legs)
        energy, vectors = linalg.eigh(self._gram(kept, summed))
        values, vectors = energy.flip(0).clamp_min(0).sqrt(), vectors.flip(1)
        return _Factored(values, vectors, None) if a_is_smaller else _Factored(values, None, vectors)

    def _size(self, legs: Iterable[Leg]) -> int:
        size = 1
        for leg in legs:
            size *= self.digits.size(leg)
        return size

    def _gram(self, kept: tuple[Leg, ...], summed: tuple[Leg, ...]) -> Tensor:
        """``(kept, kept)``, contracted from the terms, or from ``R`` where forming that is less work."""
        side, other = self._size(kept), self._size(summed)
        output = (*kept, *(f"{leg}'" for leg in kept))
        pairs = [
            (n == m, (*left, *bra(right, kept)))
            for n, left in enumerate(self.networks)
            for m, right in enumerate(self.networks[: n + 1])
        ]
        plans = [plan_of(nodes, output) for _, nodes in pairs]
        work, room = sum(p.multiplications for p in plans), max(p.peak for p in plans)
        if work > side * side * other and room > side * other:
            formed = _sum(contract(network, (*kept, *summed)) for network in self.networks).reshape(side, other)
            return formed @ formed.mT
        parts = ((is_square, contract(nodes, output).reshape(side, side)) for is_square, nodes in pairs)
        return _sum(part if is_square else part + part.mT for is_square, part in parts)

    def _carried(self, vectors: Tensor, legs: tuple[Leg, ...], onto: tuple[Leg, ...]) -> Tensor:
        """Multiply ``R``, or its transpose, with vectors ``(legs, n)``: ``(onto, n)``."""
        start = Node(vectors.reshape(*(self.digits.size(leg) for leg in legs), -1), (*legs, "n"))
        return _sum(
            contract((start, *network), (*onto, "n")).reshape(-1, vectors.shape[-1]) for network in self.networks
        )


def _sum(parts: Iterable[Tensor]) -> Tensor:
    """The sum of one tensor or more, one at a time in memory."""
    total = sum(parts)
    assert isinstance(total, Tensor)  # 0 is the sum of none
    return total


def _orthonormal(columns: Tensor) -> tuple[Tensor, Tensor]:
    """``Q R`` of a tall matrix by the eigenvectors of its small Gram matrix, linearly dependent columns included.

    A Householder QR of 6400 × 10 takes 2 to 10 ms on two cores, this 0.2.
    """
    energy, vectors = linalg.eigh(columns.mT @ columns)
    size = energy.clamp_min(0).sqrt()
    inverse = torch.where(size > NOISE * size[-1], 1 / size.clamp_min(torch.finfo(torch.float64).tiny), 0)
    return columns @ (vectors * inverse), size[:, None] * vectors.mT
