"""Integers only: how a layer's width splits into Kronecker factors, how many parameters that makes,
what applying it costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, prod
from typing import Literal

from ..errors import ShapeError

Order = Literal["a first", "b first"]
"""Which factor the input is multiplied with first. The result is the same; the work may differ much."""


@dataclass(frozen=True)
class KronShape:
    """Sizes of ``A (out_a, in_a)`` and ``B (out_b, in_b, *kernel)``, the factors of one layer's update."""

    out_a: int
    in_a: int
    out_b: int
    in_b: int
    kernel: tuple[int, ...] = ()

    @property
    def out_features(self) -> int:
        return self.out_a * self.out_b

    @property
    def in_features(self) -> int:
        return self.in_a * self.in_b

    @property
    def weight(self) -> tuple[int, ...]:
        """Shape of ``ΔW``: ``(out, in, *kernel)``."""
        return (self.out_features, self.in_features, *self.kernel)

    @property
    def parameters(self) -> int:
        """``out_a·in_a + out_b·in_b·prod(kernel)`` (DiffuseKronA, Table 1)."""
        return self.out_a * self.in_a + self.out_b * self.in_b * prod(self.kernel)

    def apply_cost(self, order: Order) -> int:
        """Multiply-adds per token (linear) or per output position (convolution, stride 1) of ``ΔW x``."""
        window = prod(self.kernel)
        if order == "b first":
            return self.in_a * self.in_b * self.out_b * window + self.out_a * self.in_a * self.out_b
        return self.out_a * self.in_a * self.in_b + self.out_a * self.in_b * self.out_b * window

    @property
    def cheapest_order(self) -> Order:
        """The order with fewer multiply-adds; with 64 × 4 factors on 1280 × 1280 the
        other one costs 16 times as much."""
        return "b first" if self.apply_cost("b first") <= self.apply_cost("a first") else "a first"


def divisors(n: int) -> tuple[int, ...]:
    """All divisors of ``n`` in ascending order.

    Raises:
        ShapeError: ``n`` is not positive.
    """
    if n < 1:
        raise ShapeError(
            f"{n} has no divisors.", found=n, expected="a positive integer", remedy="Give a size of 1 or more."
        )
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return tuple(small + [n // d for d in reversed(small) if d * d != n])


def nearest_divisor(n: int, wanted: int) -> int:
    """The divisor of ``n`` closest to ``wanted`` in ratio; the smaller one of two that are equally close.

    Ratio, not difference, because factors act by their product: for 320 and 128, both 64 and 160 are divisors, and 160
    (1.25 times) is closer than 64 (half).

    Raises:
        ShapeError: ``n`` or ``wanted`` is not positive.
    """
    if wanted < 1:
        raise ShapeError(
            f"A factor of {wanted} is not possible.",
            found=wanted,
            expected="a positive integer",
            remedy="Choose 1 or more.",
        )
    return min(divisors(n), key=lambda d: (abs(log(d / wanted)), d))


def split(weight: tuple[int, ...], factors: tuple[int, int]) -> KronShape:
    """Split a weight into Kronecker factors, taking the nearest divisors where the wanted ones do not divide.

    Args:
        weight: ``(out, in)`` of a linear layer or ``(out, in, *kernel)`` of a convolution.
        factors: Wanted ``(out_a, in_a)``, the shape of ``A``.

    Raises:
        ShapeError: The weight has fewer than two dimensions, or a size is not positive.
    """
    if len(weight) < 2:
        raise ShapeError(
            f"A weight of shape {weight} has no Kronecker factors.",
            found=weight,
            expected="(out, in, *kernel)",
            remedy="Leave this layer out.",
        )
    out_a, in_a = nearest_divisor(weight[0], factors[0]), nearest_divisor(weight[1], factors[1])
    return KronShape(out_a, in_a, weight[0] // out_a, weight[1] // in_a, tuple(weight[2:]))
