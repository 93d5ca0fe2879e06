"""The update of one layer, ``ΔW``, as a value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TypeVar, final

import torch
from torch import Tensor

from . import kron
from .errors import ShapeError
from .factor import Factor
from .kron import Layout
from .shapes import KronShape

Part = TypeVar("Part", bound="Delta | Factor")


class Delta(ABC):
    """What one layer's weight gains: ``W' = W + ΔW``. Immutable; operations return a new one."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """``(out, in, *kernel)`` of ``ΔW``."""

    @abstractmethod
    def dense(self) -> Tensor:
        """``ΔW`` as one tensor ``(out, in, *kernel)``."""

    @abstractmethod
    def scaled(self, scale: float) -> Delta:
        """``scale · ΔW``; the stored tensors are shared."""

    @abstractmethod
    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """Add ``strength · ΔW`` into ``weight (out, in, *kernel)`` in place and return it.

        Raises:
            ShapeError: The weight has another shape.
        """

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """``ΔW x`` for a linear layer: ``(..., in)`` to ``(..., out)``, computed in the dtype of ``x``."""

    @abstractmethod
    def convolve(self, x: Tensor, **options: object) -> Tensor:
        """``ΔW ∗ x`` for a convolution: ``(batch, in, *space)``; options as in `krona_ops.kron.convolve`."""

    @property
    def parameters(self) -> int:
        """Stored numbers."""
        return sum(t.numel() for t in tensors(self))

    def __eq__(self, other: object) -> bool:
        """Same kind, same settings, bitwise the same tensors of the same dtype."""
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = tensors(self), tensors(other)  # type: ignore[arg-type]
        return (
            [(t.shape, t.dtype) for t in mine] == [(t.shape, t.dtype) for t in theirs]
            and skeleton(self) == skeleton(other)  # type: ignore[arg-type]
            and all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # tensors have no cheap hash


@final
@dataclass(frozen=True, eq=False)
class Kron(Delta):
    """``ΔW = scale · (A ⊗ B)`` in one of the two layouts of `krona_ops.kron`."""

    a: Factor
    b: Factor
    scale: float = 1.0
    layout: Layout = "kron"

    def __post_init__(self) -> None:
        if len(self.a.shape) != 2 or len(self.b.shape) < 2:
            raise ShapeError(
                f"Factors of shape {self.a.shape} and {self.b.shape} make no Kronecker product.",
                found=(self.a.shape, self.b.shape),
                expected="A (out_a, in_a) and B (out_b, in_b, *kernel)",
            )

    @property
    def sizes(self) -> KronShape:
        """The sizes of the two factors."""
        return KronShape(*self.a.shape, *self.b.shape[:2], self.b.shape[2:])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sizes.weight

    def dense(self) -> Tensor:
        return kron.materialise(self.a.dense(), self.b.dense(), self.layout) * self.scale

    def scaled(self, scale: float) -> Kron:
        return replace(self, scale=self.scale * scale)

    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        return kron.add_(weight, self.a.dense(), self.b.dense(), self.scale * strength, self.layout)

    def apply(self, x: Tensor) -> Tensor:
        a, b = self.a.dense(), self.b.dense()
        return kron.apply((a * self.scale).to(x.dtype), b.to(x.dtype), x, self.layout)

    def convolve(self, x: Tensor, **options: object) -> Tensor:
        a, b = self.a.dense(), self.b.dense()
        return kron.convolve((a * self.scale).to(x.dtype), b.to(x.dtype), x, self.layout, **options)  # type: ignore[arg-type]


def tensors(part: Delta | Factor) -> list[Tensor]:
    """Every stored tensor of an update, in a fixed order."""
    return list(_tensors(part))


def _tensors(part: Delta | Factor) -> Iterator[Tensor]:
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Delta | Factor):
            yield from _tensors(value)


def map_tensors(part: Part, change: Callable[[Tensor], object]) -> Part:
    """The same update with every stored tensor replaced by ``change(tensor)``, in the order of `tensors`."""
    changes: dict[str, object] = {}
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = change(value)
        elif isinstance(value, Delta | Factor):
            changes[field.name] = map_tensors(value, change)
    return replace(part, **changes)  # type: ignore[type-var]


def skeleton(part: Delta | Factor) -> tuple:
    """Everything of an update but its tensors: the kinds and settings, comparable with ``==``."""
    inner: list[object] = []
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            continue
        inner.append(skeleton(value) if isinstance(value, Delta | Factor) else value)
    return (type(part).__name__, *inner)
