"""What all readers of a layer share: its tensors, the checks on them, and its scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ...errors import FormatError
from ...updates.factor import Factor, Full, LowRank, Tucker
from ..scale import Resolved, Sizes

FLOAT32_EPS = 2.0**-23
"""What LyCORIS and ComfyUI add to a DoRA norm."""


LARGEST_SCALE = 2.0**100
"""Times usual numbers still one of float32, which PyTorch computes in; no trainer's scale is above some hundreds."""


class LayerError(FormatError):
    """One layer of a file cannot be read; it is left out and reported, the others are read."""


@dataclass(frozen=True)
class StoredLayer:
    """The tensors of one layer of a file."""

    name: str
    parts: Mapping[str, Tensor]
    scale_of: Callable[[Sizes], Resolved]
    """Decides the scale; see `krona_ops.formats.scale`."""

    @property
    def alpha(self) -> float | None:
        """The saved alpha; ``None`` without one, or where only the header is read."""
        return self.number("alpha")

    def number(self, part: str) -> float | None:
        """The value of a tensor that holds one number."""
        tensor = self.parts.get(part)
        if tensor is None or tensor.is_meta:
            return None
        if tensor.numel() != 1:
            raise self.error(f"Its {part} is {times(tensor.shape)} numbers.", tuple(tensor.shape), "one number")
        if tensor.is_complex():
            raise self.error(f"Its {part} is a complex number.", tensor.dtype, "a real number")
        return float(tensor)

    def has(self, part: str) -> bool:
        """Whether the file has a tensor for this part of the layer."""
        return part in self.parts

    def scale(self, sizes: Sizes) -> float:
        """What the product of the factors is multiplied by: the rule's scale, times ``scalar`` where the file has one.

        Raises:
            LayerError: It is no number, or too large for float32.
        """
        extra = self.number("scalar")
        if sizes.alpha is not None and math.isnan(sizes.alpha):
            raise self.error("Its alpha is no number.", sizes.alpha, "a number")
        scale = self.scale_of(sizes).scale * (1.0 if extra is None else extra)
        if not abs(scale) <= LARGEST_SCALE:
            raise self.error(f"Its scale is {scale:g}.", scale, "a number that float32 can be multiplied with")
        return scale

    def pair(self, up: str, down: str) -> tuple[Tensor, Tensor]:
        """Two tensors that only make sense together.

        Raises:
            FormatError: One of them is missing.
        """
        return self.tensor(up, f"{up} and {down}"), self.tensor(down, f"{up} and {down}")

    def tensor(self, part: str, expected: str | None = None) -> Tensor:
        """The tensor of a part, checked to be real and not empty.

        Raises:
            FormatError: It is missing, empty, or holds no real numbers.
        """
        tensor = self.parts.get(part)
        if tensor is None:
            raise LayerError(
                f"{part} is missing.",
                layer=self.name,
                found=", ".join(sorted(self.parts)),
                expected=expected or part,
                remedy="The file was cut short or edited; get it again.",
            )
        if not tensor.is_floating_point() or tensor.numel() == 0:
            raise self.error(
                f"{part} is {times(tensor.shape) or 'one number'} of type {tensor.dtype}.".replace("torch.", ""),
                (tuple(tensor.shape), tensor.dtype),
                "real numbers",
            )
        return tensor

    def error(self, message: str, found: object, expected: object) -> LayerError:
        """The error for a part of this layer that is damaged or of another format."""
        return LayerError(
            message, layer=self.name, found=found, expected=expected, remedy="The file is damaged or of another format."
        )


def times(shape: tuple[int, ...]) -> str:
    """A shape for a message: ``3 × 4`` for ``(3, 4)``."""
    return " × ".join(map(str, shape))


def low_rank(layer: StoredLayer, up: str, down: str) -> LowRank:
    """``up (out, r) @ down (r, in, *kernel)``.

    Raises:
        FormatError: One is missing, or they share no rank.
    """
    left, right = layer.pair(up, down)
    if left.ndim != 2 or not 2 <= right.ndim <= 5 or left.shape[1] != right.shape[0]:
        raise layer.error(
            f"{up} ({times(left.shape)}) and {down} ({times(right.shape)}) share no rank.",
            (tuple(left.shape), tuple(right.shape)),
            f"{up} (out, rank), {down} (rank, in)",
        )
    return LowRank(left, right)


def tucker(layer: StoredLayer, core: str, up: str, down: str) -> Tucker:
    """``core (r, s, *kernel)`` between ``up (r, out)`` and ``down (s, in)``.

    Raises:
        FormatError: One is missing, or the ranks differ.
    """
    middle = layer.tensor(core)
    left, right = layer.pair(up, down)
    if (
        (left.ndim, right.ndim) != (2, 2)
        or not 3 <= middle.ndim <= 5
        or middle.shape[:2] != (left.shape[0], right.shape[0])
    ):
        raise layer.error(
            f"{core} ({times(middle.shape)}) does not fit between {up} ({times(left.shape)}) and {down} ({times(right.shape)}).",
            (tuple(middle.shape), tuple(left.shape), tuple(right.shape)),
            f"{up} (rank, out), {down} (rank, in), {core} (rank, rank, *kernel)",
        )
    return Tucker(middle, left, right)


def rank_of(factor: Factor) -> int | None:
    """The rank that ``alpha`` is divided by; ``None`` for a whole factor."""
    if isinstance(factor, LowRank | Tucker):
        return factor.down.shape[0]
    return None


def whole(layer: StoredLayer, part: str, ndims: tuple[int, int]) -> Full:
    """A factor or an update stored as it is, with so many axes at least and at most."""
    value = layer.tensor(part)
    if not ndims[0] <= value.ndim <= ndims[1]:
        raise layer.error(
            f"{part} has {value.ndim} axes.", tuple(value.shape), f"{' to '.join(map(str, dict.fromkeys(ndims)))} axes"
        )
    return Full(value)
