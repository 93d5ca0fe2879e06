"""CDKA with several terms: ``ΔW = scale · Σᵢ kron(Bᵢ, Aᵢ)``,
stored as ``cdka_b (r, out_b, in_b)`` and ``cdka_a (r, out_a, in_a)``.

arXiv 2602.01267, eq. 3, as the trainers write it that do not reuse LoKr's names; ``scale = alpha / √(r·in_b)``.
"""

from __future__ import annotations

from ...updates.delta import Delta, Kron, Sum
from ...updates.factor import Full
from ..scale import Sizes
from .layer import StoredLayer, times

PARTS = frozenset({"cdka_a", "cdka_b"})


def read(layer: StoredLayer) -> Delta:
    """The update in a layer's ``cdka_*`` tensors.

    Raises:
        FormatError: A tensor is missing, or they have different numbers of terms.
    """
    b, a = layer.pair("cdka_b", "cdka_a")
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
        raise layer.error(
            f"cdka_a ({times(a.shape)}) and cdka_b ({times(b.shape)}) have different numbers of terms.",
            (tuple(a.shape), tuple(b.shape)),
            "cdka_a (terms, out_a, in_a), cdka_b (terms, out_b, in_b)",
        )
    scale = layer.scale(Sizes(layer.name, "cdka", layer.alpha, a.shape[0], in_a=b.shape[2]))
    terms = tuple(Kron(Full(left), Full(right), scale) for left, right in zip(b, a, strict=True))
    return terms[0] if len(terms) == 1 else Sum(terms)
