"""The trainer: read `fit` to know what a training does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from krona_ops import Adapter, LayerName, select
from krona_ops.errors import DataError, NonFiniteError
from krona_ops.targets import describe_adjustments

from .backbone.protocol import Backbone, Example, sampled_fingerprint
from .config import AdapterConfig, OptimizerConfig, TrainConfig
from .events import Ended, Saved, Sink, Started, Stepped
from .inject import patched
from .layers import KronLayer, forward_with
from .noise import draw
from .objectives.denoising import denoising
from .randomness import generator, picture
from .state import TrainState

Layers = Mapping[LayerName, KronLayer]


def fit(
    backbone: Backbone,
    examples: Sequence[Example],
    config: TrainConfig,
    sink: Sink = lambda event: None,
    resume: TrainState | None = None,
) -> Adapter:
    """Train an adapter and return it; the backbone is left as it was found, whatever happens.

    Args:
        examples: The encoded pictures; each is seen once per epoch, in a new order each time.
        sink: Gets every event. An exception that it raises (an interrupt) stops the training like any other; the
            factors as they stood after the last whole step are in the `Ended` event that follows.
        resume: Go on from here: the result is, bit for bit, that of a training that never stopped.

    Raises:
        DataError: There are no examples.
        CoverageError: No layer of the backbone is a target.
        ConfigError: The state to go on from belongs to other settings, another base model or other pictures.
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
        optimizer = build_optimizer(parameters, config.optimizer)
        base, data = backbone.fingerprint(), fingerprint(examples)
        done = 0
        if resume is not None:
            resume.require_same(config, base, data)
            resume.restore(layers, optimizer)
            done = resume.step
        sink(Started(config.steps, done, len(layers), sum(p.numel() for p in parameters), describe_adjustments(targets)))

        def state() -> TrainState:
            return TrainState.capture(done, layers, optimizer, config, base, data)

        began = time.monotonic()
        try:
            with attached(backbone, layers):
                for step in range(done + 1, config.steps + 1):
                    loss = backward(backbone, examples, config, step)
                    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_grad_norm or torch.inf)
                    check_finite(step, loss=loss, gradient=grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                    done = step
                    seconds = time.monotonic() - began
                    sink(Stepped(step, config.steps, loss.item(), grad_norm.item(), config.optimizer.learning_rate, seconds))
                    if config.save_every and step % config.save_every == 0 and step < config.steps:
                        sink(Saved(state()))
        except BaseException as error:
            sink(Ended(done, config.steps, collect(layers), state(), error))
            raise
        adapter = collect(layers)
        sink(Ended(done, config.steps, adapter, state()))
        return adapter


def backward(backbone: Backbone, examples: Sequence[Example], config: TrainConfig, step: int) -> Tensor:
    """Gradients of one step: the mean over its ``accumulate`` batches of ``batch_size`` samples; returns the mean loss."""
    total = torch.zeros((), device=backbone.device)
    first = (step - 1) * config.accumulate * config.batch_size
    for start in range(first, first + config.accumulate * config.batch_size, config.batch_size):
        numbers = range(start, start + config.batch_size)
        batch = backbone.collate([examples[picture(config.seed, n, len(examples))] for n in numbers])
        loss = denoising(backbone, batch, draw(backbone, batch.x0, config.seed, numbers)).mean() / config.accumulate
        loss.backward()
        total += loss.detach()
    return total


def build_optimizer(parameters: Sequence[torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW as the settings say."""
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )


def fingerprint(examples: Sequence[Example]) -> str:
    """A hash of the pictures and captions that are trained on, in their order."""
    return sampled_fingerprint((example.caption, example.latent) for example in examples)


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
