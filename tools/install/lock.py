"""One set-up at a time on this machine."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file ``path``. The system lets go of it when the process ends, however it ends.

    A pip that was started meanwhile and outlives this process keeps holding it (not on Windows).

    Args:
        path: Created where missing, and left behind: removing a lock file would race with those who wait for it.
        on_wait: Called once if another process holds the lock, before waiting for it.
    """
    with open(path, "a+b") as file:
        if not _try_lock(file):
            on_wait()
            _lock(file)
        os.set_inheritable(file.fileno(), True)
        try:
            yield
        finally:
            _unlock(file)


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        while not _try_lock(file):  # LK_LOCK gives up after ten tries
            time.sleep(0.5)
    else:
        fcntl.flock(file, fcntl.LOCK_EX)


def _unlock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_UN)
