"""Trainings in this server, as they happen: which there are, and their rows as messages to every page."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server import PromptServer

from krona_ops.shown import shown
from krona_train.run.events import Ended, Noted, Previewed, Saved, Sink, Started, Stepped, Validated, Watcher
from krona_train.run.layout import METRICS
from krona_train.run.reading import Tail, standing
from krona_train.run.requests import forget
from krona_train.run.row import Row

from .public import public_row

log = logging.getLogger(__name__)
MESSAGE = "krona.run"
SECONDS_BETWEEN_MESSAGES = 0.2
_nodes: dict[str, str | None] = {}
"""The trainings that are in their steps, by the name of their folder: the node of each."""


def is_training(run: str) -> bool:
    """Whether a run trains in this server, now."""
    return run in _nodes


def node_of(run: str) -> str | None:
    """The id of the node that trains a run; ``None`` where none does."""
    return _nodes.get(run)


@contextmanager
def watched(folder: Path, node: str | None) -> Iterator[Sink]:
    """A sink that tells the browsers what happens in a run; inside, the run can be asked for something.

    It reads the run's own file: what a page gets as a message is, row for row, what it would get by asking.
    """
    forget(folder)
    messages = _Messages(folder, node)
    try:
        yield messages
    finally:
        messages.end()
        forget(folder)


class _Messages(Watcher):
    def __init__(self, folder: Path, node: str | None) -> None:
        self._folder, self._run, self._node = folder, folder.name, node
        self._tail: Tail | None = None
        self._sent = 0.0

    def started(self, event: Started) -> None:
        """The run is in its steps from now on."""
        self._tail, self._sent = Tail(self._folder / METRICS), time.monotonic()
        _nodes[self._run] = self._node
        self._send_start(self._tail)

    def stepped(self, event: Stepped) -> None:
        """Steps are sent together, a few times a second."""
        if time.monotonic() - self._sent >= SECONDS_BETWEEN_MESSAGES:
            self._send_now()

    def saved(self, event: Saved) -> None:
        """Sent with the steps."""
        if time.monotonic() - self._sent >= SECONDS_BETWEEN_MESSAGES:
            self._send_now()

    def noted(self, event: Noted) -> None:
        """Sent at once."""
        self._send_now()

    def previewed(self, event: Previewed) -> None:
        """Sent at once."""
        self._send_now()

    def validated(self, event: Validated) -> None:
        """Sent at once."""
        self._send_now()

    def ended(self, event: Ended) -> None:
        """The last rows, and how it ended."""
        self.end()

    def _send_now(self) -> None:
        self._sent = time.monotonic()
        self._send_rows("training")

    def end(self) -> None:
        """The training is over, whether it said so or not; only the first call counts."""
        _nodes.pop(self._run, None)
        if self._tail is not None:
            self._send_rows(standing(self._folder).end)
            self._tail = None

    def _send_start(self, tail: Tail) -> None:
        """Rows of earlier parts are not told again; their number says which of them are still true."""
        rows = self._read(tail)
        first = max((number for number, row in enumerate(rows) if row["event"] == "started"), default=len(rows))
        self._send("training", first, rows[first:])

    def _send_rows(self, state: str) -> None:
        if self._tail is not None:
            first = self._tail.count
            self._send(state, first, self._read(self._tail))

    def _read(self, tail: Tail) -> list[Row]:
        try:
            return tail.read()
        except OSError as error:  # who watches must not end what is watched
            log.warning("KronA: the metrics of %s cannot be shown: %s", shown(self._run), error.strerror or error)
            return []

    def _send(self, state: str, first: int, rows: list[Row]) -> None:
        server = getattr(PromptServer, "instance", None)  # none where a script trains
        if server is not None and (rows or state != "training"):
            shown_rows = [public_row(row) for row in rows]
            message = {"run": self._run, "node": self._node, "state": state, "from": first, "rows": shown_rows}
            server.send_sync(MESSAGE, message)
