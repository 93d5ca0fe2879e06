"""Files on their way to ``models/krona``: checked while they come, then put under a free name, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import IO

from krona_ops.errors import AdapterFileError, FormatError
from krona_ops.formats.header import CONVERT, PICKLE_SUFFIXES, SUFFIXES, Header, header_length, parse_header
from krona_ops.formats.inspection import layers_of
from krona_ops.locks import is_at, take
from krona_ops.names.families import whole_model
from krona_ops.shown import shown

from .. import paths
from .adapters import require_few_tensors
from .answers import Refused

ON_ITS_WAY = ".upload"
SECONDS_UNTIL_STALE = 60.0
"""Where the file system keeps no locks. An upload that stands still for some seconds is refused, so a file that has not
grown for longer is left from a crash."""
MOST_CHARACTERS = 200
_CHUNK = 1 << 20
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[\d¹²³]|lpt[\d¹²³])\s*(\.|$)", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"|?*]')
"""By Windows, and by many sticks and network drives."""
_on_their_way: set[Path] = set()
"""Files of this process, which may wait for their turn for long."""
_UNWRITTEN = ("Cf", "Co", "Cs", "Cn", "Zl", "Zp")
"""Unicode's categories of characters that nobody sees, or that no file's name can have."""
_parsing = threading.Lock()
"""One header at a time: the largest that is allowed takes a gigabyte of memory."""
_placing = threading.Lock()


def checked_name(text: str) -> str:
    """The name that an upload asks for, as every system accepts it.

    Raises:
        Refused: It is none, leads elsewhere, or is no adapter's.
    """
    reason = _refusal(text)
    if reason is not None:
        raise _cannot_be_called(text, reason)
    stem, suffix = os.path.splitext(text)
    if suffix.lower() not in SUFFIXES:
        is_pickle = suffix.lower() in PICKLE_SUFFIXES
        why = "they can run code" if is_pickle else "only .safetensors is read"
        raise Refused(
            415,
            f"{shown(suffix) or 'Files without a suffix'} is never opened: {why}.",
            remedy=CONVERT if is_pickle else "Convert it with the program that made it.",
        )
    stem = _FORBIDDEN.sub("-", unicodedata.normalize("NFC", stem))
    stem = "".join("-" if unicodedata.category(c) in _UNWRITTEN else c for c in stem)
    while stem != (stem := stem.strip().strip(".")):
        pass
    if not stem:
        raise _cannot_be_called(text, "there is nothing before the suffix")
    made = stem + suffix.lower()
    reason = _refusal(made)  # what has become of it may be longer, or another name
    if reason is not None:
        raise _cannot_be_called(text, reason)
    return made


def _cannot_be_called(text: str, reason: str) -> Refused:
    return Refused(400, f'The file cannot be called "{shown(text)}": {reason}.', remedy="Rename it.")


def _refusal(text: str) -> str | None:
    if not text.strip():
        return "a name is needed"
    if "/" in text or "\\" in text:
        return "it leads to another folder"
    if any(unicodedata.category(c) == "Cc" for c in text):
        return "it has control characters"
    if len(text) > MOST_CHARACTERS or len(text.encode(errors="replace")) > MOST_CHARACTERS:
        return f"it is longer than {MOST_CHARACTERS} characters"
    if paths.is_called_as_a_run_does(text):
        return "runs keep files of that name, which no menu shows"
    return "Windows keeps that name for a device" if _DEVICE.match(text.strip()) else None


class Incoming:
    """One file on its way.

    Args:
        folder: Where it will be; until then it is there under a name that nothing lists.
        name: The one it shall get, for errors.
        size: What was announced.
    """

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self._wanted, self._size, self._written = folder / name, size, 0
        self._path, self._file = _opened(folder)
        self._needed = 8
        """Bytes that must have come before the next part of the file can be checked."""
        self._is_checked = False

    def write(self, data: bytes) -> None:
        """Add what has come.

        Raises:
            Refused: It is no adapter, as can be told by now.
            OSError: The disk is full, or gone.
        """
        self._written += len(data)
        if self._written > self._size:
            message = f"More bytes have come than the {self._size} that were announced."
            raise Refused(400, message, remedy="Upload it again.")
        self._file.write(data)
        while not self._is_checked and self._written >= self._needed:
            self._check()

    def _check(self) -> None:
        self._file.seek(0)
        try:
            if self._needed == 8:
                self._needed += _length(self._wanted, self._file.read(8), self._size)
            else:
                with _parsing:
                    require_adapter(_header(self._wanted, self._file, self._size))
                self._is_checked = True
        finally:
            self._file.seek(0, os.SEEK_END)

    def place(self) -> tuple[str, bool]:
        """Put the whole file where it belongs; its name in the menu, and whether it is new there.

        Raises:
            Refused: It is not whole.
            OSError: The disk is full, or gone.
        """
        if not self._is_checked or self._written != self._size:
            raise Refused(400, f"{self._written} of {self._size} bytes have come.", remedy="Upload it again.")
        self._file.flush()
        os.fsync(self._file.fileno())
        if os.name == "nt":  # where an open file cannot be renamed
            self._file.close()
        with _placing:
            same = _same(self._path, self._size)
            if same is not None:
                return same, False
            name = self._put()
            paths.forget_list()
            return name, True

    def _put(self) -> str:
        taken = {name.casefold() for name in paths.adapter_files()}
        stem, suffix, number = self._wanted.stem, self._wanted.suffix, 1
        while True:
            name = f"{stem}{f' ({number})' if number > 1 else ''}{suffix}"
            number += 1
            if name.casefold() not in taken and moved(self._path, self._wanted.with_name(name)):
                return name

    def discard(self) -> None:
        """Close the file, and remove it unless `place` has put it under its name."""
        self._file.close()
        _on_their_way.discard(self._path)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def _length(path: Path, start: bytes, size: int) -> int:
    try:
        return header_length(path, start, size)
    except AdapterFileError as error:
        is_pickle = start[:1] == b"\x80"
        kind = "a zip archive" if start.startswith(b"PK") else "a pickle, which can run code" if is_pickle else None
        if kind is not None:
            raise Refused(
                415, f"{path.name} is {kind}, whatever its name says.", remedy="Only safetensors files are read."
            ) from error
        message = f"{path.name} is no safetensors file: {error.found}"
        raise Refused(400, message, remedy="Get the file again.") from error


def _header(path: Path, file: IO[bytes], size: int) -> Header:
    try:
        return parse_header(path, file, size)
    except AdapterFileError as error:
        raise Refused(400, f"{path.name} is damaged: {error.found}", remedy="Get the file again.") from error


def require_adapter(header: Header) -> None:
    """Refuse a file that is no adapter.

    Raises:
        Refused: It holds no adapter, or one of too many layers; a whole model is called by its name.
    """
    require_few_tensors(len(header.shapes))
    try:
        layers_of(header)
    except FormatError as error:
        model = whole_model(header.shapes)
        if model is None:
            raise Refused(415, f"The file holds no adapter: {error}") from error
        raise Refused(
            415,
            f"The file is no adapter but a whole model: {model}.",
            remedy="Put it into models/checkpoints, models/diffusion_models or models/text_encoders yourself.",
        ) from error


def _same(path: Path, size: int) -> str | None:
    """The name in the menu of an adapter with the same bytes; ``None`` where there is none."""
    for name in paths.adapter_files():
        with contextlib.suppress(OSError, AdapterFileError):  # it may have gone since it was listed
            other = paths.adapter_path(name)
            if other.stat().st_size == size and _same_bytes(path, other):
                return name
    return None


def _same_bytes(left: Path, right: Path) -> bool:
    """Adapters of one kind have one size; their metadata, which comes first, tells most of them apart at once."""
    with left.open("rb") as a, right.open("rb") as b:
        while True:
            mine, theirs = a.read(_CHUNK), b.read(_CHUNK)
            if mine != theirs or not mine:
                return mine == theirs


def moved(path: Path, target: Path, link: Callable[[Path, Path], None] = os.link) -> bool:
    """Give a file another name unless that is taken, also when two do so at once; whether it has it.

    Args:
        link: Makes a hard link.
    """
    try:
        link(path, target)
    except FileExistsError:
        return False
    except OSError:  # a disk without hard links: take the name first
        try:
            target.open("xb").close()
        except FileExistsError:
            return False
        os.replace(path, target)
    else:
        path.unlink()
    return True


def _opened(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new file that nobody else removes as long as it is open."""
    while True:
        path = folder / f".{secrets.token_hex(8)}{ON_ITS_WAY}"
        _on_their_way.add(path)
        file = path.open("x+b")
        if os.name == "nt" or take(file.fileno()) is None or is_at(file.fileno(), path):
            return path, file
        file.close()  # another server has swept it between the two lines above
        _on_their_way.discard(path)


def remove_stale(folder: Path) -> None:
    """Remove what a crash has left on its way: files that no process holds open."""
    for path in folder.glob(f".*{ON_ITS_WAY}"):
        with contextlib.suppress(OSError):  # another server may have removed it
            if path not in _on_their_way and _is_nobodys(path):
                path.unlink()


def _is_nobodys(path: Path) -> bool:
    is_old = abs(time.time() - path.lstat().st_mtime) > SECONDS_UNTIL_STALE
    if os.name == "nt":  # an open file cannot be removed there
        return is_old
    with path.open("rb") as file:
        is_free = take(file.fileno())
    return is_old if is_free is None else is_free


def is_full(error: OSError) -> bool:
    """Whether a write failed for want of room."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
