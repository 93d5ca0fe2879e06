"""Write files so that they appear whole or not at all, and remove what an interrupted writing left behind."""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .errors import AdapterFileError
from .locks import is_at, take
from .shown import printable

log = logging.getLogger(__name__)
SECONDS_UNTIL_STALE = 60.0
"""On Windows, which has no name for a file between its last byte and its rename."""
_SECONDS_OF_A_WRITE = 3600.0
"""Where the file system keeps no locks."""
_PART = re.compile(r"\..{1,60}\.[0-9a-f]{16}\.part", re.DOTALL)


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file so that a crash, a kill or a full disk at any moment leaves the old one,
    or none, but never half of one.

    Raises:
        AdapterFileError: The folder cannot be written, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        temporary, file = _opened_part(path)
        try:
            with file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                if os.name == "nt":  # an open file cannot be renamed there; elsewhere the lock lasts until it is
                    file.close()
                os.replace(temporary, path)
        except BaseException:
            remove(temporary)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise AdapterFileError(
            f"The file cannot be written: {error.strerror or error}.",
            where=str(path),
            found=str(error),
            expected="a folder with room that may be written",
            remedy="Free some space or choose another folder; nothing was changed.",
        ) from error
    return path


def _opened_part(path: Path) -> tuple[Path, IO[bytes]]:
    """A file beside the wanted one, which nobody removes as long as it is open."""
    while True:
        temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(8)}.part")
        file = temporary.open("xb")
        is_ours = True if os.name == "nt" else take(file.fileno())
        if is_ours is None or (is_ours and is_at(file.fileno(), temporary)):
            return temporary, file
        file.close()  # swept by somebody between the two lines above
        remove(temporary)


def sweep(folder: str | os.PathLike[str]) -> int:
    """Remove the unfinished files that processes which have died left in a folder; returns how many.

    Those that are being written stay, however long that takes, and so does whatever is not called as ours are.
    """
    try:
        with os.scandir(folder) as entries:
            parts = [Path(entry.path) for entry in entries if _PART.fullmatch(entry.name)]
    except OSError as error:
        log.debug("KronA: %s cannot be searched for unfinished files: %s", printable(str(folder)), error)
        return 0
    return sum(map(_swept, parts))


def _swept(part: Path) -> bool:
    """Remove a file that nobody writes any more: its lock can be had.
    Where there are no locks, one that is old, or of the future."""
    try:
        age = abs(time.time() - part.stat().st_mtime)
        if os.name == "nt":  # an open file cannot be removed; a closed one waits for its name
            return age > SECONDS_UNTIL_STALE and remove(part)
        with part.open("rb") as file:
            is_free = take(file.fileno())
            if is_free is None:
                is_free = age > _SECONDS_OF_A_WRITE
            return is_free and remove(part)  # still locked, so that whoever was about to lock it sees that it has gone
    except OSError as error:  # such as gone
        log.debug("KronA: %s stays where it is: %s", part, error)
        return False


def remove(path: Path) -> bool:
    """Remove a file; nothing happens where it is gone already, or is open on a system that then keeps it."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("KronA: %s cannot be removed: %s", printable(str(path)), error.strerror or error)
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows has no handle for folders and needs none."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
