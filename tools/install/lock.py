"""One set-up at a time on this machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


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


def _try_lock(file) -> bool:
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


def _lock(file) -> None:
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    while not _try_lock(file):  # LK_LOCK gives up after ten tries
        time.sleep(0.5)


def _unlock(file) -> None:
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_UN)
    else:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
