"""Adapters on disk: safetensors only, checked before anything is read, written atomically."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from .adapter import Adapter
from .errors import AdapterFileError, FormatError
from .formats import FORMATS, lokr

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself; no tensor is read for it."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file, and that the file is as long as the header says.

    Raises:
        AdapterFileError: The file is missing, no safetensors file (pickles are never opened), or cut short.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        pickled = path.suffix.lower() in PICKLE_SUFFIXES
        raise _unreadable(
            path,
            f"{path.suffix or 'no suffix'} files are never opened" + (", they can run code." if pickled else "."),
            "Convert it to safetensors with the program that made it." if pickled else "Choose a .safetensors file.",
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _parse_header(path, file, size)
    except OSError as error:
        raise _unreadable(
            path, f"the file cannot be opened: {error.strerror or error}.", "Check that it exists and may be read."
        ) from error


def _parse_header(path: Path, file: IO[bytes], size: int) -> Header:
    damaged = "Get the file again; this copy is damaged or no safetensors file."
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise _unreadable(path, f"a header of {length} bytes is not possible in a file of {size} bytes.", damaged)
    try:
        entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", None) or {}
        shapes = {key: tuple(int(n) for n in entry["shape"]) for key, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata that is not text")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _unreadable(path, f"its header makes no sense ({type(error).__name__}).", damaged) from error
    if 8 + length + end != size:
        raise _unreadable(path, f"the header speaks of {8 + length + end} bytes, the file has {size}.", damaged)
    return Header(shapes, metadata)


def load(path: str | os.PathLike[str]) -> Adapter:
    """Load an adapter file.

    Raises:
        AdapterFileError: The file cannot be read (see `read_header`).
        FormatError: It holds no adapter of a known format.
    """
    header = read_header(path)
    reader = next((f for f in FORMATS if f.sniff(header.shapes)), None)
    if reader is None:
        sample = ", ".join(list(header.shapes)[:3]) or "no tensors"
        raise FormatError(
            f"No known adapter format: it holds {sample}{', …' if len(header.shapes) > 3 else ''}",
            layer=str(path),
            found=sample,
            expected=" or ".join(f.NAME for f in FORMATS),
            remedy="Is it a checkpoint or another kind of file?",
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(Path(path), f"its tensors cannot be read: {error}.", "Get the file again.") from error
    try:
        return reader.read(tensors, header.metadata)
    except FormatError as error:
        raise FormatError(f"{error}", layer=str(path), found=error.found, expected=error.expected) from error


def save(adapter: Adapter, path: str | os.PathLike[str]) -> Path:
    """Save an adapter in ComfyUI's LoKr format: either the whole file appears under its name, or nothing changes.

    Raises:
        FormatError: LoKr cannot hold one of the layers.
        AdapterFileError: The folder cannot be written, or the disk is full.
    """
    payload = to_bytes(lokr.write(adapter), metadata={"format": "pt", **adapter.metadata})
    return write_atomically(path, lambda file: file.write(payload))


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file so that a crash, a kill or a full disk at any moment leaves the old one, or none, but never half of one.

    Raises:
        AdapterFileError: The folder cannot be written, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(8)}.part")
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise AdapterFileError(
            f"The file cannot be written: {error.strerror or error}.",
            layer=str(path),
            found=str(error),
            expected="a folder with room that may be written",
            remedy="Free some space or choose another folder; nothing was changed.",
        ) from error
    return path


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows has no handle for folders and needs none."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unreadable(path: Path, reason: str, remedy: str) -> AdapterFileError:
    return AdapterFileError(
        f"This is no adapter that can be read: {reason}",
        layer=str(path),
        found=reason,
        expected="a safetensors file",
        remedy=remedy,
    )
