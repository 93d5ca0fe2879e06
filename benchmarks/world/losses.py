"""How well an adapted model denoises pictures of a subject, those that it was trained on or others."""

from __future__ import annotations

import torch

from krona_ops import Adapter
from krona_train.adapters.attach import attached
from krona_train.adapters.targets import targets_of
from krona_train.adapters.trainee import build_layers
from krona_train.objectives.denoising import denoising
from krona_train.objectives.needs import members_of
from krona_train.objectives.noise import Draw
from krona_train.randomness import generator

from .training import Material

LEVELS = 8
"""Noise levels of each picture, evenly spread."""


def loss(material: Material, adapter: Adapter) -> float:
    """Mean plain squared error on the material's pictures with an adapter that was trained with its settings.

    Noise and levels are the same for every adapter, and for the first, second, … picture of every material.
    """
    backbone, config = material.backbone, material.config
    losses = []
    with backbone.ready():
        targets = targets_of(backbone, config.adapter)
        layers = build_layers(targets, config.adapter, config.seed, backbone.device)
        for name, delta in adapter.layers.items():
            layers[name].begin_at(delta)
        with torch.no_grad(), attached(backbone, layers):
            for n, member in enumerate(member for item in material.items for member in members_of(item)):
                batch = backbone.collate([member.forms[0]])
                for level in range(LEVELS):
                    noise = torch.randn(batch.x0.shape, generator=generator(0, "validation", n, level)).to(batch.x0)
                    time = torch.full((1,), (level + 0.5) / LEVELS)
                    losses.append(denoising(backbone, batch, Draw(backbone.noise_levels(time), noise)).item())
    return sum(losses) / len(losses)
