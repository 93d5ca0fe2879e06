"""An adapter with the layer names of a model: what several dialects mean becomes comparable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from krona_ops import Adapter, LayerName, Matrix
from krona_ops.delta import Delta
from krona_ops.factor import Full
from krona_ops.placed import placed

from .keys import grouped, resolve
from .sites import Site, weight_shape
from .weight_adapter import summed


def canonical(adapter: Adapter, model: Any = None, clip: Any = None) -> Adapter:
    """The same updates under the host's own names; parts of a fused weight become updates of the whole one.

    Layers that the models do not have keep their names.

    Raises:
        ShapeError, CoverageError: The adapter is for another base model.
    """
    resolution = resolve(adapter, model, clip)
    layers: dict[LayerName, list[Delta]] = {}
    for pairs, net in (
        (resolution.model, getattr(model, "model", None)),
        (resolution.clip, getattr(clip, "cond_stage_model", None)),
    ):
        for site, deltas in grouped(pairs).items():
            whole = [_whole(delta, site, net) for delta in deltas]
            layers.setdefault(LayerName(site.key.removesuffix(".weight")), []).extend(whole)
    known = {name: summed(deltas) for name, deltas in layers.items()}
    rest = {LayerName(name): adapter.layers[LayerName(name)] for name in resolution.unmatched}
    return replace(adapter, layers={**known, **rest})


def _whole(delta: Delta, site: Site, net: Any) -> Delta:
    if site.function is not None:
        delta = Matrix(Full(site.function(delta.dense())))
    if site.offset is None:
        return delta
    dimension, start, _ = site.offset
    shape = weight_shape(Site(site.key), net)
    if dimension == 0:
        return placed(delta, start, shape[0])
    dense = delta.dense()
    whole = dense.new_zeros(shape)
    whole.narrow(dimension, start, site.offset[2]).copy_(dense)
    return Matrix(Full(whole))
