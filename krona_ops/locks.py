"""Locks that the operating system keeps on open files: whoever dies lets go of them at that moment,
so that none is ever stale.

A file with a process's number in it would outlive a crash, and the number may be another program's by then; boot, start
time and computer would have to be compared too. Closing the file, or dying, is all that it takes here, on every system.
"""

from __future__ import annotations

import errno
import os

if os.name == "nt":
    import msvcrt
else:
    import fcntl

_FAR = 1 << 30
"""Windows keeps others from reading what is locked: a place behind all that is written is locked,
and the rest can be read."""
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


def take(descriptor: int) -> bool | None:
    """Lock an open file for this descriptor alone, without waiting; closing it unlocks it.

    Returns:
        Whether it is ours now; ``None`` where its file system keeps no locks, as some network drives do not.
    """
    try:
        if os.name == "nt":
            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # typed on Windows alone
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _TAKEN else None
    return True


def is_at(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Whether an open file still has this name: it may have been removed between being opened and being locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
