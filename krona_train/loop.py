"""The trainer: read `fit` to know what a training does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from krona_ops import Adapter, LayerName, select
from krona_ops.errors import DataError, NonFiniteError
from krona_ops.targets import describe_adjustments

from .backbone.protocol import Backbone, Example
from .config import AdapterConfig, TrainConfig
from .events import Ended, Sink, Started, Stepped
from .inject import patched
from .layers import KronLayer, forward_with
from .noise import draw
from .objectives.denoising import denoising
from .randomness import generator, picture

Layers = Mapping[LayerName, KronLayer]


def fit(backbone: Backbone, examples: Sequence[Example], config: TrainConfig, sink: Sink = lambda event: None) -> Adapter:
    """Train an adapter and return it; the backbone is left as it was found, whatever happens.

    Args:
        examples: The encoded pictures; each is seen once per epoch, in a new order each time.
        sink: Gets every event. An exception that it raises (an interrupt) stops the training like any other; the
            factors as they stood after the last whole step are in the `Ended` event that follows.

    Raises:
        DataError: There are no examples.
        CoverageError: No layer of the backbone is a target.
        NonFiniteError: The loss or its gradient became NaN or infinite; the factors are those from before.
    """
    if not examples:
        raise DataError(
            "There is nothing to train on.", found=0, expected="at least one picture", remedy="Add pictures to the data set."
        )
    targets = select(backbone.weights(), config.adapter.targets)
    with backbone.ready():
        layers = build_layers(targets, config.adapter, config.seed, backbone.device)
        parameters = [p for layer in layers.values() for p in layer.parameters()]
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.optimizer.learning_rate,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
            weight_decay=config.optimizer.weight_decay,
        )
        sink(Started(config.steps, len(layers), sum(p.numel() for p in parameters), describe_adjustments(targets)))
        done, began = 0, time.monotonic()
        try:
            with attached(backbone, layers):
                for step in range(1, config.steps + 1):
                    numbers = range((step - 1) * config.batch_size, step * config.batch_size)
                    batch = backbone.collate([examples[picture(config.seed, n, len(examples))] for n in numbers])
                    loss = denoising(backbone, batch, draw(backbone, batch.x0, config.seed, numbers)).mean()
                    loss.backward()
                    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_grad_norm or torch.inf)
                    check_finite(step, loss=loss, gradient=grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                    done = step
                    seconds = time.monotonic() - began
                    sink(Stepped(step, config.steps, loss.item(), grad_norm.item(), config.optimizer.learning_rate, seconds))
        except BaseException as error:
            sink(Ended(done, config.steps, collect(layers), error))
            raise
        adapter = collect(layers)
        sink(Ended(done, config.steps, adapter))
        return adapter


def build_layers(targets: Sequence, config: AdapterConfig, seed: int, device: torch.device) -> Layers:
    """Fresh factors for every target, drawn in the targets' order from the seed alone."""
    rng = generator(seed, "factors")
    return {target.name: KronLayer(target, config.layout, rng).to(device) for target in targets}


@contextmanager
def attached(backbone: Backbone, layers: Layers) -> Iterator[None]:
    """The backbone computes with the layers' updates inside the block, and without them after it."""
    modules = {name: backbone.module(name) for name in layers}
    with patched({modules[name]: forward_with(layer, modules[name], name) for name, layer in layers.items()}):
        yield


def collect(layers: Layers) -> Adapter:
    """The factors as they stand, as an adapter."""
    return Adapter({name: layer.delta() for name, layer in layers.items()})


def check_finite(step: int, **values: torch.Tensor) -> None:
    """Stop before a NaN or an infinity can reach the factors.

    Raises:
        NonFiniteError: One of the values is not finite.
    """
    for name, value in values.items():
        if not torch.isfinite(value):
            raise NonFiniteError(
                f"The {name} became {value.item()} in step {step}.",
                found=value.item(),
                expected="a finite number",
                remedy=f"The factors of step {step - 1} are kept. Lower the learning rate, or let the model compute in bf16 or fp32.",
            )
