"""The process in which drivers run: gets jobs as lines on its input,
tells outcomes as lines on a file descriptor of their own.

    python -m proof.worker FD plain|host|audited

A job is ``{"driver": name, "seed": 1, "numbers": [0, 1, 2]}``; an outcome
``{"number": 0, "fault": "…", "violations": []}``; after a job's last one comes ``{"done": true}``. Its own output and
that of whatever it tries is the log.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from . import table, words
from .driver import Bench, Driver


def main(fd: int, process: str) -> None:
    """Work until the input ends, or whoever started this does."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("ended by whoever started this")
    )  # servers and mounts of a driver end with it
    end_with_parent()
    prepare(process)
    with os.fdopen(fd, "w") as pipe:
        tell(pipe, {"ready": True})
        for line in sys.stdin:
            job = json.loads(line)
            [driver] = table.of(names=[job["driver"]])
            work(driver, job["seed"], job["numbers"], pipe)
            tell(pipe, {"done": True})


def end_with_parent() -> None:
    """Have Linux send a signal when the parent dies, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def prepare(process: str) -> None:
    """Load what the drivers of this kind of process need; sums are small, so one thread does."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    if process != "plain":
        from benchmarks import host

        host.start()


def work(driver: Driver, seed: int, numbers: list[int], pipe: IO[str]) -> None:
    """One batch. An exception of the driver itself is a violation of the case that it was at:
    nothing is passed over."""
    here = os.getcwd()
    with (
        tempfile.TemporaryDirectory(prefix="krona-proof-", ignore_cleanup_errors=True) as folder,
        bounded(driver.gigabytes),
    ):
        left = list(numbers)
        try:
            for outcome in driver.load()(Bench(Path(folder), seed, driver.name), list(numbers)):
                left.remove(outcome.number)
                tell(pipe, asdict(outcome))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the host's interrupt is no Exception
            traceback.print_exc()
            failure = f"the driver could not go on: {words.in_short(error)}"
            tell(pipe, {"number": left[0] if left else numbers[-1], "fault": "unknown", "violations": [failure]})
        finally:
            os.chdir(here)


@contextlib.contextmanager
def bounded(gigabytes: float | None) -> Iterator[None]:
    """No more address space than this beyond what is in use already, inside the block."""
    if gigabytes is None or sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + int(gigabytes * 2**30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def tell(pipe: IO[str], what: dict) -> None:
    """One line."""
    pipe.write(json.dumps(what) + "\n")
    pipe.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
