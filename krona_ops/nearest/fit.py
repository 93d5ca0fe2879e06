"""The nearest update of a form, whichever it is."""

from __future__ import annotations

from ..updates.contraction import norm
from ..updates.delta import Delta
from ..updates.shapes import split
from .forms import Form, KronForm, LowRankForm
from .kronecker import Nearest, Rearrangement
from .low_rank import to_dense, to_low_rank


def fit(delta: Delta, form: Form) -> Nearest:
    """The nearest update of that form. A vector (the update of a bias) stays as it is, whatever the form.

    Raises:
        KronaError: It is a DoRA update, or not finite.
    """
    return fit_and_norm(delta, form)[0]


def fit_and_norm(delta: Delta, form: Form) -> tuple[Nearest, float]:
    """As `fit`, with ``‖ΔW‖``, which the spectrum of a Kronecker form gives for nothing."""
    if isinstance(form, KronForm) and len(delta.shape) > 1:
        rearranged = Rearrangement(delta, split(delta.shape, form.factors), form.layout)
        return rearranged.nearest(form.terms), rearranged.norm
    size = norm(delta)
    if isinstance(form, LowRankForm) and len(delta.shape) > 1:
        return to_low_rank(delta, form.rank), size
    return Nearest(delta if len(delta.shape) < 2 else to_dense(delta), 0.0), size
