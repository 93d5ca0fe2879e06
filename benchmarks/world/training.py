"""What is compared: the pack's own trainer, and the same loop around what the pack does not train.

`minimise` is the trainer's loop without anything but the loop: same pictures in the same order, same noise, same loss (a test holds it to the
trainer, bit for bit). It takes whatever layers and parameters it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from krona_ops import Adapter, LayerName, select
from krona_ops.errors import NonFiniteError
from krona_ops.targets.rules import Target
from krona_train import TrainConfig, fit
from krona_train.adapters.average import Average
from krona_train.adapters.layers import KronLayer
from krona_train.adapters.optim import build_optimizer, parameter_groups
from krona_train.adapters.trainee import build_layers, collect
from krona_train.backbone.protocol import Backbone
from krona_train.batches.examples import Item
from krona_train.batches.samples import Samples
from krona_train.loop import attached, learning_rates
from krona_train.objectives.denoising import denoising
from krona_train.objectives.noise import draw
from krona_train.randomness import generator


@dataclass(frozen=True)
class Material:
    """What a contender trains on."""

    backbone: Any
    """The host's model as a backbone, whose weights nobody else needs meanwhile."""
    items: Sequence[Item]
    config: TrainConfig
    class_items: Sequence[Item] = ()


@dataclass(frozen=True)
class Trained:
    """What came out: an adapter, or nothing where the model's own weights were changed."""

    adapter: Adapter | None
    parameters: int


Train = Callable[[Material], Any]
"""A context manager that trains on entering it, gives `Trained`, and leaves the model as it was."""


@contextmanager
def by_the_pack(material: Material) -> Iterator[Trained]:
    """The pack's own trainer."""
    adapter = fit(material.backbone, material.items, material.config, class_data=material.class_items)
    yield Trained(adapter, adapter.parameters)


Layers = Mapping[LayerName, Any]
"""Trainable layers: the pack's, or others that are called as it calls them."""
Build = Callable[[Material, Sequence[Target]], Layers]
"""Called inside ``backbone.ready()``."""


def with_layers(build: Build) -> Train:
    """Layers of one's own, trained as the pack's."""

    @contextmanager
    def train(material: Material) -> Iterator[Trained]:
        backbone, config = material.backbone, material.config
        with backbone.ready():
            targets = select(backbone.weights(), config.adapter.targets)
            layers = build(material, targets)
            rates = learning_rates(backbone, targets, config)
            if all(isinstance(layer, KronLayer) for layer in layers.values()):
                groups = parameter_groups(layers, rates, config.optimizer)
            else:
                rate = config.optimizer.learning_rate
                groups = [{"params": list(layer.parameters()), "lr": rate * rates[name]} for name, layer in layers.items()]
            minimise(material, groups, layers)
        adapter = collect(layers)
        yield Trained(adapter, adapter.parameters)

    return train


def with_start(start: Callable[[Layers, Material], None]) -> Train:
    """The pack's Kronecker layers, started in another way."""

    def build(material: Material, targets: Sequence[Target]) -> Layers:
        layers = build_layers(targets, material.config.adapter, material.config.seed, material.backbone.device)
        start(layers, material)
        return layers

    return with_layers(build)


@torch.no_grad()
def as_core_starts(layers: Layers, material: Material) -> None:
    """ComfyUI's LoKr: ``w1 = 0``, ``w2`` Kaiming-uniform with ``a = √5`` (comfy/weight_adapter/lokr.py, `create_train`)."""
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


@contextmanager
def full_fine_tuning(material: Material) -> Iterator[Trained]:
    """DreamBooth as published: all parameters of the UNet move (Ruiz et al. 2022); the text encoder stays."""
    backbone, config = material.backbone, material.config
    net = backbone.patcher.model.diffusion_model
    with backbone.ready():  # nobody else's adapter is on the weights in here
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
    try:
        with backbone.ready():
            parameters = [p.requires_grad_(True) for p in net.parameters()]
            minimise(material, [{"params": parameters, "lr": config.optimizer.learning_rate}], {})
            for p in parameters:
                p.requires_grad_(False)
        yield Trained(None, sum(p.numel() for p in before.values()))
    finally:
        # The weights may be the host's inference tensors, which only the backbone may write.
        with backbone.ready(), torch.no_grad():
            for name, p in net.named_parameters():
                p.requires_grad_(False)
                p.copy_(before[name])


def minimise(material: Material, groups: Sequence[dict[str, Any]], layers: Mapping[LayerName, nn.Module]) -> None:
    """Move the parameters for as many steps as the settings say; inside ``backbone.ready()``.

    Args:
        groups: Parameters with their learning rates, as PyTorch's optimizers take them.
        layers: What is added to the backbone's layers.

    Raises:
        NonFiniteError: The loss is no number any more.
    """
    backbone, config = material.backbone, material.config
    samples = Samples(material.items, config)
    optimizer = build_optimizer(groups, config.optimizer)
    # The gradient's norm is rounded by the order in which it is added up: that of the trainer.
    own = [p for layer in layers.values() for p in layer.parameters()]
    parameters = own or [p for group in groups for p in group["params"]]
    average = Average(parameters, config.ema.decay) if config.ema.decay else None
    with ExitStack() as held:
        if layers:
            held.enter_context(attached(backbone, layers))
        for step in range(config.steps):
            loss = loss_of(backbone, samples, config, step)
            if not torch.isfinite(loss):
                raise NonFiniteError(f"The loss of step {step + 1} is {loss.item()}.", found=loss.item(), expected="a number")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_grad_norm or torch.inf)
            optimizer.step()
            optimizer.zero_grad()
            if average is not None:
                average.move(step + 1)
    if average is not None:
        average.copy_to_parameters()


def loss_of(backbone: Backbone, samples: Samples, config: TrainConfig, number: int) -> Tensor:
    """The mean loss of a batch, as the trainer takes it."""
    piece = samples.batch(number)
    batch = backbone.collate([sample.example for sample in piece])
    drawn = draw(backbone, batch.x0, config.seed, [sample.number for sample in piece], config.objective, "noise")
    return denoising(backbone, batch, drawn, config.objective).mean()
