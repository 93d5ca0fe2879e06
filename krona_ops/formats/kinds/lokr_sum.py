"""A sum of Kronecker products, of equal or of different sizes:
``<layer>.lokr_sum_<i>_w1`` and ``…_w2`` for the ``i``-th, their scales in ``w1``.

This pack's own: no other format holds such a sum exactly, and loaders that know LoKr alone leave these tensors out and
say so, where a part of the sum under LoKr's names would give other pictures without a word.
"""

from __future__ import annotations

from torch import Tensor

from ...updates.delta import Delta, Kron, Sum
from ..parts import SUM_PARTS
from .layer import StoredLayer, whole
from .lokr import times_number

PARTS = frozenset(SUM_PARTS)
MOST_TERMS = len(SUM_PARTS) // 2


def read(layer: StoredLayer) -> Delta:
    """The update in a layer's ``lokr_sum_*`` tensors.

    Raises:
        FormatError: A factor is missing, or products are of different shapes.
    """
    count = 1 + max(int(part.split("_")[2]) for part in layer.parts if part in PARTS)
    terms = tuple(
        Kron(whole(layer, f"lokr_sum_{number}_w1", (2, 2)), whole(layer, f"lokr_sum_{number}_w2", (2, 5)))
        for number in range(count)
    )
    if len({term.shape for term in terms}) > 1:
        raise layer.error(
            "Its products have different shapes.", sorted({term.shape for term in terms}), "products of one shape"
        )
    return Sum(terms)


def write(delta: Sum) -> dict[str, Tensor]:
    """The ``lokr_sum_*`` tensors; none where the sum is of other things than Kronecker products, or of too many."""
    terms = [term for term in delta.terms if isinstance(term, Kron) and term.layout == "kron"]
    if len(terms) != len(delta.terms) or len(terms) > MOST_TERMS:
        return {}
    parts: dict[str, Tensor] = {}
    for number, term in enumerate(terms):
        parts[f"lokr_sum_{number}_w1"] = times_number(term.a.dense(), term.scale)
        parts[f"lokr_sum_{number}_w2"] = term.b.dense()
    return parts
