"""Looking at a training from time to time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL.Image import Image

from krona_ops import Adapter

from ..adapters.trainee import collect
from ..batches.examples import Group, Item
from ..run.events import Previewed, Validated
from ..step.progress import Progress
from ..step.scene import Scene
from .validation import validation_loss

Draw = Callable[[Callable[[], Adapter]], Sequence[Image]]
"""Draws pictures with the model as it stands; what it is given makes the adapter of that moment, where it is wanted."""


@dataclass(frozen=True)
class Look:
    """Validation and previews: they see the result as it would be now and never change the training."""

    scene: Scene
    held_out: Sequence[Item | Group]
    preview: Draw | None
    catch_up: Callable[[], None]
    """Called before each look: what comes before it is told first."""

    def __call__(self, progress: Progress) -> bool:
        """Look if it is time to, before the first step and after the last too; whether to go on training."""
        scene, done = self.scene, progress.done
        if progress.looked == done:
            return not self._has_stalled(progress)
        validates = bool(self.held_out) and self._is_due(scene.config.validation.every, done)
        previews = self.preview is not None and self._is_due(scene.config.preview.every, done)
        if validates or previews:
            self.catch_up()
        with scene.bank.main.as_result() as layers:
            if validates:
                loss = scene.runtime.from_first(validation_loss(scene, self.held_out))
                is_best = done > 0 and progress.best.improves(loss)
                scene.sink(Validated(done, loss, is_best, collect(layers)))
            if self.preview is not None and previews:
                scene.sink(Previewed(done, tuple(self.preview(lambda: collect(layers)))))
        progress.looked = done
        return not self._has_stalled(progress)

    def _is_due(self, every: int, done: int) -> bool:
        return every > 0 and (done % every == 0 or done == self.scene.config.steps)

    def _has_stalled(self, progress: Progress) -> bool:
        patience = self.scene.config.validation.patience
        return 0 < patience <= progress.best.misses
