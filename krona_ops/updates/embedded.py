"""An update of some rows as an update of the whole weight, zero elsewhere:
q, k and v of a model that keeps them in one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .delta import Delta, Kron, Matrix, Sum
from .factor import Factor, Full, LowRank


def embedded(delta: Delta, start: int, total: int) -> Delta:
    """``(total, in, *kernel)`` with ``delta`` in the rows from ``start`` on, exactly;
    structured where the rows fall on factor rows.

    Raises:
        KronaError: It is a DoRA update that has to be formed.
    """
    if isinstance(delta, Sum):
        return Sum(tuple(embedded(term, start, total) for term in delta.terms))
    if isinstance(delta, Matrix) and isinstance(delta.factor, Full | LowRank):
        return replace(delta, factor=_padded(delta.factor, start, total))
    if isinstance(delta, Kron) and delta.layout == "kron" and isinstance(delta.a, Full | LowRank):
        block = delta.sizes.out_b  # row i of A makes rows i·out_b to (i + 1)·out_b
        if start % block == 0 and total % block == 0:
            return replace(delta, a=_padded(delta.a, start // block, total // block))
    return Matrix(Full(_rows(delta.dense(), start, total)))


def is_of_parts(delta: Delta) -> bool:
    """Whether a sum's terms change different rows of the weight: layers that a model keeps in one, each `embedded`."""
    if not isinstance(delta, Sum) or len(delta.terms) < 2:
        return False
    changed = [rows for term in delta.terms if (rows := _changed(term)) is not None]
    return len(changed) == len(delta.terms) and int(torch.stack(changed).int().sum(0).max()) <= 1


def _changed(delta: Delta) -> Tensor | None:
    """Which rows of the weight are not zero, ``(out,)``; ``None`` where that is not seen without forming it."""
    if isinstance(delta, Kron) and delta.layout == "kron":
        return _is_there(delta.a).repeat_interleave(delta.sizes.out_b)
    return _is_there(delta.factor) if isinstance(delta, Matrix) else None


def _is_there(factor: Factor) -> Tensor:
    stored = factor.up if isinstance(factor, LowRank) else factor.dense()
    return stored.flatten(1).ne(0).any(1)


def _padded(factor: Full | LowRank, start: int, total: int) -> Factor:
    if isinstance(factor, LowRank):
        return replace(factor, up=_rows(factor.up, start, total))
    return Full(_rows(factor.value, start, total))


def _rows(tensor: Tensor, start: int, total: int) -> Tensor:
    whole = torch.zeros(total, *tensor.shape[1:], dtype=tensor.dtype, device=tensor.device)
    whole[start : start + len(tensor)] = tensor
    return whole
