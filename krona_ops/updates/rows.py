"""Some rows of an update: what a file that keeps q, k and v in one weight means for a model that keeps them apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from ..errors import ShapeError
from ..names.spellings import projection
from .delta import Delta, Dora, Kron, Matrix, Sum
from .factor import Factor, Full, Hadamard, LowRank, Tucker


def rows(delta: Delta, start: int, length: int) -> Delta:
    """Rows ``start`` to ``start + length`` of ``ΔW (out, in, *kernel)``, exactly, and without forming it.

    Raises:
        ShapeError: The rows depend on the others: a DoRA norm per input is taken over all of them.
    """
    if isinstance(delta, Sum):
        return Sum(tuple(rows(term, start, length) for term in delta.terms))
    if isinstance(delta, Dora):
        if not delta.is_per_output:
            raise ShapeError(
                "A DoRA norm per input of a fused weight cannot be divided among its parts.",
                found=tuple(delta.magnitude.shape),
                expected=f"({delta.shape[0]}, 1): a norm per output",
                remedy="Apply it to a model that has this weight whole.",
            )
        return replace(delta, delta=rows(delta.delta, start, length), magnitude=delta.magnitude[start : start + length])
    if isinstance(delta, Matrix):
        return replace(delta, factor=_factor_rows(delta.factor, start, length))
    if isinstance(delta, Kron) and delta.layout == "kron":
        block = delta.sizes.out_b  # row i of A makes rows i·out_b to (i + 1)·out_b
        if start % block == 0 and length % block == 0:
            return replace(delta, a=_factor_rows(delta.a, start // block, length // block))
    return Rows(delta, start, length)


def own_rows(delta: Delta, name: str, weight: str, shape: tuple[int, ...]) -> Delta:
    """Of an update of q, k and v together that goes by the name of one of them,
    the rows of that one; any other as it is.

    ComfyUI after 0.30 reads such files so (`comfy.weight_adapter.lokr`): the name of the weight says which projection
    it is, else the layer's own, and the weight has the rows of q or of k and v.

    Args:
        name: Of the layer in the file.
        weight: Of the model's weight.
        shape: The weight's, ``(out, in)``.
    """
    whole = delta.delta if isinstance(delta, Dora) else delta
    parts = thirds(delta.shape) if len(shape) == 2 and isinstance(whole, Kron) else ()
    if not parts or delta.shape[1:] != shape[1:]:
        return delta
    kind = next(
        (kind for kind in map(projection, (weight.removesuffix(".weight"), name)) if kind in ("q", "k", "v")), None
    )
    start, length = parts["qkv".index(kind)] if kind else (0, 0)
    return rows(delta, start, length) if length == shape[0] else delta


def thirds(shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """``(start, length)`` of q, k and v in an update of all three: q is as wide as the input, k and v are equally wide.

    Returns:
        Nothing where the shape is not that of three projections.

    >>> thirds((96, 64)), thirds((64, 64))
    (((0, 64), (64, 16), (80, 16)), ())
    """
    out, width = shape[0], shape[1] if len(shape) > 1 else 0
    rest = out - width
    if rest <= 0 or rest % 2 or not width:
        return ()
    return (0, width), (width, rest // 2), (width + rest // 2, rest // 2)


def _factor_rows(factor: Factor, start: int, length: int) -> Factor:
    if isinstance(factor, Full):
        return Full(factor.value[start : start + length])
    if isinstance(factor, LowRank):
        return replace(factor, up=factor.up[start : start + length])
    if isinstance(factor, Tucker):
        return replace(factor, up=factor.up[:, start : start + length])
    if isinstance(factor, Hadamard):
        return Hadamard(_factor_rows(factor.left, start, length), _factor_rows(factor.right, start, length))
    raise TypeError(f"Rows of a {type(factor).__name__} are not known.")


@final
@dataclass(frozen=True, eq=False)
class Rows(Delta):
    """Rows of an update whose factors cannot be cut there: computed whole, then cut."""

    whole: Delta
    start: int
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, *self.whole.shape[1:])

    def dense(self) -> Tensor:
        return self.whole.dense().narrow(0, self.start, self.length)

    def formed(self) -> Tensor:
        return self.whole.formed().narrow(0, self.start, self.length)

    def scaled(self, scale: float) -> Rows:
        return replace(self, whole=self.whole.scaled(scale))

    def add_to(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        return weight.add_(self.formed(), alpha=strength)

    def apply(self, x: Tensor) -> Tensor:
        return self.whole.apply(x).narrow(-1, self.start, self.length)

    def convolve(self, x: Tensor, **options: object) -> Tensor:
        return self.whole.convolve(x, **options).narrow(1, self.start, self.length)
