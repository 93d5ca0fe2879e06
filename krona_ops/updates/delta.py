"""The update of one layer, ``ΔW``, as a value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from ..errors import KronaError, ShapeError
from ..room import require_room
from . import kron
from .factor import Factor, Full, LowRank, Tucker, wide_dtype, widened
from .kron import Layout
from .shapes import KronShape

Part = TypeVar("Part", bound="Delta | Factor")


class Delta(ABC):
    """What one layer's weight gains: ``W' = W + ΔW``. Immutable; operations return a new one."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """``(out, in, *kernel)`` of ``ΔW``."""

    def dense(self) -> Tensor:
        """``ΔW`` as one tensor ``(out, in, *kernel)``.

        Raises:
            SizeError: It is larger than what may be formed (`krona_ops.room`).
        """
        if not self.is_stored:
            require_room(self.shape)
        return self.formed()

    @abstractmethod
    def formed(self) -> Tensor:
        """As `dense`, however large it is: for a weight that is as large anyway."""

    @property
    def is_stored(self) -> bool:
        """Whether ``ΔW`` is in memory as one tensor already."""
        return False

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
        """``ΔW ∗ x`` for a convolution: ``(batch, in, *space)``; options as in `krona_ops.updates.kron.convolve`."""

    @property
    def needs_weight(self) -> bool:
        """Whether ``ΔW`` depends on the weight it is added to; then only `add_to` works."""
        return False

    @property
    def parameters(self) -> int:
        """How many numbers are stored."""
        return sum(t.numel() for t in tensors(self))

    def __eq__(self, other: object) -> bool:
        """Same kind, same settings, bitwise the same tensors of the same dtype."""
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = tensors(self), tensors(other)
        return (
            [(t.shape, t.dtype) for t in mine] == [(t.shape, t.dtype) for t in theirs]
            and skeleton(self) == skeleton(other)
            and all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # tensors have no cheap hash


@final
@dataclass(frozen=True, eq=False)
class Kron(Delta):
    """``ΔW = scale · (A ⊗ B)`` in one of the two layouts of `krona_ops.updates.kron`."""

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
                remedy="Get the file again, or give a matrix and a factor with two dimensions or more.",
            )

    @property
    def sizes(self) -> KronShape:
        """``out_a, in_a, out_b, in_b`` and the kernel, from the shapes of the two factors."""
        (out_a, in_a), (out_b, in_b, *kernel) = self.a.shape, self.b.shape
        return KronShape(out_a, in_a, out_b, in_b, tuple(kernel))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sizes.weight

    def formed(self) -> Tensor:
        return kron.materialise(self.a.formed(), self.b.formed(), self.layout) * self.scale

    def scaled(self, scale: float) -> Kron:
        return replace(self, scale=self.scale * scale)

    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        return kron.add_(weight, self.a.formed(), self.b.formed(), self.scale * strength, self.layout)

    def apply(self, x: Tensor) -> Tensor:
        a, b = self.a.formed(), self.b.formed()
        return kron.apply((a * self.scale).to(x.dtype), b.to(x.dtype), x, self.layout)

    def convolve(self, x: Tensor, **options: object) -> Tensor:
        a, b = self.a.formed(), self.b.formed()
        a, b = (a * self.scale).to(x.dtype), b.to(x.dtype)
        return kron.convolve(a, b, x, self.layout, **options)  # type: ignore[arg-type]  # its own options


@final
@dataclass(frozen=True, eq=False)
class Matrix(Delta):
    """``ΔW = scale · F``: a dense update, a low-rank one (LoRA), or a Tucker one (LoCon with a middle part).

    A dense ``F`` may also be a vector ``(out,)``: the update of a bias or of a norm's weight.
    """

    factor: Factor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.factor.shape

    @property
    def is_stored(self) -> bool:
        return isinstance(self.factor, Full)

    def formed(self) -> Tensor:
        return self.factor.formed() * self.scale

    def scaled(self, scale: float) -> Matrix:
        return replace(self, scale=self.scale * scale)

    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        _require_shape(self.shape, weight)
        return weight.add_(self.factor.formed(), alpha=self.scale * strength)

    def apply(self, x: Tensor) -> Tensor:
        return self.convolve(x)

    def convolve(self, x: Tensor, **options: object) -> Tensor:
        factor = self.factor
        slide = kron.CONVOLUTIONS[len(self.shape) - 2]
        if isinstance(factor, LowRank):
            inner = slide(x, factor.down.to(x.dtype), **options)
            return slide(inner, _pointwise(widened(factor.up) * self.scale, len(self.shape)).to(x.dtype))
        if isinstance(factor, Tucker):
            inner = slide(x, _pointwise(factor.down, len(self.shape)).to(x.dtype))
            inner = slide(inner, factor.core.to(x.dtype), **options)
            return slide(inner, _pointwise(widened(factor.up).mT * self.scale, len(self.shape)).to(x.dtype))
        return slide(x, self.formed().to(x.dtype), **options)


@final
@dataclass(frozen=True, eq=False)
class Sum(Delta):
    """``ΔW = Σ terms``: a blend, or a Kronecker product of several terms. All terms have one shape."""

    terms: tuple[Delta, ...]

    def __post_init__(self) -> None:
        shapes = {term.shape for term in self.terms}
        if len(shapes) != 1:
            raise ShapeError(
                f"Updates of shapes {sorted(shapes)} cannot be added.",
                found=sorted(shapes),
                expected="at least one update, all of one shape",
                remedy="Adapters of different base models cannot be blended.",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.terms[0].shape

    @property
    def needs_weight(self) -> bool:
        return any(term.needs_weight for term in self.terms)

    def formed(self) -> Tensor:
        first, *rest = (term.formed() for term in self.terms)
        return sum(rest, first)

    def scaled(self, scale: float) -> Sum:
        return replace(self, terms=tuple(term.scaled(scale) for term in self.terms))

    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        if not self.needs_weight:
            for term in self.terms:
                term.add_to(weight, strength)
            return weight
        before = weight.clone()  # each term's norm is taken from the weight as it was
        for term in self.terms:
            if term.needs_weight:
                weight += term.add_to(before.clone(), strength) - before
            else:
                term.add_to(weight, strength)
        return weight

    def apply(self, x: Tensor) -> Tensor:
        first, *rest = (term.apply(x) for term in self.terms)
        return sum(rest, first)

    def convolve(self, x: Tensor, **options: object) -> Tensor:
        first, *rest = (term.convolve(x, **options) for term in self.terms)
        return sum(rest, first)


@final
@dataclass(frozen=True, eq=False)
class Dora(Delta):
    """``W' = m · (W + ΔW) / ‖W + ΔW‖`` (Liu et al. 2024, eq. 5);
    at strength ``s`` the weight becomes ``W + s·(W' − W)``.

    The change depends on the weight, so it can be merged, but neither written down nor computed beside the layer.
    """

    delta: Delta
    magnitude: Tensor
    """``(out, 1, …)``: a norm per output, or ``(1, in, 1, …)``: a norm per input."""
    strength: float = 1.0
    """How much of the change is made; `scaled` multiplies it, which is what a loader's strength does."""
    eps: float = 0.0
    """Added to the norm, as the library that trained it did."""

    def __post_init__(self) -> None:
        out, *inner = self.delta.shape
        wanted = {(out, *(1 for _ in inner)), (1, inner[0], *(1 for _ in inner[1:]))}
        if tuple(self.magnitude.shape) not in wanted:
            raise ShapeError(
                f"A DoRA norm of shape {tuple(self.magnitude.shape)} does not belong to an update of {self.delta.shape}.",
                found=tuple(self.magnitude.shape),
                expected=" or ".join(map(str, sorted(wanted))),
                remedy="Get the file again: its norm belongs to another layer.",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.delta.shape

    @property
    def needs_weight(self) -> bool:
        return True

    @property
    def is_per_output(self) -> bool:
        """Whether there is one norm per output row; a square single-row layer counts as per output."""
        return self.magnitude.shape[0] == self.shape[0]

    def dense(self) -> Tensor:
        raise self._without_weight()

    def formed(self) -> Tensor:
        raise self._without_weight()

    def scaled(self, scale: float) -> Dora:
        return replace(self, strength=self.strength * scale)

    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        _require_shape(self.shape, weight)
        wide = wide_dtype(weight.dtype)
        moved = self.delta.add_to(weight.to(wide, copy=True))
        kept = 0 if self.is_per_output else 1
        norm = torch.linalg.vector_norm(moved, dim=[d for d in range(moved.ndim) if d != kept], keepdim=True)
        moved *= self.magnitude.to(wide) / (norm + self.eps)
        return weight.add_((moved - weight) * (self.strength * strength))

    def apply(self, x: Tensor) -> Tensor:
        raise self._without_weight()

    def convolve(self, x: Tensor, **options: object) -> Tensor:
        raise self._without_weight()

    def _without_weight(self) -> KronaError:
        return KronaError(
            "A DoRA update depends on the base model's weight.",
            found="no weight",
            expected="the weight that it changes",
            remedy="Apply it in merge mode; to blend, compress or convert it, extract it with its base model first.",
        )


def _pointwise(matrix: Tensor, ndim: int) -> Tensor:
    return matrix.reshape(*matrix.shape, *(1,) * (ndim - 2))


def _require_shape(shape: tuple[int, ...], weight: Tensor) -> None:
    if tuple(weight.shape) != shape:
        raise ShapeError(
            f"The update is {shape}, the weight is {tuple(weight.shape)}.",
            found=shape,
            expected=tuple(weight.shape),
            remedy="Choose the base model that the adapter was trained for, or leave this layer out.",
        )


def tensors(part: Delta | Factor) -> list[Tensor]:
    """Every stored tensor of an update, in a fixed order."""
    return list(_tensors(part))


def _tensors(part: object) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from _tensors(item)
    elif isinstance(part, Delta | Factor):
        for value in _values(part).values():
            yield from _tensors(value)


def _values(part: Delta | Factor) -> dict[str, Any]:
    """What an update or a factor consists of, by field: tensors, settings, further updates and factors."""
    own = fields(part)  # type: ignore[arg-type]  # all are dataclasses
    return {field.name: getattr(part, field.name) for field in own}


def map_tensors(part: Part, change: Callable[[Tensor], object]) -> Part:
    """The same update with every stored tensor replaced by ``change(tensor)``, in the order of `tensors`."""
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, tuple):
        return tuple(map_tensors(item, change) for item in part)
    if isinstance(part, Delta | Factor):
        changed = {name: map_tensors(value, change) for name, value in _values(part).items()}
        return replace(part, **changed)  # type: ignore[type-var]  # all are dataclasses
    return part


def skeleton(part: object) -> object:
    """Everything of an update but its tensors: the kinds and settings, comparable with ``==``."""
    if isinstance(part, Tensor):
        return "tensor"
    if isinstance(part, tuple):
        return tuple(skeleton(item) for item in part)
    if isinstance(part, Delta | Factor):
        return (type(part).__name__, *map(skeleton, _values(part).values()))
    return part
