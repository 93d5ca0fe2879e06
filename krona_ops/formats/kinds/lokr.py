"""LoKr: ``ΔW = kron(w1, w2) · scale``, each factor whole, low-rank, or, for a convolution's ``w2``, with a Tucker core.

``w1`` is a matrix; ``w2`` is ``(out_b, in_b, *kernel)``. LyCORIS saves a decomposed convolution flattened: ``w2_b`` is
``(rank, in_b·prod(kernel))``. ``kron(w1, w2)`` is then ``(out, in·prod(kernel))`` in the order of the weight's
elements, because ``w1`` only touches the channels; `krona_ops.updates.reshape.reshaped` gives it
the kernel back once the weight is known.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ...updates.delta import Kron
from ...updates.factor import Factor, Full, LowRank, Tucker, wide_dtype
from ..scale import Sizes
from .layer import StoredLayer, low_rank, rank_of, times, tucker, whole

PARTS = frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"})


def read(layer: StoredLayer) -> Kron:
    """The update in a layer's ``lokr_*`` tensors.

    Raises:
        FormatError: A factor is missing, is there twice, or its parts do not fit together.
    """
    a, b = _factor(layer, "lokr_w1"), _factor(layer, "lokr_w2")
    if len(a.shape) != 2:
        raise layer.error(f"lokr_w1 is {times(a.shape)}.", a.shape, "a matrix")
    rank = rank_of(b) or rank_of(a)
    kernel = prod(b.shape[2:])
    sizes = Sizes(
        layer.name, "lokr", layer.alpha, rank, in_a=a.shape[1], block=max(b.shape[:2]), is_convolution=kernel > 1
    )
    return Kron(a, b, layer.scale(sizes))


def _factor(layer: StoredLayer, name: str) -> Factor:
    rest = [part for part in (f"{name}_a", f"{name}_b") if layer.has(part)]
    if name == "lokr_w2" and layer.has("lokr_t2"):
        rest.append("lokr_t2")
    if layer.has(name):
        if rest:
            raise layer.error(f"{name} is there whole and as {' and '.join(rest)}.", rest, "one of both")
        return whole(layer, name, (2, 5))
    if not rest:
        layer.tensor(name, f"{name}, or {name}_a and {name}_b")  # raises that it is missing
    if "lokr_t2" in rest:
        return tucker(layer, "lokr_t2", f"{name}_a", f"{name}_b")
    return low_rank(layer, f"{name}_a", f"{name}_b")


def write(delta: Kron) -> dict[str, Tensor]:
    """The ``lokr_*`` tensors, and ``alpha`` where a factor is decomposed.

    Readers ignore ``alpha`` where both factors are whole, so the scale is then multiplied into the smaller one; in
    float32 where half precision would round it.
    """
    parts: dict[str, Tensor] = {}
    for factor, key in ((delta.a, "lokr_w1"), (delta.b, "lokr_w2")):
        parts |= _parts(factor, key)
    rank = rank_of(delta.b) or rank_of(delta.a)
    if rank is not None:
        parts["alpha"] = number(delta.scale * rank)
    elif delta.scale != 1.0:
        smaller = min(("lokr_w1", "lokr_w2"), key=lambda key: parts[key].numel())
        parts[smaller] = times_number(parts[smaller], delta.scale)
    return parts


def _parts(factor: Factor, key: str) -> dict[str, Tensor]:
    if isinstance(factor, LowRank):
        return {f"{key}_a": factor.up, f"{key}_b": factor.down}
    if isinstance(factor, Tucker):
        return {"lokr_t2": factor.core, f"{key}_a": factor.up, f"{key}_b": factor.down}
    return {key: factor.value if isinstance(factor, Full) else factor.dense()}


def number(value: float) -> Tensor:
    """One number as a tensor: float32 as everyone writes it, float64 where that would change it."""
    short = torch.tensor(value, dtype=torch.float32)
    return short if float(short) == value else torch.tensor(value, dtype=torch.float64)


def times_number(tensor: Tensor, scale: float) -> Tensor:
    """``scale · tensor`` in its own type where that is exact, else in float32 or wider."""
    wide = wide_dtype(tensor.dtype)
    exact = tensor.to(torch.float64) * scale
    own = exact.to(tensor.dtype)
    return own if torch.equal(own.to(torch.float64), exact) else exact.to(wide)
