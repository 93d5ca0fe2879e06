"""Whole adapters in fewer numbers: every layer's nearest update of a wanted form, and what that costs.

`compress` takes one form for all layers, one for each, or what `forms_by_rules` and `forms_within` choose: by target
rules, or by a budget of parameters or of error.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..errors import ConfigError
from ..names.spellings import LayerName
from ..nearest.fit import fit_and_norm
from ..nearest.forms import Form, Forms, KronForm
from ..nearest.kronecker import Rearrangement
from ..room import layer_by_layer
from ..targets.rules import TargetRule
from ..updates.absolute import require_base
from ..updates.adapter import Adapter
from ..updates.contraction import norm, require_plain
from ..updates.delta import Delta
from ..updates.gates import is_gate
from ..updates.kron import Layout
from ..updates.shapes import KronShape, split

CANDIDATES = ((4, 4), (64, 4), (4, 64), (8, 8), (16, 16), (32, 32))
"""Factors ``(out_a, in_a)`` that `forms_within` chooses from:
the paper's best, its mirror, and LoKr's usual squares."""


@dataclass(frozen=True)
class LayerLoss:
    """The error and the sizes of one layer that was compressed."""

    name: LayerName
    norm: float
    """``‖ΔW‖`` before."""
    error: float
    """``‖ΔW − approximation‖ / ‖ΔW‖``."""
    before: int
    """Stored numbers."""
    after: int


@dataclass(frozen=True)
class ErrorReport:
    """The errors and the sizes of an adapter that was compressed, layer by layer."""

    layers: tuple[LayerLoss, ...]
    vectors: int = 0
    """Updates of norms and biases among them, which have no factors and stay as they are."""

    @property
    def error(self) -> float:
        """Relative error of all layers together: ``√(Σ‖ΔW − approximation‖² / Σ‖ΔW‖²)``."""
        total = math.hypot(*(layer.norm for layer in self.layers))  # no square of a large number
        return math.hypot(*(layer.norm * layer.error for layer in self.layers)) / total if total else 0.0

    @property
    def before(self) -> int:
        """Stored numbers of the adapter that went in."""
        return sum(layer.before for layer in self.layers)

    @property
    def after(self) -> int:
        """Stored numbers of the adapter that came out."""
        return sum(layer.after for layer in self.layers)

    @property
    def worst(self) -> LayerLoss | None:
        """The layer with the largest relative error."""
        return max(self.layers, key=lambda layer: layer.error, default=None)

    def __str__(self) -> str:
        text = (
            f"{len(self.layers)} layers, {self.before:,} → {self.after:,} parameters, relative error {self.error:.3g}"
        )
        if self.worst and self.worst.error:
            text = f"{text} (largest: {self.worst.error:.3g} in {self.worst.name})"
        if self.vectors:
            text = f"{text}; {self.vectors} of them are of norms and biases, which have no factors and stay as they are"
        return text


def compress(adapter: Adapter, forms: Forms | None = None) -> tuple[Adapter, ErrorReport]:
    """Bring every layer into a form, one layer at a time.

    Args:
        forms: One for all layers (``None``: ``KronForm()``, one product of 64 × 4), or one for each by name: layers
            that are missing stay as they are, and ``None`` leaves a layer out. Vectors (updates of biases) always stay.

    Raises:
        KronaError: A layer that is to change has a DoRA update, which depends on the base model's weight; values wait for
            a base model.
    """
    require_base(adapter.layers, "brought into another form")
    wanted = forms if isinstance(forms, Mapping) else dict.fromkeys(adapter.layers, forms or KronForm())
    layers: dict[LayerName, Delta] = {}
    lost = []
    for name, delta in adapter.layers.items():
        if name not in wanted:
            layers[name] = delta
            with layer_by_layer(name):
                size = 0.0 if delta.needs_weight else norm(delta)
            lost.append(LayerLoss(name, size, 0.0, delta.parameters, delta.parameters))
            continue
        require_plain(delta, "compressed", name)
        form = wanted[name]
        with layer_by_layer(name):
            nearest, size = fit_and_norm(delta, form) if form is not None else (None, norm(delta))
        if nearest is None or (size == 0 and not is_gate(name)):
            lost.append(LayerLoss(name, size, 1.0 if size else 0.0, delta.parameters, 0))
            continue
        layers[name] = nearest.delta
        lost.append(LayerLoss(name, size, nearest.error, delta.parameters, nearest.delta.parameters))
    vectors = sum(len(delta.shape) == 1 and not is_gate(name) for name, delta in adapter.layers.items())
    return replace(adapter, layers=layers), ErrorReport(tuple(lost), vectors)


def forms_by_rules(
    adapter: Adapter, rules: Sequence[TargetRule], terms: int = 1, layout: Layout = "kron"
) -> dict[LayerName, Form | None]:
    """A form with the factors of the first rule that matches, for each layer that one matches;
    the others stay as they are."""
    chosen: dict[LayerName, Form | None] = {}
    for name, delta in adapter.layers.items():
        rule = next((rule for rule in rules if rule.matches(name)), None)
        if rule is not None and len(delta.shape) > 1:
            chosen[name] = KronForm(rule.factors, terms, layout)
    return chosen


def forms_within(
    adapter: Adapter,
    *,
    parameters: int | None = None,
    error: float | None = None,
    candidates: Sequence[tuple[int, int]] = CANDIDATES,
    max_terms: int = 1,
    layout: Layout = "kron",
) -> dict[LayerName, Form | None]:
    """Factors for each layer that lose least within a budget.

    Each layer starts as left out. Then the step that removes most squared error per parameter is taken, over all layers
    and all candidates, until the parameters are spent or the error is small enough.
    Every layer's spectra are computed once.

    Args:
        parameters: Stored numbers that all layers together may have.
        error: Relative error of all layers together that may remain.
        candidates: Factors ``(out_a, in_a)``; their nearest divisors are taken for each layer.
        max_terms: Products per layer at most; more than one does not fit into a LoKr file.

    Returns:
        A form per layer for `compress`; ``None`` for layers that the budget has no room for.
        Vectors are not in it, and stay.

    Raises:
        ConfigError: Not exactly one budget is given, or it cannot be met.
        KronaError: A layer has a DoRA update.
    """
    if (parameters is None) == (error is None) or not candidates or max_terms < 1:
        raise ConfigError(
            "Choosing factors needs one budget, candidates and at least one term.",
            found={"parameters": parameters, "error": error, "candidates": len(candidates), "terms": max_terms},
            expected="either parameters or error, one candidate or more, max_terms of 1 or more",
            remedy="Give the number of parameters that the result may have, or the error that may remain.",
        )
    options = {
        name: _options(name, delta, candidates, max_terms, layout)
        for name, delta in adapter.layers.items()
        if len(delta.shape) > 1
    }
    hulls = {name: _lower_hull(of_layer) for name, of_layer in options.items()}
    chosen, spent, lost = _climb(hulls, parameters, error)
    least = min((hull[1].parameters for hull in hulls.values() if len(hull) > 1), default=0)
    if parameters is not None and spent == 0 < least:
        raise ConfigError(
            f"A budget of {parameters:,} has room for no layer, and each would be left out.",
            found=parameters,
            expected=least,
            remedy=f"Allow {least:,} parameters or more.",
        )
    total = sum(of_layer[0].lost for of_layer in options.values())
    if error is not None and lost > error**2 * total * (1 + 1e-9):
        raise ConfigError(
            f"A relative error of {error:g} cannot be met: {(lost / total) ** 0.5:.3g} remains with {spent:,} parameters.",
            found=(lost / total) ** 0.5,
            expected=error,
            remedy="Allow more terms or other factors, or a larger error.",
        )
    return chosen


@dataclass(frozen=True)
class _Option:
    """One way to store a layer, with its size and its error."""

    parameters: int
    lost: float
    """``‖ΔW − approximation‖²``."""
    form: KronForm | None


def _options(
    name: LayerName, delta: Delta, candidates: Sequence[tuple[int, int]], max_terms: int, layout: Layout
) -> list[_Option]:
    """The layer left out, and every candidate with every number of terms."""
    require_plain(delta, "compressed", name)
    splits: dict[KronShape, tuple[int, int]] = {}
    for factors in candidates:
        splits.setdefault(split(delta.shape, factors), factors)
    options: list[_Option] = []
    for sizes, factors in splits.items():
        with layer_by_layer(name):
            rearranged = Rearrangement(delta, sizes, layout)
            energy = rearranged.norm * rearranged.norm
        options = options or [_Option(0, energy, None)]
        for terms in range(1, min(max_terms, len(rearranged.spectrum)) + 1):
            lost = rearranged.error(terms) ** 2 * energy
            options.append(_Option(terms * sizes.parameters, lost, KronForm(factors, terms, layout)))
    return options


def _lower_hull(options: Sequence[_Option]) -> list[_Option]:
    """Those options that lose least for some price per parameter, in ascending size."""
    hull: list[_Option] = []
    for option in sorted(options, key=lambda o: (o.parameters, o.lost)):
        if hull and option.lost >= hull[-1].lost:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _gain(small: _Option, large: _Option) -> float:
    """Squared error removed per parameter added."""
    return (small.lost - large.lost) / max(1, large.parameters - small.parameters)


def _climb(
    hulls: Mapping[LayerName, Sequence[_Option]], parameters: int | None, error: float | None
) -> tuple[dict[LayerName, Form | None], int, float]:
    """Take the best step of any layer, again and again, until the budget is spent or the error is small enough."""
    at = dict.fromkeys(hulls, 0)
    spent, lost = 0, sum(hull[0].lost for hull in hulls.values())
    enough = error**2 * lost if error is not None else 0.0
    steps = [
        (-_gain(small, large), order, n, name)
        for order, (name, hull) in enumerate(hulls.items())
        for n, (small, large) in enumerate(pairwise(hull))
    ]
    heapq.heapify(steps)
    blocked: set[LayerName] = set()
    while steps and not (error is not None and lost <= enough):
        _, _, n, name = heapq.heappop(steps)
        small, large = hulls[name][n], hulls[name][n + 1]
        added = large.parameters - small.parameters
        if name in blocked or (parameters is not None and spent + added > parameters):
            blocked.add(name)  # a layer's steps build on each other; smaller ones of other layers may still fit
            continue
        at[name], spent, lost = n + 1, spent + added, lost - (small.lost - large.lost)
    return {name: hulls[name][n].form for name, n in at.items()}, spent, lost
