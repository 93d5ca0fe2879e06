"""Gradients of an adapter's factors, from the training's own path and from nothing but losses."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from krona_ops import TargetRule, select
from krona_train import AdapterConfig
from krona_train.adapters.attach import attached
from krona_train.adapters.trainee import build_layers
from krona_train.objectives.noise import Draw
from krona_train.step.checkpointing import checkpointed

RULES = (TargetRule(factors=(8, 4)),)
LEVEL = 0.6
"""Where in the model's own time the loss is taken."""


def random_layers(backbone: Any, rules: tuple[TargetRule, ...] = RULES, seed: int = 0) -> dict[str, Any]:
    """Layers whose factors are both random, and whose updates are about a third as large as the weights."""
    layers = build_layers(select(backbone.weights(), rules), AdapterConfig(targets=rules), seed, backbone.device)
    rng = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for layer in layers.values():
            layer.a.copy_(torch.randn(layer.a.shape, generator=rng))
            wide = layer.a.shape[1] * layer.b[0].numel()
            layer.b.copy_(0.3 * torch.randn(layer.b.shape, generator=rng) / wide**0.5)
    return layers


def factors(layers: dict[str, Any]) -> list[Tensor]:
    """All factors in a fixed order."""
    return [p for layer in layers.values() for p in layer.parameters()]


def loss_of(backbone: Any, batch: Any, seed: int = 3) -> Tensor:
    """The denoising loss at a fixed noise level and noise, summed in float64."""
    rng = torch.Generator().manual_seed(seed)
    sigma = backbone.noise_levels(torch.full((len(batch.x0),), LEVEL))
    drawn = Draw(sigma, torch.randn(batch.x0.shape, generator=rng))
    x_t = backbone.add_noise(batch.x0, drawn.noise, drawn.sigma)
    error = backbone.predict(x_t, drawn.sigma, batch.conditions).double() - batch.x0.double()
    return (backbone.loss_weight(drawn.sigma).double() * error.square().flatten(1).mean(1)).mean()


def gradients(
    backbone: Any, layers: dict[str, Any], examples: list[Any], mode: str = "none", unused: tuple[str, ...] = ()
) -> tuple[float, list[Tensor]]:
    """The loss, and its gradients with respect to all factors, as a training computes them.

    Args:
        unused: Ends of the names of layers whose outputs the model does not use.
    """
    parameters = factors(layers)
    for parameter in parameters:
        parameter.grad = None
    with backbone.ready(), attached(backbone, layers), checkpointed(backbone.blocks(), mode):
        loss = loss_of(backbone, backbone.collate(examples))
        loss.backward()
    missing = [name for name, layer in layers.items() if any(p.grad is None for p in layer.parameters())]
    assert all(name.endswith(unused) for name in missing) if unused else not missing, missing
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return loss.item(), [p.grad.clone() for p in parameters]


def relative(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest relative error of one factor's gradient."""
    return max(float((f - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True) if w.any())


SIXTH_ORDER = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
STEPS = (1e-3, 2e-3, 4e-3, 1e-2, 2e-2, 4e-2)


def numerical_error(
    backbone: Any, layers: dict[str, Any], examples: list[Any], grads: list[Tensor], enough: float, directions: int = 3
) -> float:
    """How far gradients are from difference quotients of the loss, relative to the gradient.

    A random direction sees an error of the gradient in proportion to its norm, wherever it points; each factor is moved in
    proportion to its own size. Only losses go in: nothing of autograd, checkpointing or what keeps writes in place exact.
    Hosts round to float32 in places, which drowns small steps, and curvature spoils large ones: the best of a few steps
    counts. A gradient that is wrong is wrong at each of them.

    Args:
        backbone: The same model, in float64 where it can.
        layers: The same factors, in the same precision.
        enough: An error that is small enough: no further step is tried in its direction.
    """
    parameters, found = factors(layers), []
    with backbone.ready(), torch.no_grad(), attached(backbone, layers), PlainKernels():
        batch = backbone.collate(examples)

        def at(step: float, along: list[Tensor]) -> float:
            kept = [p.clone() for p in parameters]
            for p, d in zip(parameters, along, strict=True):
                p.add_(d, alpha=step)
            value = loss_of(backbone, batch).item()
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(old)
            return value

        for number in range(directions):
            rng = torch.Generator().manual_seed(number)
            sizes = [p.norm() / p.numel() ** 0.5 for p in parameters]
            along = [s * torch.randn(p.shape, generator=rng).to(p) for p, s in zip(parameters, sizes, strict=True)]
            told = sum(float((g.double() * d.double()).sum()) for g, d in zip(grads, along, strict=True))
            scale = sum(float(g.norm() * s) ** 2 for g, s in zip(grads, sizes, strict=True)) ** 0.5
            least = math.inf
            for h in STEPS:
                slope = sum(w * (at(n * h, along) - at(-n * h, along)) for n, w in SIXTH_ORDER) / h
                least = min(least, abs(slope - told) / scale)
                if least <= enough:
                    break
            found.append(least)
    return max(found)


class PlainKernels(TorchFunctionMode):
    """The host's fused kernels refuse float64; its own formulas for them take it."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        from krona_train.comfyui.kernels import formulas

        if isinstance(func, torch._ops.OpOverloadPacket):
            func = formulas().get(func, func)
        return func(*args, **(kwargs or {}))
