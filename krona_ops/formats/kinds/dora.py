"""DoRA: the norm that each output row, or each input column, of ``W + ΔW`` is given."""

from __future__ import annotations

from torch import Tensor

from ...updates.delta import Delta, Dora
from ...updates.reshape import reshaped
from .layer import FLOAT32_EPS, StoredLayer, times

PARTS = frozenset({"dora_scale", "magnitude"})


def read(layer: StoredLayer, delta: Delta) -> Delta:
    """The update with the layer's norm, if it has one.

    A vector of norms, and every square case that could be either, is per output: what DoRA's authors, PEFT and LyCORIS
    since 3.2 mean. LyCORIS before that wrote norms per input, as ``(1, in, …)``.

    Raises:
        FormatError: There are two norms, or theirs is no possible shape.
    """
    both = PARTS & layer.parts.keys()
    if not both:
        return delta
    if len(both) > 1:
        raise layer.error("It has two DoRA norms.", sorted(both), "one")
    (part,) = both
    magnitude = layer.tensor(part)
    eps = FLOAT32_EPS if part == "dora_scale" else 0.0  # PEFT adds nothing
    sizes = [n for n in magnitude.shape if n != 1] or [1]
    if len(sizes) == 1 and 1 <= magnitude.ndim <= 5:
        # PEFT's norms are per output even where a convolution's have the shape (1, out, 1, 1).
        if sizes[0] == delta.shape[0] and (part == "magnitude" or not _is_per_input(magnitude)):
            return Dora(delta, magnitude.reshape(-1, *(1,) * (len(delta.shape) - 1)), eps=eps)
        split = _with_channels(delta, sizes[0], magnitude.ndim)
        if split is not None:
            return Dora(split, magnitude.reshape(1, -1, *(1,) * (len(split.shape) - 2)), eps=eps)
    raise layer.error(
        f"A DoRA norm of {times(magnitude.shape)} numbers does not belong to an update of {times(delta.shape)}.",
        tuple(magnitude.shape),
        f"({delta.shape[0]}, 1, …) or (1, in, …)",
    )


def _is_per_input(magnitude: Tensor) -> bool:
    """Whether the shape itself says ``(1, in, …)``."""
    return magnitude.ndim > 1 and magnitude.shape[0] == 1 and magnitude.shape[1] != 1


def _with_channels(delta: Delta, channels: int, axes: int) -> Delta | None:
    """The update with ``channels`` inputs:
    a flattened convolution ``(out, in·prod(kernel))`` gets one kernel axis back."""
    if delta.shape[1] == channels:
        return delta
    if axes < 3 or len(delta.shape) != 2 or delta.shape[1] % channels:
        return None
    return reshaped(delta, (delta.shape[0], channels, delta.shape[1] // channels))


def write(delta: Dora) -> dict[str, Tensor]:
    """The norm as LyCORIS and ComfyUI read it."""
    return {"dora_scale": delta.magnitude}
