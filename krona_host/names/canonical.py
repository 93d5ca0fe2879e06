"""An adapter with the layer names of a model: what several dialects mean becomes comparable."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from krona_ops import Adapter, LayerName, Matrix
from krona_ops.names.branches import place_of
from krona_ops.updates.delta import Delta
from krona_ops.updates.embedded import embedded
from krona_ops.updates.factor import Full

from .resolution import grouped, resolve, summed, with_networks
from .sites import Site, weight_shape

if TYPE_CHECKING:
    from ..types import Clip, Model

log = logging.getLogger(__name__)


def canonical(adapter: Adapter, model: Model | None = None, clip: Clip | None = None) -> Adapter:
    """The same updates under the host's own names; parts of a fused weight become updates of the whole one.

    Layers that the models do not have, or have in another shape, keep their names, and the log says which. So do those
    of parallel branches, which are called after the host's own names.

    Raises:
        ShapeError, CoverageError: The adapter is for another base model.
    """
    if adapter.layers and all(place_of(name) is not None for name in adapter.layers):
        return adapter
    resolution = resolve(adapter, model, clip)
    if resolution.unmatched:
        log.warning("KronA: %s", resolution.report())
    layers: dict[LayerName, list[Delta]] = {}
    for pairs, net in with_networks(resolution, model, clip):
        for site, deltas in grouped(pairs).items():
            whole = [_whole(delta, site, net) for delta in deltas]
            layers.setdefault(LayerName(site.key.removesuffix(".weight")), []).extend(whole)
    matched = {name: summed(deltas) for name, deltas in layers.items()}
    rest = {LayerName(name): adapter.layers[LayerName(name)] for name in resolution.unmatched}
    return replace(adapter, layers={**matched, **rest})


def _whole(delta: Delta, site: Site, net: nn.Module) -> Delta:
    """The update of the whole weight that a site is a part of."""
    if site.function is not None:
        delta = Matrix(Full(site.function(delta.dense())))
    if site.offset is None:
        return delta
    dimension, start, _ = site.offset
    shape = weight_shape(Site(site.key), net)
    if dimension == 0:
        return embedded(delta, start, shape[0])
    dense = delta.dense()
    whole = dense.new_zeros(shape)
    whole.narrow(dimension, start, site.offset[2]).copy_(dense)
    return Matrix(Full(whole))


def named_for_core(adapter: Adapter, format: str, model: Model | None = None) -> Adapter:
    """The adapter under names that ComfyUI's own loader knows: the model's; without one, by the tables of all models.

    Args:
        format: As for `krona_ops.encode`.

    Raises:
        FormatError: A layer has no such name; connecting the model, or leaving the layer out, helps.
        ShapeError, CoverageError: The adapter is for another base model.
    """
    from krona_ops.operations.respell import UNDERSCORED, respelled  # the tables of all models, which few graphs ask

    if model is None:
        return respelled(adapter, format)
    renamed = canonical(adapter, model)
    weights = model.model.state_dict()
    own = {name: delta for name, delta in renamed.layers.items() if name in weights or f"{name}.weight" in weights}
    rest = {name: delta for name, delta in renamed.layers.items() if name not in own}
    if format in UNDERSCORED:
        own = {_underscored(name): delta for name, delta in own.items()}
    return replace(renamed, layers={**own, **(respelled(replace(adapter, layers=rest), format).layers if rest else {})})


def _underscored(name: LayerName) -> LayerName:
    """The host's name of a model's layer as its key map spells it with underscores; ``.bias`` stays behind it."""
    bias = ".bias" if name.endswith(".bias") else ""
    path = name.removeprefix("diffusion_model.").removesuffix(".bias").replace(".", "_")
    return LayerName(f"lora_unet_{path}{bias}")
