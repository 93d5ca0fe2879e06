"""An adapter out of two models: what a tuned one has more than its base, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from ..errors import CoverageError, ShapeError
from ..names.spellings import LayerName
from ..nearest.fit import fit_and_norm
from ..nearest.forms import Form, KronForm
from ..room import layer_by_layer
from ..updates.adapter import Adapter
from ..updates.delta import Delta, Matrix
from ..updates.factor import Full, wide_dtype
from .compress import ErrorReport, LayerLoss

ModelWeights = Mapping[str, Tensor] | Callable[[str], Tensor]
"""Weights by name: a state dict, or anything that gives one weight when asked, and need not hold the others."""


def extract(
    tuned: ModelWeights,
    base: ModelWeights,
    form: Form | Mapping[LayerName, Form] | None = None,
    *,
    names: Iterable[str] | None = None,
    tolerance: float = 0.0,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Adapter, ErrorReport]:
    """The difference of two models as an adapter.

    No more than one layer's two weights and their difference are held at a time, besides the result.

    Args:
        tuned, base: Weights by parameter name (``….to_q.weight``), of equal shapes.
        form: What each layer becomes: a `KronForm` (the default, 64 × 4), a `LowRankForm`, a `DenseForm`; or one for
            each layer by name, the others left out. Vectors (biases, norms) are kept as they are.
        names: Which parameters; ``None`` takes all that both mappings have.
        tolerance: Layers that changed nowhere by more than this are left out;
            0 leaves out those that are bitwise equal.

    Returns:
        The adapter, its layers named like the parameters without ``.weight``, and what the form lost.

    Raises:
        CoverageError: There is nothing to compare, or no layer changed.
        ShapeError: A weight has two shapes.
    """
    common = list(names) if names is not None else _common(tuned, base)
    layers: dict[LayerName, Delta] = {}
    lost = []
    for parameter in common:
        name = LayerName(parameter.removesuffix(".weight"))
        wanted = form.get(name) if isinstance(form, Mapping) else form or KronForm()
        with layer_by_layer(name):
            delta = _change(parameter, _one(tuned, parameter), _one(base, parameter), tolerance) if wanted else None
            fitted = None if delta is None or wanted is None else fit_and_norm(delta, wanted)
        if delta is not None and fitted is not None:
            (layers[name], error), size = fitted
            lost.append(LayerLoss(name, size, error, delta.parameters, layers[name].parameters))
    if not layers:
        raise CoverageError(
            f"None of the {len(common)} weights of the two models differ." if common else "The two models share no weight.",
            found=len(common),
            expected="at least one weight that was changed",
            remedy="Were two different models given, and in the right order: tuned, then base?",
        )
    return Adapter(layers, metadata or {}), ErrorReport(tuple(lost))


def _common(tuned: ModelWeights, base: ModelWeights) -> list[str]:
    if not isinstance(tuned, Mapping) or not isinstance(base, Mapping):
        raise TypeError("extract needs names where weights are given by a function")
    return [name for name in tuned if name in base]


def _one(weights: ModelWeights, name: str) -> Tensor:
    return weights[name] if isinstance(weights, Mapping) else weights(name)


def _change(name: str, tuned: Tensor, base: Tensor, tolerance: float) -> Matrix | None:
    """``tuned − base`` in float32 or wider; ``None`` where nothing changed, or what is there is no weight."""
    if tuned.shape != base.shape:
        raise ShapeError(
            f"The tuned model has {tuple(tuned.shape)}, the base model {tuple(base.shape)}.",
            layer=name,
            found=tuple(tuned.shape),
            expected=tuple(base.shape),
            remedy="They are different models; take the base that the tuned one was trained from.",
        )
    if tuned.ndim < 1 or not tuned.is_floating_point():
        return None
    exact = wide_dtype(tuned.dtype, base.dtype)
    change = tuned.detach().to(exact) - base.detach().to(exact)
    return Matrix(Full(change)) if change.numel() and float(change.abs().max()) > tolerance else None
