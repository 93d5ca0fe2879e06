"""One line per step on the terminal, and how long it took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

Say = Callable[[str], None]


class Steps:
    """Numbers the steps of a set-up and tells them as they begin and end."""

    def __init__(self, total: int, say: Say):
        self._total = total
        self._done = 0
        self._say = say

    def _next(self) -> str:
        self._done += 1
        return f"[{self._done}/{self._total}]"

    def skip(self, what: str) -> None:
        """Tell that a step was done before."""
        self._say(f"{self._next()} {what}: already done")

    @contextlib.contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """Tell ``doing`` at the start and the seconds at the end; says nothing if the step fails."""
        number = self._next()
        self._say(f"{number} {doing} ...")
        start = time.monotonic()
        yield
        self._say(f"{' ' * len(number)} done in {time.monotonic() - start:.0f} s")
