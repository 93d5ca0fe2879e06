"""Updates that are stored as where a weight ends, instead of as what it gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, final

from torch import Tensor

from ..errors import KronaError, ShapeError
from .control import OfTheWeight
from .delta import Delta, Matrix
from .factor import Full, widened

WHERE = (
    "Connect the MODEL to Load KronA, or to Save KronA, Convert KronA or Blend KronA; Load and Apply KronA and Apply KronA "
    "have it anyway. At a prompt name its checkpoint: --against CHECKPOINT"
)
"""How a model is given."""
Name = TypeVar("Name", bound=str)


@final
@dataclass(frozen=True, eq=False)
class Absolute(OfTheWeight):
    """``W' = W + s·(V − W)``: 0 is the base's value, 1 is the file's, anything else lies on the line through both.

    Against a base it is the update ``V − W``, which can be added to others, written down and taken off again.
    """

    value: Tensor
    """``(out,)``: where the weight ends at strength 1."""
    strength: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def scaled(self, scale: float) -> Absolute:
        return replace(self, strength=self.strength * scale)

    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        return self.against(weight).add_to(weight, strength)

    def against(self, weight: Tensor) -> Matrix:
        """The update of a base whose own value is ``weight (out,)``, in float32 or wider.

        Raises:
            ShapeError: The base's value has another shape.
        """
        if tuple(weight.shape) != self.shape:
            raise ShapeError(
                f"The file has {self.shape[0]} values, the model has {tuple(weight.shape)}.",
                found=self.shape,
                expected=tuple(weight.shape),
                remedy="Choose the base model that the file was made for.",
            )
        base = widened(weight)
        return Matrix(Full(self.value.to(base.device, base.dtype) - base), self.strength)

    def _without_weight(self) -> KronaError:
        return KronaError(
            "The file has the norms' values as they end, which is no update without the base model's own.",
            found="values",
            expected="the model",
            remedy=f"{WHERE}.",
        )


def require_base(layers: Mapping[Name, Delta], use: str) -> None:
    """Refuse an adapter with values that no base has been given for.

    Args:
        use: What is impossible without: "saved", "blended".

    Raises:
        KronaError: There are such values.
    """
    names = waiting(layers)
    if names:
        raise KronaError(
            f"{len(names)} norms and biases are values as they end, not changes, so the adapter cannot be {use} without "
            "the model.",
            layer=names[0],
            found="values",
            expected="the model",
            remedy=f"{WHERE}.",
        )


def waiting(layers: Mapping[Name, Delta]) -> list[Name]:
    """The layers that are values and wait for a base."""
    return [name for name, delta in layers.items() if isinstance(delta, Absolute)]


def in_words(layers: Mapping[Name, Delta]) -> str:
    """What is said about values that wait for a base; empty where there are none."""
    count = len(waiting(layers))
    return f"{count} norms and biases are values as they end; they become changes against a model. {WHERE}." if count else ""
