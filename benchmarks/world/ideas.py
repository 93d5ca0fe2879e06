"""Ideas that might beat the paper's recipe: other starts, sums of products, factors by budget, fewer layers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from krona_ops import Adapter, LayerName, TargetRule, select
from krona_ops.nearest.forms import KronForm
from krona_ops.nearest.kronecker import nearest_kron
from krona_ops.operations.compress import forms_within
from krona_ops.targets.rules import Target
from krona_ops.updates.delta import Delta, Kron, Matrix
from krona_ops.updates.factor import Full
from krona_train import AdapterConfig, TrainConfig, fit
from krona_train.adapters.attach import attached
from krona_train.adapters.layers.difference import DifferenceLayer
from krona_train.backbone.protocol import Backbone
from krona_train.batches.samples import Samples
from krona_train.objectives.denoising import denoising
from krona_train.objectives.denoising_config import DenoisingConfig
from krona_train.objectives.noise import draw
from krona_train.randomness import generator

from .training import Layers, Material, Train, Trained, with_start

LOOKS = 16
"""Batches whose gradient is taken before the first step."""


def gradients(material: Material, targets: Sequence[Target]) -> dict[LayerName, Tensor]:
    """The loss's gradient by each layer's weight ``(out, in)``, mean over some batches; inside ``backbone.ready()``."""
    backbone = material.backbone
    config = replace(material.config, seed=material.config.seed + 1_000)  # other noise than the training's
    probes = {target.name: DifferenceLayer(target).to(backbone.device) for target in targets}
    samples = Samples(material.items, config)
    with attached(backbone, probes):
        for number in range(LOOKS):
            (loss_of(backbone, samples, config, number) / LOOKS).backward()
    return {name: _gradient(probe).cpu() for name, probe in probes.items()}


def _gradient(probe: DifferenceLayer) -> Tensor:
    assert probe.value.grad is not None  # all batches have gone back through it
    return probe.value.grad


def loss_of(backbone: Backbone, samples: Samples, config: TrainConfig, number: int) -> Tensor:
    """The mean loss of a batch, as the trainer takes it."""
    piece = samples.batch(number)
    batch = backbone.collate([sample.example for sample in piece])
    objective = config.objective
    assert isinstance(objective, DenoisingConfig)  # contenders have no other
    drawn = draw(backbone, batch.x0, config.seed, [sample.number for sample in piece], objective, "noise")
    return denoising(backbone, batch, drawn, objective).mean()


@torch.no_grad()
def orthogonal(layers: Layers, material: Material) -> None:
    """``A`` with orthonormal columns or rows (Saxe et al. 2014), as long as the released recipe's is on average."""
    rng = generator(material.config.seed, "factors", 2)
    for layer in layers.values():
        rows, columns = layer.a.shape
        q, _ = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns), generator=rng))
        layer.a.copy_(_as_long(q if rows >= columns else q.mT, layer.a))


@torch.no_grad()
def wide(layers: Layers, material: Material) -> None:
    """``A`` of standard deviation ``1/√out_a`` instead of ``1/out_a``."""
    for layer in layers.values():
        layer.a.mul_(layer.a.shape[0] ** 0.5)


SMALL = 1 / 512
"""An eighth of what 64 × 4 starts at."""


@torch.no_grad()
def small(layers: Layers, material: Material) -> None:
    """``A`` of the same small standard deviation whatever its shape, so that what it starts at is soon forgotten."""
    for layer in layers.values():
        layer.a.mul_(SMALL * layer.a.shape[0])


def by_gradient(layers: Layers, material: Material) -> None:
    """``A`` is that of the nearest Kronecker product to the first gradient,
    as long as the released recipe's is on average."""
    targets = [t for t in select(material.backbone.weights(), material.config.adapter.targets) if t.name in layers]
    for name, gradient in gradients(material, targets).items():
        layer = layers[name]
        nearest = nearest_kron(Matrix(Full(gradient)), tuple(layer.a.shape), layout=layer.layout).delta
        assert isinstance(nearest, Kron)  # of one term
        with torch.no_grad():
            layer.a.copy_(_as_long(nearest.a.dense(), layer.a))


def _as_long(a: Tensor, like: Tensor) -> Tensor:
    """Scaled to the expected norm of ``N(0, 1/out_a²)`` in this shape."""
    return a * (like.numel() ** 0.5 / like.shape[0] / a.norm())


def sum_of(first: tuple[int, int], *more: tuple[int, int]) -> Train:
    """Layers that add several products."""

    def as_sum(adapter: AdapterConfig) -> AdapterConfig:
        rules = tuple(replace(rule, factors=first, kind="sum", terms=more) for rule in adapter.targets)
        return replace(adapter, targets=rules)

    return with_start(_other_random_factors, as_sum)


@torch.no_grad()
def _other_random_factors(layers: Layers, material: Material) -> None:
    """Those that the rows of these ideas have always begun at."""
    rng = generator(material.config.seed, "factors", 3)
    for layer in layers.values():
        for part in layer.parts:
            part.a.copy_(torch.randn(part.a.shape, generator=rng) / part.a.shape[0])


def _rules(factors: Mapping[LayerName, tuple[int, int]]) -> tuple[TargetRule, ...]:
    return tuple(TargetRule(pair, projections=(), pattern=f"^{re.escape(name)}$") for name, pair in factors.items())


def _factors(delta: Delta) -> tuple[int, int]:
    assert isinstance(delta, Kron)  # what was trained
    return delta.sizes.out_a, delta.sizes.in_a


def by_budget(material: Material) -> Trained:
    """Factors of each layer chosen by how much of its first gradient they hold,
    for the parameters that the rule would have."""
    backbone, config = material.backbone, material.config
    with backbone.ready():
        targets = select(backbone.weights(), config.adapter.targets)
        gradient_of = gradients(material, targets)
    budget = sum(target.sizes.parameters for target in targets)
    chosen = forms_within(
        Adapter({name: Matrix(Full(gradient)) for name, gradient in gradient_of.items()}), parameters=budget
    )
    factors = {name: form.factors for name, form in chosen.items() if isinstance(form, KronForm)}
    adapter = fit(backbone, material.items, replace(config, adapter=replace(config.adapter, targets=_rules(factors))))
    return Trained(adapter, adapter.parameters)


def half_of_the_layers(material: Material) -> Trained:
    """A fifth of the steps with all layers; then, from the start, those whose weights have moved furthest,
    for the rest of the steps."""
    config = material.config
    first = fit(material.backbone, material.items, dataclasses.replace(config, steps=config.steps // 5))
    moved = {name: float(delta.dense().square().mean()) for name, delta in first.layers.items()}
    kept = sorted(moved, key=moved.__getitem__, reverse=True)[: len(moved) // 2]
    rules = _rules({name: _factors(first.layers[name]) for name in kept})
    rest = replace(config, steps=config.steps - config.steps // 5, adapter=replace(config.adapter, targets=rules))
    adapter = fit(material.backbone, material.items, rest)
    return Trained(adapter, adapter.parameters)
