"""An update that runs beside its linear layer again and again: what is the same in every call is computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..updates import kron
from ..updates.delta import Delta, Kron, Matrix, Sum
from ..updates.factor import Full, LowRank, widened

AddProduct = Callable[[Tensor, Tensor], Tensor]
"""``(y, x)``: adds ``ΔW x`` onto ``y (..., out)`` in place and returns it; both are contiguous and of one dtype."""


def beside(delta: Delta, dtype: torch.dtype) -> AddProduct:
    """The update of a linear layer, ready for inputs of a dtype.

    `Delta.apply` widens, scales and casts the factors in every call: with the addition eight operations for a Kronecker
    product that comes from a file in half precision, where its own two products are all that is needed. What would be
    larger than it is stored when it is made dense (a LoHa) stays as it is.
    """
    if isinstance(delta, Kron) and isinstance(delta.a, Full) and isinstance(delta.b, Full):
        a, b = (delta.a.formed() * delta.scale).to(dtype), delta.b.formed().to(dtype)
        return lambda y, x: kron.add_product_(y, a, b, x, delta.layout)
    if isinstance(delta, Matrix) and isinstance(delta.factor, LowRank):
        up, down = (widened(delta.factor.up) * delta.scale).to(dtype), delta.factor.down.to(dtype)
        return lambda y, x: _add_low_rank_(y, up, down, x)
    if isinstance(delta, Sum):
        return _one_after_the_other([beside(term, dtype) for term in delta.terms])
    return lambda y, x: y.add_(delta.apply(x))


def _add_low_rank_(y: Tensor, up: Tensor, down: Tensor, x: Tensor) -> Tensor:
    hidden = F.linear(x.view(-1, x.shape[-1]), down)
    y.view(-1, y.shape[-1]).addmm_(hidden, up.mT)
    return y


def _one_after_the_other(parts: list[AddProduct]) -> AddProduct:
    def add(y: Tensor, x: Tensor) -> Tensor:
        for part in parts:
            y = part(y, x)
        return y

    return add
