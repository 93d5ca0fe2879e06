"""The gradients of one step, whatever memory there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor

from krona_ops.errors import OutOfMemoryError

from ..backbone.protocol import Backbone
from ..batches.samples import Sample
from ..objectives.protocol import Piece, Turn, put_back
from ..run.events import Noted
from ..settings.groups import Checkpointing, MemoryConfig
from .checkpointing import prepared
from .plan import is_out_of_memory
from .progress import Progress
from .scene import Scene


class Blocks:
    """The model's blocks as the plan wants them, changed only when it does: what has been compiled stays so.

    Args:
        pinned: See `krona_train.step.checkpointing.checkpointed`.
    """

    def __init__(
        self,
        backbone: Backbone,
        memory: MemoryConfig,
        pinned: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._blocks, self._memory, self._pinned = backbone.blocks(), memory, pinned
        self._held = ExitStack()
        self._mode: Checkpointing | None = None

    def become(self, mode: Checkpointing) -> None:
        """Compute in this way from now on."""
        if mode != self._mode:
            self._held.close()
            self._held.enter_context(prepared(self._blocks, self._memory, mode, self._pinned))
            self._mode = mode

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *exception: object) -> None:
        self._held.close()


def backward_that_fits(scene: Scene, blocks: Blocks, progress: Progress, turn: Turn) -> Tensor:
    """`backward` with the plan as it is, or with the first smaller one that fits in memory.

    Raises:
        OutOfMemoryError: Not even the smallest does.
    """
    batch_size = scene.config.batch_size
    noted = scene.objective.capture()
    while True:
        loss = None
        try:
            blocks.become(progress.plan.checkpointing)
            loss = backward(scene, progress, turn)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not scene.runtime.largest(loss is None):
            assert loss is not None  # no process has failed, this one among them
            return loss
        # The failed step's tensors hang on the exception; out here they are free.
        scene.bank.trainees[turn.adapter].optimizer.zero_grad()
        put_back(scene.objective, noted)  # it has seen some of the samples that it is about to see again
        scene.backbone.release_memory()
        smaller = progress.plan.smaller(batch_size)
        if smaller is None:
            raise OutOfMemoryError(
                f"Step {progress.done + 1} does not fit in memory, not even with {progress.plan.describe(batch_size)}.",
                found=f"batches of {batch_size}",
                expected="a smaller model or smaller pictures",
                remedy="Lower the resolution, take a quantised model (fp8), switch offload on, or close other "
                "programs.",
            )
        progress.plan = smaller
        how = smaller.describe(batch_size)
        scene.sink(Noted(progress.done, f"Out of memory: going on with {how}. The result is the same."))


def backward(scene: Scene, progress: Progress, turn: Turn) -> Tensor:
    """The gradients of one turn: those of the mean over its ``accumulate`` batches of ``batch_size`` samples.

    Returns:
        The mean loss ``()``, on the model's device.
    """
    config, scaler = scene.config, scene.bank.trainees[turn.adapter].scaler
    total = torch.zeros((), device=scene.backbone.device)
    with scene.bank.drawing(progress.done):
        for number in range(progress.done * config.accumulate, (progress.done + 1) * config.accumulate):
            for source in turn.sources:
                batch = scene.samples[source].batch(number)
                for samples in split(batch, progress.plan.pieces):
                    piece = Piece(scene.backbone, scene.bank, config.seed, progress.done, turn, source, samples)
                    for term in scene.objective.losses(piece):
                        loss = term.weight * term.values.sum() / (len(batch) * config.accumulate)
                        scaler.scale(loss).backward()
                        total += loss.detach()
    return total


def split(samples: Sequence[Sample], pieces: int) -> Iterator[Sequence[Sample]]:
    """The samples in that many parts, as even as can be; what belongs to one group stays in one part."""
    whole = samples[0].size
    size = -(-len(samples) // whole // pieces) * whole
    return (samples[i : i + size] for i in range(0, len(samples), size))
