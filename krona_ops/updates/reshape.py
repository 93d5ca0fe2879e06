"""An update in the shape of the weight that it belongs to, without forming it.

Files do not always say the shape: a decomposed convolution is saved flattened, a linear layer may be a 1 × 1
convolution in another build of the model, PEFT gives a one-dimensional kernel a second axis.
The order of the elements is the same.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import Tensor

from ..errors import ShapeError
from .control import Enlarged, Replacement, can_grow, enlarges
from .delta import Delta, Dora, Kron, Matrix, Sum
from .factor import Factor, Full, Hadamard, LowRank, Tucker


def fits(delta: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether an update of one shape can be viewed as one of the other: same outputs, same number of inputs in all.

    >>> fits((4, 27), (4, 3, 3, 3)), fits((4, 27), (4, 3, 3))
    (True, False)
    """
    return delta[:1] == weight[:1] and prod(delta) == prod(weight)


def suits(delta: Delta, weight: tuple[int, ...]) -> bool:
    """Whether an update can be made on a weight of this shape: as it is, or by enlarging the weight."""
    return fits(delta.shape, weight) or (enlarges(delta) and can_grow(weight, delta.shape))


def reshaped(delta: Delta, weight: tuple[int, ...]) -> Delta:
    """The same update as one of ``weight``'s shape ``(out, in, *kernel)``.

    Factors keep their structure. Only where a factor of a flattened convolution reaches across channels and kernel
    (sd-scripts KronA splits ``in·prod(kernel)``) the update becomes dense.

    Raises:
        ShapeError: The shapes have nothing to do with each other.
    """
    if delta.shape == tuple(weight):
        return delta
    if enlarges(delta) and can_grow(tuple(weight), delta.shape):
        return delta
    if not fits(delta.shape, tuple(weight)):
        raise ShapeError(
            f"The update is {delta.shape}, the weight is {tuple(weight)}.",
            found=delta.shape,
            expected=weight,
            remedy="Choose the base model that the adapter was trained for, or leave this layer out.",
        )
    if isinstance(delta, Kron):
        return _kron(delta, tuple(weight))
    if isinstance(delta, Matrix):
        return replace(delta, factor=_factor(delta.factor, tuple(weight[1:])))
    if isinstance(delta, Sum):
        return replace(delta, terms=tuple(reshaped(term, weight) for term in delta.terms))
    if isinstance(delta, Dora):
        return replace(delta, delta=reshaped(delta.delta, weight), magnitude=_norm(delta, tuple(weight)))
    if isinstance(delta, Replacement):
        return replace(delta, value=delta.value.reshape(weight))
    if isinstance(delta, Enlarged):
        return Enlarged(reshaped(delta.delta, weight))
    raise ShapeError(
        f"An update of the kind {type(delta).__name__} has one shape only.",
        found=delta.shape,
        expected=weight,
        remedy="Choose the base model that the adapter was trained for, or leave this layer out.",
    )


def _kron(delta: Kron, weight: tuple[int, ...]) -> Delta:
    in_a = delta.a.shape[1]
    if weight[1] % in_a:
        return Matrix(Full(delta.formed().reshape(weight)))
    inner = (weight[1] // in_a, *weight[2:])
    return replace(delta, b=_factor(delta.b, inner))


def _factor(factor: Factor, inner: tuple[int, ...]) -> Factor:
    """A factor ``(out, …)`` with other axes behind the first; the elements stay in order."""
    if isinstance(factor, LowRank):
        return replace(factor, down=factor.down.reshape(factor.down.shape[0], *inner))
    if isinstance(factor, Hadamard):
        return Hadamard(_factor(factor.left, inner), _factor(factor.right, inner))
    if isinstance(factor, Full):
        return Full(factor.value.reshape(factor.shape[0], *inner))
    if isinstance(factor, Tucker) and len(inner) > 1 and factor.shape[1] == inner[0]:  # another kernel: (k, 1) for (k,)
        return replace(factor, core=factor.core.reshape(*factor.core.shape[:2], *inner[1:]))
    return Full(factor.formed().reshape(factor.shape[0], *inner))


def _norm(delta: Dora, weight: tuple[int, ...]) -> Tensor:
    ones = (1,) * (len(weight) - 2)
    if delta.is_per_output:
        return delta.magnitude.reshape(-1, 1, *ones)
    if delta.shape[1] != weight[1]:
        raise ShapeError(
            f"Norms of {delta.shape[1]} inputs do not belong to a weight of {weight[1]}.",
            found=delta.shape,
            expected=weight,
            remedy="Choose the base model that the adapter was trained for, or leave this layer out.",
        )
    return delta.magnitude.reshape(1, -1, *ones)
