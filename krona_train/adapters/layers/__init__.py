"""What can be trained in the place of one weight's update: a file for each kind, and a line here.

Target rules name a kind, or the adapter's settings do for all rules that name none: one adapter may hold several.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from krona_ops.errors import ConfigError
from krona_ops.names.spellings import LayerName
from krona_ops.shown import shown
from krona_ops.targets.rules import Target

from ...settings.groups import AdapterConfig
from .difference import DifferenceLayer
from .full import FullLayer
from .kronecker import KronLayer
from .lora import LoraLayer
from .protocol import Layer
from .sum import SumLayer

LAYERS: tuple[type[Layer], ...] = (KronLayer, LoraLayer, SumLayer, DifferenceLayer, FullLayer)
"""The kinds of layer, in the order in which messages list them."""


def layer_type(kind: str) -> type[Layer]:
    """The class of a kind.

    Raises:
        ConfigError: There is no such kind.
    """
    of_kind = next((layer for layer in LAYERS if layer.kind == kind), None)
    if of_kind is None:
        kinds = ", ".join(layer.kind for layer in LAYERS)
        raise ConfigError(
            f"There is no kind of layer {shown(kind)}.", found=kind, expected=kinds, remedy=f"Choose one of {kinds}."
        )
    return of_kind


def layer_type_of(target: Target, config: AdapterConfig) -> type[Layer]:
    """The class of what is trained for a target.

    Raises:
        ConfigError: There is no such kind.
    """
    return layer_type(target.kind or config.kind)


def build_layer(
    target: Target, config: AdapterConfig, rng: torch.Generator, base: Callable[[], Tensor] | None = None
) -> Layer:
    """A fresh layer for one target, see `Layer.build`.

    Raises:
        ConfigError: There is no such kind, or it cannot be trained in that place.
    """
    return layer_type_of(target, config).build(target, config, rng, base or (lambda: _no_base(target.name)))


def _no_base(name: LayerName) -> Tensor:
    raise ConfigError(
        "This kind of layer starts at the model's own weight, and there is no model.",
        layer=name,
        found="no model",
        expected="a model with this layer",
        remedy="Build it with the weight, as a training does.",
    )
