"""What a training on the command line tells, and what it is asked there."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from krona_ops.shown import printable

from ..run.events import Ended, Event, Noted, Sink, Started, Stepped, Validated, Watcher
from ..run.requests import Ask, asked
from .together import is_launched
from .wire import to_line


class Requests:
    """What the training is asked: by a signal, or by files in its folder.

    A second signal of a kind ends the process at once; but a launcher passes on what its processes have got already.

    Args:
        folder: Of the run, in the one process that looks at it: files that come and go between the looks of several
            would be obeyed twice.
    """

    def __init__(self, folder: Path | None) -> None:
        self.shall_stop = False
        self._folder = folder
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def __call__(self) -> Ask:
        if self.shall_stop:
            return Ask.STOP
        return asked(self._folder) if self._folder is not None else Ask.NOTHING

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.shall_stop = True
        if not is_launched():
            signal.signal(number, signal.SIG_DFL)


def as_lines(requests: Requests) -> Sink:
    """A line of JSON for each event, for whoever has started this process; where nobody reads them any more, the
    training shall stop."""

    def show(event: Event) -> None:
        line = to_line(event)
        try:
            if line is not None:
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
        except BrokenPipeError:  # ComfyUI has ended, and nobody waits for the result
            requests.shall_stop = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return show


class ProgressBar(Watcher):
    """A progress bar for a person."""

    def __init__(self, steps: int, *, is_hidden: bool) -> None:
        self._steps, self._is_hidden = steps, is_hidden
        self._bar = tqdm(disable=True)  # until training has begun: what is refused before has no bar

    def started(self, event: Started) -> None:
        """Say what is trained, and show the bar."""
        lines = (f"training {event.parameters:,} parameters in {event.layers} layers", *event.notes)
        for line in () if self._is_hidden else lines:
            tqdm.write(line, file=sys.stderr)
        self._bar = tqdm(
            total=self._steps, initial=event.done, unit="step", dynamic_ncols=True, disable=self._is_hidden
        )

    def stepped(self, event: Stepped) -> None:
        """Move the bar."""
        self._bar.set_postfix(loss=f"{event.loss:.4f}", refresh=False)
        self._bar.update()

    def noted(self, event: Noted) -> None:
        """Write its text above the bar."""
        tqdm.write(printable(event.text), file=sys.stderr)

    def validated(self, event: Validated) -> None:
        """Write its loss above the bar."""
        best = " (best)" if event.is_best else ""
        tqdm.write(f"step {event.step}: validation loss {event.loss:.5f}{best}", file=sys.stderr)

    def ended(self, event: Ended) -> None:
        """Leave the bar as it is."""
        self._bar.close()
