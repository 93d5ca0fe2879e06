"""Watching a process in which drivers run: whoever hangs or dies has lost, and the cases after go on in a new one."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .driver import Driver, Outcome, Process

ROOT = Path(__file__).resolve().parents[1]
SECONDS_TO_START = 300.0
"""Importing the host on a machine that is busy with other things."""
SECONDS_TO_END = 20.0
"""For the blocks of a driver that hangs, before its process is killed."""


class Died(Exception):  # noqa: N818 (it reads as what happened)
    """A process ended, or had to be ended; the text says how."""


class Worker:
    """One process of a kind; starts when it is first needed, and again after it had to be ended.

    Args:
        log: Where its own output goes.
    """

    def __init__(self, kind: Process, log: Path, python: Sequence[str] = ("-m", "proof.worker")) -> None:
        self.kind, self.log, self._python = kind, log, tuple(python)
        self._process: subprocess.Popen[str] | None = None
        self._lines: _Lines | None = None
        self._is_at_work = False

    def run(self, driver: Driver, seed: int, numbers: Sequence[int]) -> Iterator[Outcome]:
        """Try cases; yields one outcome for each number, in order."""
        left = list(numbers)
        while left:
            try:
                yield from self._job(driver, seed, left)
            except Died as death:
                if not left:
                    return
                self.stop()
                yield Outcome(left.pop(0), "unknown", (f"{death}; its own words are in {self.log.name}",))

    def _job(self, driver: Driver, seed: int, left: list[int]) -> Iterator[Outcome]:
        """The next outcomes; takes their numbers from ``left``."""
        self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._lines is not None
        try:
            self._process.stdin.write(json.dumps({"driver": driver.name, "seed": seed, "numbers": left}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Died("the process could not be reached") from error
        self._is_at_work = True
        while not (line := self._lines.next(driver.seconds)).get("done"):
            outcome = Outcome(line["number"], line["fault"], tuple(line["violations"]))
            left.remove(outcome.number)
            yield outcome
        self._is_at_work = False

    def _start(self) -> None:
        if self._process is not None:
            return
        reading, writing = os.pipe()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._python, str(writing), self.kind],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=(writing,),
                start_new_session=True,  # a group of its own, so that what it starts ends with it
            )
        os.close(writing)
        self._lines = _Lines(reading, self._process)
        self._lines.next(SECONDS_TO_START)  # it is ready

    def stop(self) -> None:
        """End it and everything that it started; does nothing where none runs."""
        if self._process is None:
            return
        if self._is_at_work:  # what a driver has started and mounted is taken down by its own blocks
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(SECONDS_TO_END)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._lines is not None:
            self._lines.close()
        self._process = self._lines = None
        self._is_at_work = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Lines:
    """What a process tells, line by line."""

    def __init__(self, fd: int, process: subprocess.Popen[str]) -> None:
        self._fd, self._process, self._buffer = fd, process, b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(fd, selectors.EVENT_READ)

    def next(self, seconds: float) -> dict:
        """
        Raises:
            Died: Nothing came for so long, or the process has ended.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise Died(f"it hangs: nothing came for {seconds:g} s")
            data = os.read(self._fd, 1 << 16)
            if not data:
                raise Died(f"the process died with code {self._process.wait()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        self._selector.close()
        os.close(self._fd)
