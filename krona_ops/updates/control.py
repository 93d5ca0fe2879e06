"""What control LoRAs do to a weight besides adding to it, as ComfyUI has it: replace it, or make it larger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch.nn.functional as F
from torch import Tensor

from ..errors import KronaError, ShapeError
from .delta import Delta, Sum


class OfTheWeight(Delta):
    """An update that cannot be formed or applied without the weight, only added to it."""

    @property
    def needs_weight(self) -> bool:
        return True

    def dense(self) -> Tensor:
        raise self._without_weight()

    def formed(self) -> Tensor:
        raise self._without_weight()

    def apply(self, x: Tensor) -> Tensor:
        raise self._without_weight()

    def convolve(self, x: Tensor, **options: object) -> Tensor:
        raise self._without_weight()

    def _without_weight(self) -> KronaError:
        return KronaError(
            "The layer's weight is replaced or made larger, which is no update that can be written down alone.",
            found=type(self).__name__,
            expected="an update that is added to a weight",
            remedy="Apply it in merge mode, or leave this layer out.",
        )


@final
@dataclass(frozen=True, eq=False)
class Replacement(OfTheWeight):
    """``W' = V``, at any strength but 0, as ComfyUI does with ``set_weight``:
    half of a replacement makes no sense to it."""

    value: Tensor
    """``(out, …)``, or ``(out,)`` of a norm."""
    strength: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def scaled(self, scale: float) -> Replacement:
        return replace(self, strength=self.strength * scale)

    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        if tuple(weight.shape) != self.shape:
            raise ShapeError(
                f"The replacement is {self.shape}, the weight is {tuple(weight.shape)}.",
                found=self.shape,
                expected=tuple(weight.shape),
                remedy="Choose the base model that the adapter was trained for, or leave this layer out.",
            )
        return weight.copy_(self.value) if self.strength * strength else weight


@final
@dataclass(frozen=True, eq=False)
class Enlarged(OfTheWeight):
    """``W' = pad(W) + ΔW``: the weight gets rows and columns of zeros up to the shape of
    ``ΔW`` (ComfyUI's ``reshape_weight``)."""

    delta: Delta

    @property
    def shape(self) -> tuple[int, ...]:
        return self.delta.shape

    def scaled(self, scale: float) -> Enlarged:
        return replace(self, delta=self.delta.scaled(scale))

    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """Add ``strength · ΔW``; into a new, larger tensor where ``weight`` is smaller.

        Raises:
            ShapeError: The weight is larger than the update.
        """
        return self.delta.add_to(padded(weight, self), strength)


def enlarges(delta: Delta) -> bool:
    """Whether an update, or a term of it, is for a larger weight than the model has."""
    return isinstance(delta, Enlarged) or (isinstance(delta, Sum) and any(map(enlarges, delta.terms)))


def can_grow(weight: tuple[int, ...], delta: tuple[int, ...]) -> bool:
    """Whether a weight becomes as large as an update by rows and columns of zeros.

    >>> can_grow((5, 3), (5, 6)), can_grow((5, 3), (4, 6))
    (True, False)
    """
    return len(weight) == len(delta) and all(mine <= wanted for mine, wanted in zip(weight, delta, strict=True))


def padded(weight: Tensor, delta: Delta) -> Tensor:
    """The weight with zeros behind it up to the shape of an update that enlarges it; itself for any other.

    Raises:
        ShapeError: The weight is larger than the update.
    """
    if not enlarges(delta) or tuple(weight.shape) == delta.shape:
        return weight
    if not can_grow(tuple(weight.shape), delta.shape):
        raise ShapeError(
            f"The update enlarges its weight to {delta.shape}, the weight is {tuple(weight.shape)}.",
            found=delta.shape,
            expected=tuple(weight.shape),
            remedy="The adapter is for another base model.",
        )
    ends = [
        n
        for wanted, mine in zip(reversed(delta.shape), reversed(weight.shape), strict=True)
        for n in (0, wanted - mine)
    ]
    return F.pad(weight, ends)
