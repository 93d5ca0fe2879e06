"""The gradients of one step, whatever memory there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from krona_ops.errors import OutOfMemoryError

from ..adapters.trainee import Trainee
from ..backbone.protocol import Backbone
from ..batches.samples import Sample, Samples
from ..config import Checkpointing, MemoryConfig, TrainConfig
from ..objectives.denoising import denoising
from ..objectives.noise import draw
from ..objectives.preservation import preservation
from ..processes.together import Runtime
from ..randomness import Stream
from ..run.events import Noted, Sink
from .checkpointing import prepared
from .plan import is_out_of_memory
from .progress import Progress


@dataclass(frozen=True)
class Batches:
    """What a step takes its samples from."""

    subject: Samples
    prior: Samples | None
    """Class pictures."""


class Blocks:
    """The model's blocks as the plan wants them, changed only when it does: what has been compiled stays so."""

    def __init__(self, backbone: Backbone, memory: MemoryConfig) -> None:
        self._blocks, self._memory = backbone.blocks(), memory
        self._held = ExitStack()
        self._mode: Checkpointing | None = None

    def become(self, mode: Checkpointing) -> None:
        """Compute in this way from now on."""
        if mode != self._mode:
            self._held.close()
            self._held.enter_context(prepared(self._blocks, self._memory, mode))
            self._mode = mode

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *exception: object) -> None:
        self._held.close()


def backward_that_fits(
    backbone: Backbone,
    blocks: Blocks,
    trainee: Trainee,
    batches: Batches,
    config: TrainConfig,
    progress: Progress,
    runtime: Runtime,
    sink: Sink,
) -> Tensor:
    """`backward` with the plan as it is, or with the first smaller one that fits in memory.

    Raises:
        OutOfMemoryError: Not even the smallest does.
    """
    while True:
        loss = None
        try:
            blocks.become(progress.plan.checkpointing)
            loss = backward(backbone, trainee, batches, config, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not runtime.largest(loss is None):
            return loss
        # The failed step's tensors hang on the exception; out here they are free.
        trainee.optimizer.zero_grad()
        backbone.release_memory()
        smaller = progress.plan.smaller(config.batch_size)
        if smaller is None:
            raise OutOfMemoryError(
                f"Step {progress.done + 1} does not fit in memory, not even with {progress.plan.describe(config.batch_size)}.",
                found=f"batches of {config.batch_size}",
                expected="a smaller model or smaller pictures",
                remedy="Lower the resolution, take a quantised model (fp8), switch offload on, or close other programs.",
            )
        progress.plan = smaller
        sink(
            Noted(progress.done, f"Out of memory: going on with {smaller.describe(config.batch_size)}. The result is the same.")
        )


def backward(backbone: Backbone, trainee: Trainee, batches: Batches, config: TrainConfig, progress: Progress) -> Tensor:
    """Gradients of one step: the mean over its ``accumulate`` batches of ``batch_size`` samples; returns the mean loss."""
    total = torch.zeros((), device=backbone.device)
    for number in range(progress.done * config.accumulate, (progress.done + 1) * config.accumulate):
        for stream, samples, share in (("noise", batches.subject, 1.0), ("class noise", batches.prior, config.prior.weight)):
            for piece in split(samples.batch(number), progress.plan.pieces) if samples and share else ():
                for losses in terms(backbone, trainee, piece, stream, config):
                    loss = share * losses.sum() / (config.batch_size * config.accumulate)
                    trainee.scaler.scale(loss).backward()
                    total += loss.detach()
    return total


def terms(
    backbone: Backbone, trainee: Trainee, piece: Sequence[Sample], stream: Stream, config: TrainConfig
) -> Iterator[Tensor]:
    """What is added up for each sample ``(B,)``: its denoising loss, and its prior loss where the model itself is the target.

    One after the other, so that the first term's activations are free before the second's are made.
    """
    batch = backbone.collate([sample.example for sample in piece])
    drawn = draw(backbone, batch.x0, config.seed, [sample.number for sample in piece], config.objective, stream)
    yield denoising(backbone, batch, drawn, config.objective)
    if config.prior.weight and config.prior.source == "model" and stream == "noise":
        yield config.prior.weight * preservation(backbone, batch, drawn, config.objective, trainee.switch.off())


def split(samples: Sequence[Sample], pieces: int) -> Iterator[Sequence[Sample]]:
    """The samples in that many parts, as even as can be."""
    size = -(-len(samples) // pieces)
    return (samples[i : i + size] for i in range(0, len(samples), size))
