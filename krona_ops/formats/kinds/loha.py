"""LoHa: ``ΔW = (w1_a @ w1_b) ∘ (w2_a @ w2_b) · scale``, with a Tucker core in each where a convolution has one."""

from __future__ import annotations

from torch import Tensor

from ...updates.delta import Matrix
from ...updates.factor import Factor, Hadamard, LowRank, Tucker
from ..scale import Sizes
from .layer import StoredLayer, low_rank, rank_of, tucker
from .lokr import number

PARTS = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"})


def read(layer: StoredLayer) -> Matrix:
    """The update in a layer's ``hada_*`` tensors.

    Raises:
        FormatError: A tensor is missing or does not fit.
    """
    has_core = layer.has("hada_t1") or layer.has("hada_t2")
    sides = [_side(layer, n, has_core) for n in (1, 2)]
    if sides[0].shape != sides[1].shape:
        raise layer.error(
            f"Its two products are {sides[0].shape} and {sides[1].shape}.", sides[1].shape, sides[0].shape
        )
    scale = layer.scale(Sizes(layer.name, "loha", layer.alpha, rank_of(sides[0])))
    return Matrix(Hadamard(sides[0], sides[1]), scale)


def _side(layer: StoredLayer, n: int, has_core: bool) -> Factor:
    if has_core:
        return tucker(layer, f"hada_t{n}", f"hada_w{n}_a", f"hada_w{n}_b")
    return low_rank(layer, f"hada_w{n}_a", f"hada_w{n}_b")


def write(delta: Matrix) -> dict[str, Tensor] | None:
    """The ``hada_*`` tensors, or ``None`` where the update is no elementwise product."""
    if not isinstance(delta.factor, Hadamard):
        return None
    parts: dict[str, Tensor] = {}
    for n, side in ((1, delta.factor.left), (2, delta.factor.right)):
        if isinstance(side, Tucker):
            parts[f"hada_t{n}"] = side.core
        elif not isinstance(side, LowRank):
            return None
        parts |= {f"hada_w{n}_a": side.up, f"hada_w{n}_b": side.down}
    rank = rank_of(delta.factor.left)
    return {**parts, "alpha": number(delta.scale * (rank or 1))}
