"""The forms that an update can be brought into: Kronecker products of given factors, low rank, or dense;
`krona_ops.nearest.fit` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from ..errors import ConfigError
from ..names.spellings import LayerName
from ..targets.rules import PAPER_FACTORS
from ..updates.kron import Layout


@final
@dataclass(frozen=True)
class KronForm:
    """A sum of Kronecker products: ``Σ A ⊗ B``."""

    factors: tuple[int, int] = PAPER_FACTORS
    """``(out_a, in_a)``, the shape of ``A``, out × in; where it does not divide a layer's width,
    the nearest divisors are taken."""
    terms: int = 1
    """Products at most. One fits into a LoKr file; more are closer."""
    layout: Layout = "kron"

    def __post_init__(self) -> None:
        _require_positive("factors", min(self.factors), "Take 64 × 4, the paper's best, to start with.")
        _require_positive("number of terms", self.terms, "One term is what a LoKr file holds.")


@final
@dataclass(frozen=True)
class LowRankForm:
    """A LoRA: ``up (out, rank) @ down (rank, in, *kernel)``."""

    rank: int | None = 16
    """Columns at most; ``None`` takes as many as are exact."""

    def __post_init__(self) -> None:
        _require_positive("rank", 1 if self.rank is None else self.rank, "16 to 64 are usual.")


@final
@dataclass(frozen=True)
class DenseForm:
    """Every number of ``ΔW``: exact, and as large as the layer."""


Form = KronForm | LowRankForm | DenseForm
Forms = Form | Mapping[LayerName, Form | None]
"""One form for all layers, or one for each: layers that are missing stay as they are,
and ``None`` leaves a layer out."""


def _require_positive(what: str, number: int, remedy: str) -> None:
    if number < 1:
        raise ConfigError(f"A {what} of {number} is not possible.", found=number, expected="1 or more", remedy=remedy)
