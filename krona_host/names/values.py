"""Values of norms, as ResAdapter's files have them, against the weights of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from krona_ops import Adapter
from krona_ops.errors import CoverageError, ShapeError
from krona_ops.names.resadapter import base_model, is_norm, is_sampler, levels
from krona_ops.updates.absolute import Absolute
from krona_ops.updates.delta import Delta

from ..model.weights_of import WeightsOf
from .sites import Site

if TYPE_CHECKING:
    from ..types import Model


def against(pairs: tuple[tuple[Site, Delta], ...], model: Model | None) -> tuple[tuple[Site, Delta], ...]:
    """Values as the changes that lead to them from the model's own weights; other updates stay as they are.

    The model's own are those without what is patched on it: so several adapters add up, in any order.
    """
    if model is None or not any(isinstance(delta, Absolute) for _, delta in pairs):
        return pairs
    weights = WeightsOf(model)
    return tuple(
        (site, delta.against(weights.unpatched(site.key)) if isinstance(delta, Absolute) else delta)
        for site, delta in pairs
    )


def require_whole(
    adapter: Adapter, family: str, host_names: Mapping[str, Site], reasons: Mapping[str, str], misfits: Mapping[str, str]
) -> None:
    """Refuse a ResAdapter for another model: of SDXL's layers most fit an SD1.5 too, and drawing with them makes no sense.

    Args:
        host_names: The host's own names of the model's layers.
        reasons: Why layers have no weight in the model, by layer; empty texts where there is none of that name.
        misfits: Those of them that have another shape.

    Raises:
        CoverageError: The model has none of the layers, or not all of them.
        ShapeError: One has another shape.
    """
    if not reasons or not all(is_norm(name) or is_sampler(name) for name in adapter.layers):
        return
    theirs, ours = levels(adapter.layers), levels(host_names)
    kind = base_model(adapter.layers)
    file = f"a UNet of {theirs} levels{f', as {kind} has' if kind else ''}"
    remedy = f"Load the {kind or 'checkpoint'} {'model ' if kind else ''}that it was made for, or the file for this model."
    if not ours:
        message = f"The file is a ResAdapter's, for {file}, and this {family} model is no such UNet"
    elif ours != theirs:
        message = f"The file is a ResAdapter's, for {file}, and this {family} model's UNet has {ours}"
    elif misfits:
        message = f"The file is a ResAdapter's for another base model: {next(iter(misfits.values()))}"
    else:
        message = f"The file is a ResAdapter's for another base model: {len(reasons)} of its {len(adapter)} layers are not in this {family} model"
    layer, found = next(iter(misfits or reasons)), kind or f"{theirs} levels"
    if misfits:
        raise ShapeError(f"{message}.", layer=layer, found=found, expected=family, remedy=remedy)
    raise CoverageError(f"{message}.", layer=layer, found=found, expected=family, remedy=remedy)
