"""A disk of a chosen size: a mounted one where that is allowed, else a limit on the size of files."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Grow = Callable[[], None]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[tuple[str, Grow]]:
    """A disk of ``size`` bytes (in whole pages) at ``folder``, which is made.

    Yields:
        What it is, in words; and a function that makes room.
    """
    folder.mkdir()
    if not _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)):
        with _limited_files(size) as grow:
            yield "a limit on the size of files", grow
        return
    try:
        yield "a full disk", lambda: _require(_mount("-o", "remount,size=64m", str(folder)))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@contextmanager
def _limited_files(size: int) -> Iterator[Grow]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores SIGXFSZ: writes fail with EFBIG
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _require(done: bool) -> None:
    if not done:
        raise RuntimeError("the small disk could not be made larger")
