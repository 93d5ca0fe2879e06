"""Ideas that might beat the paper's recipe: other starts, sums of products, factors by budget, fewer layers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from krona_ops import Adapter, LayerName, TargetRule, select
from krona_ops.nearest.forms import KronForm
from krona_ops.nearest.kronecker import nearest_kron
from krona_ops.operations.compress import forms_within
from krona_ops.targets.rules import Target
from krona_ops.updates.delta import Matrix, Sum
from krona_ops.updates.factor import Full
from krona_train import fit
from krona_train.adapters.layers import KronLayer
from krona_train.batches.samples import Samples
from krona_train.loop import attached
from krona_train.randomness import generator

from .training import Layers, Material, Trained, loss_of

LOOKS = 16
"""Batches whose gradient is taken before the first step."""


class Probe(nn.Module):
    """A dense update of zero, for its gradient."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, y: Tensor, convolution: dict[str, object] | None = None) -> Tensor:
        """``y + ΔW x``."""
        return y + nn.functional.linear(x, self.weight)


def gradients(material: Material, targets: Sequence[Target]) -> dict[LayerName, Tensor]:
    """The loss's gradient by each layer's weight ``(out, in)``, mean over some batches; inside ``backbone.ready()``."""
    backbone = material.backbone
    config = replace(material.config, seed=material.config.seed + 1_000)  # other noise than the training's
    probes = {t.name: Probe((t.sizes.out_features, t.sizes.in_features)).to(backbone.device) for t in targets}
    samples = Samples(material.items, config)
    with attached(backbone, probes):
        for number in range(LOOKS):
            (loss_of(backbone, samples, config, number) / LOOKS).backward()
    return {name: probe.weight.grad.cpu() for name, probe in probes.items()}


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
    """``A`` is that of the nearest Kronecker product to the first gradient, as long as the released recipe's is on average."""
    targets = [t for t in select(material.backbone.weights(), material.config.adapter.targets) if t.name in layers]
    for name, gradient in gradients(material, targets).items():
        layer = layers[name]
        found = nearest_kron(Matrix(Full(gradient)), tuple(layer.a.shape), layout=layer.layout).delta
        with torch.no_grad():
            layer.a.copy_(_as_long(found.a.dense(), layer.a))


def _as_long(a: Tensor, like: Tensor) -> Tensor:
    """Scaled to the expected norm of ``N(0, 1/out_a²)`` in this shape."""
    return a * (like.numel() ** 0.5 / like.shape[0] / a.norm())


class SumLayer(nn.Module):
    """Two Kronecker products side by side."""

    def __init__(self, parts: Sequence[KronLayer]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, y: Tensor, convolution: dict[str, object] | None = None) -> Tensor:
        """``y + ΔW x``."""
        for part in self.parts:
            y = part(x, y, convolution)
        return y

    def delta(self) -> Sum:
        """The update as a value."""
        return Sum(tuple(part.delta() for part in self.parts))


def sum_of(*factors: tuple[int, int]) -> Any:
    """Layers that add several products."""

    def build(material: Material, targets: Sequence[Target]) -> Layers:
        rng = generator(material.config.seed, "factors", 3)
        found = {}
        for target in targets:
            shape = (target.sizes.out_features, target.sizes.in_features)
            chosen = [select({target.name: shape}, (TargetRule(pair, projections=()),))[0] for pair in factors]
            found[target.name] = SumLayer([KronLayer(one, material.config.adapter.layout, rng) for one in chosen]).to(
                material.backbone.device
            )
        return found

    return build


def _rules(factors: Mapping[LayerName, tuple[int, int]]) -> tuple[TargetRule, ...]:
    return tuple(TargetRule(pair, projections=(), pattern=f"^{re.escape(name)}$") for name, pair in factors.items())


@contextmanager
def by_budget(material: Material) -> Iterator[Trained]:
    """Factors of each layer chosen by how much of its first gradient they hold, for the parameters that the rule would have."""
    backbone, config = material.backbone, material.config
    with backbone.ready():
        targets = select(backbone.weights(), config.adapter.targets)
        found = gradients(material, targets)
    budget = sum(target.sizes.parameters for target in targets)
    chosen = forms_within(Adapter({name: Matrix(Full(gradient)) for name, gradient in found.items()}), parameters=budget)
    factors = {name: form.factors for name, form in chosen.items() if isinstance(form, KronForm)}
    adapter = fit(backbone, material.items, replace(config, adapter=replace(config.adapter, targets=_rules(factors))))
    yield Trained(adapter, adapter.parameters)


@contextmanager
def half_of_the_layers(material: Material) -> Iterator[Trained]:
    """A fifth of the steps with all layers; then, from the start, those whose weights have moved furthest, for the rest of the steps."""
    config = material.config
    first = fit(material.backbone, material.items, dataclasses.replace(config, steps=config.steps // 5))
    moved = {name: float(delta.dense().square().mean()) for name, delta in first.layers.items()}
    kept = sorted(moved, key=moved.__getitem__, reverse=True)[: len(moved) // 2]
    rules = _rules({name: tuple(first.layers[name].a.shape) for name in kept})
    rest = replace(config, steps=config.steps - config.steps // 5, adapter=replace(config.adapter, targets=rules))
    adapter = fit(material.backbone, material.items, rest)
    yield Trained(adapter, adapter.parameters)
