"""Looking at a training from time to time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL.Image import Image

from ..adapters.trainee import Trainee, collect
from ..backbone.protocol import Backbone
from ..batches.examples import Item
from ..config import TrainConfig
from ..processes.together import Runtime
from ..run.events import Previewed, Sink, Validated
from ..step.progress import Progress
from .validation import validation_loss


@dataclass(frozen=True)
class Look:
    """Validation and previews: they see the result as it would be now and never change the training."""

    backbone: Backbone
    trainee: Trainee
    held_out: Sequence[Item]
    config: TrainConfig
    preview: Callable[[], Sequence[Image]] | None
    runtime: Runtime
    sink: Sink
    catch_up: Callable[[], None]
    """Called before each look: what comes before it is told first."""

    def __call__(self, progress: Progress) -> bool:
        """Look if it is time to, before the first step and after the last too; whether to go on training."""
        done, validation = progress.done, self.config.validation
        if progress.looked == done:
            return not self._has_stalled(progress)
        validates = bool(self.held_out) and self._is_due(validation.every, done)
        previews = self.preview is not None and self._is_due(self.config.preview.every, done)
        if validates or previews:
            self.catch_up()
        with self.trainee.as_result() as layers:
            if validates:
                loss = self.runtime.from_first(validation_loss(self.backbone, self.held_out, self.config))
                is_best = done > 0 and progress.best.improves(loss)
                self.sink(Validated(done, loss, is_best, collect(layers)))
            if self.preview is not None and previews:
                self.sink(Previewed(done, tuple(self.preview())))
        progress.looked = done
        return not self._has_stalled(progress)

    def _is_due(self, every: int, done: int) -> bool:
        return every > 0 and (done % every == 0 or done == self.config.steps)

    def _has_stalled(self, progress: Progress) -> bool:
        patience = self.config.validation.patience
        return 0 < patience <= progress.best.misses
