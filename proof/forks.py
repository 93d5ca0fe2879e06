"""Something in a process of its own, forked from this one so that nothing is imported again:
to be killed, or to be somebody else."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from .words import in_short, unfit

NOBODY = 65534


@dataclass(frozen=True)
class End:
    """How a process ended."""

    how: Literal["fine", "refused", "foreign", "killed"]
    words: str = ""

    @property
    def violations(self) -> list[str]:
        """What must not have happened: a foreign exception, an unfit message."""
        if self.how == "foreign":
            return [self.words]
        return [wrong] if self.how == "refused" and (wrong := unfit(self.words)) else []


class Fork:
    """A forked process that calls something and ends.

    Args:
        call: What it does.
        as_nobody: Whether it gives up root's rights first.
    """

    def __init__(self, call: Callable[[], object], *, as_nobody: bool = False) -> None:
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _child(call, writing, as_nobody)
        os.close(writing)

    def kill(self) -> None:
        """End it in the middle of whatever it does, as a power cut would."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> End:
        """Wait for it."""
        with os.fdopen(self._reading, "rb") as pipe:
            text = pipe.read()
        os.waitpid(self.pid, 0)
        return End(**json.loads(text)) if text else End("killed")


def _child(call: Callable[[], object], writing: int, as_nobody: bool) -> None:
    from krona_ops.errors import KronaError

    code = 1
    try:
        if as_nobody and os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            call()
            outcome = {"how": "fine"}
        except KronaError as error:
            outcome = {"how": "refused", "words": f"{type(error).__name__}: {error}"}
        except BaseException as error:
            outcome = {"how": "foreign", "words": in_short(error)}
        os.write(writing, json.dumps(outcome).encode())
        code = 0
    finally:
        os._exit(code)  # nothing of the parent's is finished here
