"""A run's folder, held by the one training that writes into it, from before its first byte.

Two trainings of one name get two folders; whoever wants a folder that another training holds is refused by name. The
lock is the operating system's (`krona_ops.locks`): a training that was killed holds nothing, whatever it left in its
folder.

filelock, which comes with PyTorch, empties the file that it locks before it knows whether it may have it, so that it
could not say who holds it; its file for systems without locks stays when its owner dies.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from krona_ops.atomic import remove
from krona_ops.errors import AdapterFileError, ConfigError
from krona_ops.locks import is_at, take
from krona_ops.shown import shown

from .litter import sweep_below

log = logging.getLogger(__name__)
LOCK, OF_A_PROCESS = ".lock", ".lock-process"
"""Who holds the run, and the process of its own that trains for them and may outlive them."""
_MOST_CHARACTERS = 400
_TRIES = 100


class Claim:
    """A folder that is held until `release`, or until this process ends."""

    def __init__(self, folder: Path, descriptor: int, name: str, token: str, *, is_new: bool) -> None:
        self.folder, self.token = folder, token
        """What a process that trains for this one shows, see `join`."""
        self._descriptor: int | None = descriptor
        self._name, self._is_new = name, is_new

    def release(self) -> None:
        """Let go of the folder; one that was made for this and is still empty goes too. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if os.name == "nt":  # an open file cannot be removed; one that somebody else has opened by then stays
            os.close(descriptor)
            with suppress(OSError):
                (self.folder / self._name).unlink()
        else:  # removed while it is locked: whoever has opened it sees that it is not the file of that name any more
            if is_at(descriptor, self.folder / self._name):
                remove(self.folder / self._name)
            os.close(descriptor)
        if self._is_new:
            with suppress(OSError):
                self.folder.rmdir()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def claim(folder: Path) -> Claim:
    """Hold a folder, made where missing.

    Raises:
        ConfigError: Another training holds it.
        AdapterFileError: It cannot be made or written.
    """
    held = _locked(folder, LOCK)
    try:
        other = _open(folder / OF_A_PROCESS, os.O_RDWR)
    except FileNotFoundError:
        return held
    try:
        if take(other) is False:
            held.release()
            raise _taken(folder, _said(other))
    finally:
        os.close(other)
    return held


def join(folder: Path, token: str) -> Claim:
    """Hold a folder for the process that has claimed it, beside that: it stays held if that one dies first.

    Raises:
        ConfigError: The folder is not held by whoever gave the token any more.
        AdapterFileError: It cannot be written.
    """
    held = _locked(folder, OF_A_PROCESS)
    try:
        said = (folder / LOCK).read_text(encoding="utf-8", errors="replace")
    except OSError:
        said = ""
    if said.partition(" ")[0] != token:
        held.release()
        raise _taken(folder, said)
    return held


def claim_new(wanted: Path) -> Claim:
    """Hold a folder for a new run: the wanted one, or with a number the first that is not there yet, or is empty and
    free.

    Raises:
        AdapterFileError: It cannot be made or written.
    """
    number, folder = 1, wanted
    while True:
        if not folder.exists() or is_empty(folder):
            try:
                held = claim(folder)
            except ConfigError as error:
                log.debug("KronA: %s", error)
            else:
                if is_empty(folder):
                    return held
                held.release()  # a training has begun and ended in between
        sweep_below([folder])  # of one that was killed before its first state, nobody uses the folder again
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")


def is_empty(folder: Path) -> bool:
    """Whether nothing but locks is in a folder."""
    try:
        return all(entry.name in (LOCK, OF_A_PROCESS) for entry in os.scandir(folder))
    except OSError:
        return False


def _locked(folder: Path, name: str) -> Claim:
    path, is_new = folder / name, not folder.exists()
    try:
        for _ in range(_TRIES):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = _open(path, os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:  # the folder was removed by whoever had made it
                continue
            is_ours = take(descriptor)
            if is_ours is False:
                said = _said(descriptor)
                os.close(descriptor)
                raise _taken(folder, said)
            if is_ours is None:
                log.warning(
                    "KronA: %s keeps no locks; two trainings in it would not notice each other.", shown(str(folder))
                )
            if is_at(descriptor, path):
                held = Claim(folder, descriptor, name, secrets.token_hex(8), is_new=is_new)
                try:
                    _tell(descriptor, f"{held.token} {_oneself()}")
                except OSError:  # no room for it: nothing stays behind, and nobody is kept out
                    held.release()
                    raise
                return held
            os.close(descriptor)  # whoever held it has removed it in between
    except OSError as error:
        raise AdapterFileError(
            f"The run's folder cannot be written: {error.strerror or error}.",
            where=str(folder),
            found=str(error),
            expected="a folder with room that may be written",
            remedy="Free some space or choose another folder.",
        ) from error
    raise _taken(folder, "")


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _tell(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode(errors="replace"))


def _said(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, _MOST_CHARACTERS).decode(errors="replace")


def _oneself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _taken(folder: Path, said: str) -> ConfigError:
    who = shown(said.partition(" ")[2], 160)
    return ConfigError(
        f"Another training writes into this run{f' ({who})' if who else ''}.",
        where=folder.name,
        found="a run that is being trained",
        expected="a run that nobody trains",
        remedy="Wait for its end or stop it, or begin a new run.",
    )
