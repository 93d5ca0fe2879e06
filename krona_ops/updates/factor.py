"""One side of a Kronecker product, or a whole update: dense, a low-rank pair,
a Tucker core with two sides, a product of two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..errors import ShapeError
from ..room import require_room


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider: half-precision files are computed with in full."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def wide_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The type to compute in: float64 where one is that, float32 for all others;
    PyTorch itself promotes float8 to nothing."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def together(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one type, wide enough for each of them: a file may hold float64 beside float32."""
    dtype = wide_dtype(*(tensor.dtype for tensor in tensors))
    return [tensor.to(dtype) for tensor in tensors]


class Factor(ABC):
    """A matrix or convolution kernel in one of several stored forms: ``A`` or ``B`` of a layer, or all of an update."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """``(out, in, *kernel)`` of the dense factor."""

    def dense(self) -> Tensor:
        """The factor as one tensor, in float32 or wider: half-precision files are computed with in full.

        Raises:
            SizeError: It is larger than what may be formed (`krona_ops.room`).
        """
        if not isinstance(self, Full):
            require_room(self.shape, "A factor")
        return self.formed()

    @abstractmethod
    def formed(self) -> Tensor:
        """As `dense`, however large it is: for a weight that is as large anyway."""


@final
@dataclass(frozen=True, eq=False)
class Full(Factor):
    """A factor stored as one tensor."""

    value: Tensor
    """``(out, in, *kernel)``."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def formed(self) -> Tensor:
        return widened(self.value)


@final
@dataclass(frozen=True, eq=False)
class LowRank(Factor):
    """A factor ``up @ down``."""

    up: Tensor
    """``(out, rank)``."""
    down: Tensor
    """``(rank, in, *kernel)``."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], *self.down.shape[1:])

    def formed(self) -> Tensor:
        up, down = together(self.up, self.down)
        return (up @ down.flatten(1)).unflatten(1, self.down.shape[1:])


@final
@dataclass(frozen=True, eq=False)
class Tucker(Factor):
    """A convolution factor ``core ×₁ up ×₂ down`` (LyCORIS ``lokr_t2``)."""

    core: Tensor
    """``(rank_out, rank_in, *kernel)``."""
    up: Tensor
    """``(rank_out, out)``."""
    down: Tensor
    """``(rank_in, in)``."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.up.shape[1], self.down.shape[1], *self.core.shape[2:])

    def formed(self) -> Tensor:
        return torch.einsum("rs...,ro,si->oi...", *together(self.core, self.up, self.down))


@final
@dataclass(frozen=True, eq=False)
class Hadamard(Factor):
    """The elementwise product of two factors (LoHa).

    Of two low-rank factors it is a low-rank one too, of rank ``r²`` (Khatri-Rao), but at LoHa's usual ranks that is as
    large as the dense matrix: 10 GB for an adapter of SDXL at rank 32. So it is kept as it is.
    """

    left: Factor
    right: Factor

    def __post_init__(self) -> None:
        if self.left.shape != self.right.shape:
            raise ShapeError(
                f"Matrices of shapes {self.left.shape} and {self.right.shape} have no elementwise product.",
                found=(self.left.shape, self.right.shape),
                expected="two factors of one shape",
                remedy="Get the file again, or give two factors that are as large.",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.left.shape

    def formed(self) -> Tensor:
        return self.left.formed() * self.right.formed()
