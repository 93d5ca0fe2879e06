"""A training's events as a log for TensorBoard."""

from __future__ import annotations

import io
import time
from pathlib import Path

from PIL.Image import Image

from ..config import TrainConfig, to_yaml
from .event_file import EventFile, Message, picture, scalar, session_start, text
from .events import Ended, Noted, Previewed, Saved, Started, Stepped, Validated, Watcher

SECONDS_BETWEEN_FLUSHES = 10.0
"""How far a page that watches a running training lags behind."""


class TensorBoardLog(Watcher):
    """Writes losses, learning rate, previews and settings into a folder; a sink for `krona_train.loop.fit`.

    Each part of a run that goes on is a file of its own. It begins with the order to forget the steps that are done
    again, so that no step is shown twice after a crash.

    Args:
        folder: Created when the training starts; TensorBoard is pointed at it or at a folder above it.
        config: Shown as text.
    """

    def __init__(self, folder: Path, config: TrainConfig | None = None) -> None:
        self.folder = folder
        self._config = config
        self._file: EventFile | None = None
        self._flushed = 0.0

    def started(self, event: Started) -> None:
        """Open a file and say what is trained."""
        self._start(event)

    def stepped(self, event: Stepped) -> None:
        """Its numbers."""
        self._add(event.step, scalar("loss/train", event.loss))
        self._add(event.step, scalar("grad_norm", event.grad_norm))
        self._add(event.step, scalar("learning_rate", event.learning_rate))
        if time.monotonic() - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def validated(self, event: Validated) -> None:
        """Its loss."""
        self._add(event.step, scalar("loss/validation", event.loss))

    def previewed(self, event: Previewed) -> None:
        """Its pictures, each under its prompt's number."""
        for number, drawn in enumerate(event.pictures, 1):
            self._add(event.step, picture(f"preview/{number}", _png(drawn), drawn.size))
        self._flush()

    def noted(self, event: Noted) -> None:
        """Its text."""
        self._add(event.step, text("notes", event.text))

    def saved(self, event: Saved) -> None:
        """Everything until now reaches the disk."""
        self._flush()

    def ended(self, event: Ended) -> None:
        """Say why, where it ended early, and close the file."""
        self._close(event)

    def _start(self, event: Started) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = EventFile(self.folder)
        self._add(event.done + 1, session_start())
        lines = [f"{event.parameters:,} parameters in {event.layers} layers", *event.notes]
        self._add(event.done, text("notes", "\n\n".join(lines)))
        if self._config is not None:
            self._add(event.done, text("settings", f"```yaml\n{to_yaml(self._config)}```"))
        self._flush()

    def _add(self, step: int, content: Message) -> None:
        if self._file is not None:
            self._file.write(step, content)

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()
            self._flushed = time.monotonic()

    def _close(self, event: Ended) -> None:
        if self._file is None:
            return
        if event.error is not None:
            self._add(
                event.step, text("notes", f"stopped at step {event.step}: {type(event.error).__name__}: {event.error}")
            )
        self._file.close()
        self._file = None


def _png(drawn: Image) -> bytes:
    kept = io.BytesIO()
    drawn.convert("RGB").save(kept, "PNG")
    return kept.getvalue()
