"""A training's events as the host's progress bar and a line in the console."""

from __future__ import annotations

import logging
import time

import comfy.model_management
import comfy.utils
from tqdm import tqdm

from krona_train.run.events import Ended, Noted, Previewed, Started, Stepped, Validated, Watcher

from .text import tell

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TEXTS = 0.5
"""A browser redraws the node for each text; more often than this nobody can read it."""

PREVIEW_SIDE = 512
"""Pixels of a preview on the node; the run's folder has it whole."""


class Progress(Watcher):
    """A sink: shows steps on the node and in the console, and stops the training within one step of an interrupt.

    Args:
        node_id: The node on which the text appears.
    """

    def __init__(self, steps: int, node_id: str | None) -> None:
        self._bar = comfy.utils.ProgressBar(steps)
        self._steps = steps
        self._console = tqdm(disable=True)  # until training has begun: what is refused before has no bar
        self._node_id = node_id
        self._shown = 0.0
        self._done_before = 0

    def started(self, event: Started) -> None:
        """Say what is trained, and show a bar in the console."""
        self._done_before = event.done
        log.info("KronA: training %s parameters in %d layers.", f"{event.parameters:,}", event.layers)
        for note in event.notes:
            log.info("KronA: %s", note)
        self._console = tqdm(total=self._steps, initial=event.done, desc="KronA", unit="step", dynamic_ncols=True)

    def stepped(self, event: Stepped) -> None:
        """Move the bars.

        Raises:
            InterruptProcessingException: The user has pressed cancel.
        """
        self._console.set_postfix(loss=f"{event.loss:.4f}", refresh=False)
        self._console.update()
        self._show_step(event)
        self._bar.update_absolute(event.step, event.steps)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def noted(self, event: Noted) -> None:
        """Write its text into the log and on the node."""
        log.warning("KronA: %s", event.text)
        tell(event.text, self._node_id)

    def validated(self, event: Validated) -> None:
        """Write its loss into the log."""
        best = ", the best so far" if event.is_best else ""
        log.info("KronA: step %d, validation loss %.5f%s.", event.step, event.loss, best)

    def previewed(self, event: Previewed) -> None:
        """Show the first picture on the node."""
        if event.pictures:
            self._bar.update_absolute(event.step, self._steps, ("JPEG", event.pictures[0], PREVIEW_SIDE))

    def ended(self, event: Ended) -> None:
        """Leave the bar in the console as it is."""
        self._console.close()

    def _show_step(self, event: Stepped) -> None:
        now = time.monotonic()
        if self._node_id is None or (now - self._shown < SECONDS_BETWEEN_TEXTS and event.step < event.steps):
            return
        self._shown = now
        left = event.seconds / (event.step - self._done_before) * (event.steps - event.step)
        rest = f", {left:.0f} s left" if event.step < event.steps else ""  # the last text stays on the node
        tell(f"step {event.step} of {event.steps}, loss {event.loss:.4f}{rest}", self._node_id)
