"""A training's events as the host's progress bar and a line in the console."""

from __future__ import annotations

import logging
import time

import comfy.model_management
import comfy.utils
from server import PromptServer
from tqdm import tqdm

from krona_train.run.events import Ended, Event, Noted, Previewed, Started, Stepped, Validated

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TEXTS = 0.5
"""A browser redraws the node for each text; more often than this nobody can read it."""

PREVIEW_SIDE = 512
"""Pixels of a preview on the node; the run's folder has it whole."""


class Progress:
    """A sink: shows steps on the node and in the console, and stops the training within one step of an interrupt.

    Args:
        node_id: The node on which the text appears.
    """

    def __init__(self, steps: int, node_id: str | None) -> None:
        self._bar = comfy.utils.ProgressBar(steps)
        self._steps = steps
        self._console = tqdm(disable=True)  # until training has begun: what is refused before has no bar
        self._node_id = node_id
        self._told = 0.0
        self._done_before = 0

    def __call__(self, event: Event) -> None:
        """Show one event.

        Raises:
            InterruptProcessingException: The user has pressed cancel.
        """
        if isinstance(event, Started):
            self._done_before = event.done
            log.info("KronA: training %s parameters in %d layers.", f"{event.parameters:,}", event.layers)
            for note in event.notes:
                log.info("KronA: %s", note)
            self._console = tqdm(total=self._steps, initial=event.done, desc="KronA", unit="step", dynamic_ncols=True)
        elif isinstance(event, Stepped):
            self._console.set_postfix(loss=f"{event.loss:.4f}", refresh=False)
            self._console.update()
            self._tell(event)
            self._bar.update_absolute(event.step, event.steps)
            comfy.model_management.throw_exception_if_processing_interrupted()
        elif isinstance(event, Noted):
            log.warning("KronA: %s", event.text)
            if self._node_id is not None:
                PromptServer.instance.send_progress_text(event.text, self._node_id)
        elif isinstance(event, Validated):
            log.info(
                "KronA: step %d, validation loss %.5f%s.", event.step, event.loss, ", the best so far" if event.is_best else ""
            )
        elif isinstance(event, Previewed) and event.pictures:
            self._bar.update_absolute(event.step, self._steps, ("JPEG", event.pictures[0], PREVIEW_SIDE))
        elif isinstance(event, Ended):
            self._console.close()

    def _tell(self, event: Stepped) -> None:
        now = time.monotonic()
        if self._node_id is None or (now - self._told < SECONDS_BETWEEN_TEXTS and event.step < event.steps):
            return
        self._told = now
        left = event.seconds / (event.step - self._done_before) * (event.steps - event.step)
        text = f"step {event.step} of {event.steps}, loss {event.loss:.4f}, {left:.0f} s left"
        PromptServer.instance.send_progress_text(text, self._node_id)
