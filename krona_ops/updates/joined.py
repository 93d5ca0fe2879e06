"""A sum of updates as one, where that is exact and no larger: LoRAs side by side, and dense ones added."""

from __future__ import annotations

import torch
from torch import Tensor

from .contraction import terms_of
from .delta import Delta, Matrix, Sum
from .factor import Full, LowRank, widened


def joined(delta: Delta) -> Delta:
    """The same update with the LoRAs of a sum as one of their ranks' sum; dense ones added.

    Everything else, sums of Kronecker products above all, comes back as it is:
    no file format holds it, which the writers say.
    """
    if not isinstance(delta, Sum):
        return delta
    terms = terms_of(delta)
    loras = [(t.factor, t.scale) for t in terms if isinstance(t, Matrix) and isinstance(t.factor, LowRank)]
    if len(loras) == len(terms):
        pairs = [(_times(factor.up, scale), factor.down) for factor, scale in loras]
        dtype = torch.float64 if any(t.dtype == torch.float64 for pair in pairs for t in pair) else torch.float32
        if len({t.dtype for pair in pairs for t in pair}) == 1:
            dtype = pairs[0][1].dtype
        up, down = torch.cat([u.to(dtype) for u, _ in pairs], 1), torch.cat([d.to(dtype) for _, d in pairs], 0)
        return Matrix(LowRank(up, down))
    if all(isinstance(term, Matrix) and isinstance(term.factor, Full) for term in terms):
        return Matrix(Full(delta.dense()))
    return delta


def _times(up: Tensor, scale: float) -> Tensor:
    """``scale · up``, in float32 unless the scale is 1: rounding the product in half precision would change the sum."""
    return up if scale == 1.0 else widened(up) * scale
