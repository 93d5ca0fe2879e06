"""The header of a safetensors file: everything it says about itself, read and checked without touching a tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from .errors import AdapterFileError

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""
MAX_SIDECAR_BYTES = 10_000_000
SUFFIXES = (".safetensors", ".sft")
"""What safetensors files are called; Flux's authors and others use the short one."""
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
SIDECAR = "adapter_config.json"
"""PEFT keeps the scale of an adapter in this file beside it, and nowhere else."""
PEFT_FILE = "adapter_model.safetensors"
"""The one name under which PEFT saves an adapter."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What the header calls the element types that PyTorch can hold; the rest (``F4``, ``F6_E2M3``, …) packs several numbers into a byte."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself; no tensor is read for it."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    dtypes: dict[str, str] = field(default_factory=dict)
    """The header's own names: ``F32``, ``BF16``, ….

    Empty where the tensors come from elsewhere.
    """
    config: Mapping[str, object] = field(default_factory=dict)
    """The ``adapter_config.json`` beside the file, whichever file it is about (`krona_ops.formats.sidecar` compares them)."""
    has_own_config: bool = False
    """Whether the file is the only one that `config` can be about: it has PEFT's own name, or the folder has no other."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Header:
        """The header that a file with these tensors would have."""
        return cls({key: tuple(t.shape) for key, t in tensors.items()}, dict(metadata))

    def placeholders(self) -> dict[str, Tensor]:
        """Tensors of the file's shapes and types without memory, on the meta device."""
        return {
            key: torch.empty(shape, dtype=DTYPES.get(self.dtypes.get(key, "F32"), torch.float32), device="meta")
            for key, shape in self.shapes.items()
        }


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file, and that the file is as long as the header says.

    Raises:
        AdapterFileError: The file is missing, no safetensors file (pickles are never opened), or cut short.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        pickled = path.suffix.lower() in PICKLE_SUFFIXES
        raise unreadable(
            path,
            f"{path.suffix or 'no suffix'} files are never opened" + (", they can run code." if pickled else "."),
            "Convert it to safetensors with the program that made it." if pickled else "Choose a .safetensors file.",
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header, config = parse_header(path, file, size), _sidecar(path.with_name(SIDECAR))
        return replace(header, config=config, has_own_config=bool(config) and _is_alone(path))
    except OSError as error:
        raise unreadable(
            path, f"the file cannot be opened: {error.strerror or error}.", "Check that it exists and may be read."
        ) from error


_DAMAGED = "Get the file again; this copy is damaged or no safetensors file."


def header_length(path: Path, start: bytes, size: int) -> int:
    """How long the header of a file is, told by its first 8 bytes.

    Raises:
        AdapterFileError: It cannot be, in a file of this size.
    """
    length = int.from_bytes(start, "little")
    if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise unreadable(path, f"a header of {length} bytes is not possible in a file of {size} bytes.", _DAMAGED)
    return length


def parse_header(path: Path, file: IO[bytes], size: int) -> Header:
    """Read and check a header, whether or not the tensors behind it are there yet.

    Args:
        path: For the error.
        size: Of the whole file.

    Raises:
        AdapterFileError: It makes no sense, or speaks of another size.
    """
    length = header_length(path, file.read(8), size)
    try:
        entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", None) or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata that is not text")
        shapes = {key: _shape(entry) for key, entry in entries.items()}
        dtypes = {key: str(entry["dtype"]) for key, entry in entries.items()}
        end = _end(entries.values())
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise unreadable(path, f"its header makes no sense ({type(error).__name__}).", _DAMAGED) from error
    if 8 + length + end != size:
        raise unreadable(path, f"the header speaks of {8 + length + end} bytes, the file has {size}.", _DAMAGED)
    return Header(shapes, metadata, dtypes)


def _shape(entry: dict) -> tuple[int, ...]:
    """The shape of one tensor; a `ValueError` where it does not fill exactly the bytes that the header gives it."""
    shape = tuple(int(n) for n in entry["shape"])
    start, end = (int(n) for n in entry["data_offsets"])
    dtype = DTYPES.get(entry["dtype"])
    if min((*shape, start, end - start), default=0) < 0:
        raise ValueError("a negative size")
    is_known = dtype is not None and prod(shape) * dtype.itemsize == end - start
    if not is_known and (dtype is not None or prod(shape) > 8 * (end - start)):
        raise ValueError("a shape that does not fill its bytes")
    return shape


def _end(entries: Iterable[dict]) -> int:
    """Where the last tensor ends; a `ValueError` where they do not follow one another without a gap, as the format wants it."""
    end = 0
    for start, next_end in sorted((int(entry["data_offsets"][0]), int(entry["data_offsets"][1])) for entry in entries):
        if start != end:
            raise ValueError("tensors that overlap, or a gap between them")
        end = next_end
    return end


def _sidecar(path: Path) -> dict[str, object]:
    """PEFT's settings file; empty where there is none that makes sense: it may belong to another program."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_SIDECAR_BYTES:
            return {}
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) and "peft_type" in config else {}


def _is_alone(path: Path) -> bool:
    """Whether settings in a file's folder can only be about it."""
    return path.name == PEFT_FILE or sum(other.suffix.lower() in SUFFIXES for other in path.parent.iterdir()) == 1


def unreadable(path: Path, reason: str, remedy: str) -> AdapterFileError:
    """The error for a file that is no safetensors file or cannot be opened."""
    return AdapterFileError(
        f"This is no adapter that can be read: {reason}",
        layer=str(path),
        found=reason,
        expected="a safetensors file",
        remedy=remedy,
    )
