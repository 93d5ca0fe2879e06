"""What is compared: the pack's own trainer, with other starts and other kinds of layer than those that it comes
with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from krona_ops import Adapter, LayerName
from krona_ops.targets.rules import TargetRule
from krona_train import AdapterConfig, TrainConfig, fit
from krona_train.adapters.layers.kronecker import KronLayer
from krona_train.adapters.start import Start
from krona_train.adapters.targets import targets_of
from krona_train.adapters.trainee import build_layers, collect
from krona_train.batches.examples import Group, Item
from krona_train.randomness import generator


@dataclass(frozen=True)
class Material:
    """What a contender trains on."""

    backbone: Any
    """The host's model as a backbone, whose weights nobody else needs meanwhile."""
    items: Sequence[Item | Group]
    config: TrainConfig
    class_items: Sequence[Item] = ()


@dataclass(frozen=True)
class Trained:
    """What came out."""

    adapter: Adapter
    parameters: int


Train = Callable[[Material], Trained]
Layers = Mapping[LayerName, Any]
"""Fresh layers, to be started in another way; their kind is that of the contender."""
Begin = Callable[[Layers, Material], None]
"""Writes into the layers; called inside ``backbone.ready()``."""


def by_the_pack(material: Material, start: Start | None = None) -> Trained:
    """The pack's own trainer, as it comes or begun elsewhere."""
    adapter = fit(material.backbone, material.items, material.config, class_data=material.class_items, start=start)
    return Trained(adapter, adapter.parameters)


def with_start(begin: Begin, change: Callable[[AdapterConfig], AdapterConfig] = lambda adapter: adapter) -> Train:
    """Layers of a kind that is perhaps another than the contender's settings say, started in another way."""

    def train(material: Material) -> Trained:
        material = replace(material, config=replace(material.config, adapter=change(material.config.adapter)))
        backbone, config = material.backbone, material.config
        with backbone.ready():
            targets = targets_of(backbone, config.adapter)
            layers = build_layers(targets, config.adapter, config.seed, backbone.device)
            begin(layers, material)
        return by_the_pack(material, Start(collect(layers), 0.0, 0, ()))

    return train


@torch.no_grad()
def as_core_starts(layers: Layers, material: Material) -> None:
    """ComfyUI's LoKr: ``w1 = 0``, ``w2`` Kaiming-uniform with ``a = √5`` (comfy/weight_adapter/lokr.py,
    `create_train`)."""
    _uniform(layers, material.config, lambda layer: (layer.b, layer.a))


@torch.no_grad()
def as_lycoris_starts(layers: Layers, material: Material) -> None:
    """LyCORIS' LoKr: ``w1`` Kaiming-uniform with ``a = √5``, ``w2 = 0`` (lycoris/modules/lokr.py)."""
    _uniform(layers, material.config, lambda layer: (layer.a, layer.b))


def _uniform(
    layers: Mapping[LayerName, KronLayer], config: TrainConfig, roles: Callable[[KronLayer], tuple[Tensor, Tensor]]
) -> None:
    rng = generator(config.seed, "factors", 1)
    for layer in layers.values():
        random, zero = roles(layer)
        bound = random.shape[1] ** -0.5  # torch.nn.init.kaiming_uniform_ with a = √5: √(6 / ((1 + 5) · fan in))
        random.copy_((2 * torch.rand(random.shape, generator=rng) - 1) * bound)
        zero.zero_()


def full_fine_tuning(material: Material) -> Trained:
    """DreamBooth as published: all parameters of the UNet move (Ruiz et al. 2022); the text encoder stays."""
    adapter = replace(material.config.adapter, targets=(TargetRule(projections=(), kind="full"),))
    return by_the_pack(replace(material, config=replace(material.config, adapter=adapter)))
