"""The header of a safetensors file: everything it says about itself, read and checked without touching a tensor."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..border import Border, Limits
from ..errors import AdapterFileError
from . import header_text

MAX_HEADER_BYTES = 16 * 2**20
"""An adapter's header has 50 kB to 2 MB, with a picture and the captions of its training;
the safetensors library would read 100 MB."""
SUFFIXES = (".safetensors", ".sft")
"""What safetensors files are called; Flux's authors and others use the short one."""
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
CONVERT = (
    'Convert it where you trust it: python -c "import sys, torch, safetensors.torch as s; f = sys.argv[1]; '
    "t = torch.load(f, weights_only=True, map_location='cpu'); "
    "s.save_file({k: v.contiguous().clone() for k, v in t.items()}, f.rsplit('.', 1)[0] + '.safetensors')\" FILE"
)
"""How a pickle becomes a safetensors file; nothing here opens one. ``weights_only`` keeps PyTorch from running what is
in it."""
SIDECAR = "adapter_config.json"
"""PEFT keeps the scale of an adapter in this file beside it, and nowhere else."""
PEFT_FILE = "adapter_model.safetensors"
"""The one name under which PEFT saves an adapter."""
_SETTINGS = Border(SIDECAR, limits=Limits(size=1_000_000, depth=8, values=50_000))
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
"""What the header calls the element types that PyTorch can compute with;
the rest (``F4``, ``F6_E2M3``, …) packs several numbers into a byte."""
PAIRS = "F4"
"""Of those the one that is read: two numbers in a byte, which `krona_ops.files` takes apart."""


@dataclass(frozen=True, eq=False)
class Header:
    """What a safetensors file says about itself; no tensor is read for it."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    dtypes: dict[str, str] = field(default_factory=dict)
    """The header's own names: ``F32``, ``BF16``, ….

    Empty where the tensors come from elsewhere.
    """
    config: Mapping[str, object] = field(default_factory=dict)
    """The ``adapter_config.json`` beside the file, whichever file it is about
    (`krona_ops.formats.sidecar` compares them)."""
    has_own_config: bool = False
    """Whether the file is the only one that `config` can be about:
    it has PEFT's own name, or the folder has no other."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Header:
        """The header that a file with these tensors would have."""
        return cls({key: tuple(t.shape) for key, t in tensors.items()}, dict(metadata))

    def unreadable(self) -> set[str]:
        """The tensors of types that PyTorch cannot hold, several numbers to a byte, `PAIRS` of even length apart."""
        odd = {key for key, dtype in self.dtypes.items() if dtype not in DTYPES}
        return {key for key in odd if self.dtypes[key] != PAIRS or not self.shapes[key] or self.shapes[key][-1] % 2}

    def placeholders(self) -> dict[str, Tensor]:
        """Tensors of the file's shapes and types without memory, on the meta device;
        those of one shape and type are one."""
        made: dict[tuple[tuple[int, ...], str], Tensor] = {}
        tensors = {}
        for key, shape in self.shapes.items():
            kind = shape, self.dtypes.get(key, "F32")
            if kind not in made:
                made[kind] = torch.empty(shape, dtype=DTYPES.get(kind[1], torch.float32), device="meta")
            tensors[key] = made[kind]
        return tensors


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
            CONVERT if pickled else "Choose a .safetensors file.",
        )
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise unreadable(path, "it is no file.", "Choose a .safetensors file.")
        size = status.st_size
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
        AdapterFileError: It cannot be, in a file of this size, or no adapter has one as long.
    """
    length = int.from_bytes(start, "little")
    if size < 8 or not 2 <= length <= size - 8:
        raise unreadable(path, f"a header of {length} bytes is not possible in a file of {size} bytes.", _DAMAGED)
    if length > MAX_HEADER_BYTES:
        raise unreadable(
            path,
            f"its header has {length:,} bytes, {MAX_HEADER_BYTES:,} are read.",
            "No adapter needs one as long; get the file again, or save it without its metadata.",
        )
    return length


def parse_header(path: Path, file: IO[bytes], size: int) -> Header:
    """Read and check a header, whether or not the tensors behind it are there yet.

    Args:
        path: For the error.
        size: Of the whole file.

    Raises:
        AdapterFileError: It makes no sense, says more than `header_text` allows, or speaks of another size.
    """
    length = header_length(path, file.read(8), size)
    try:
        text = header_text.read(file.read(length), DTYPES)
    except ValueError as error:
        reason = str(error) if type(error) is header_text.HeaderError else "it is no JSON"
        raise unreadable(path, f"its header makes no sense: {reason}.", _DAMAGED) from error
    if 8 + length + text.end != size:
        raise unreadable(path, f"the header speaks of {8 + length + text.end} bytes, the file has {size}.", _DAMAGED)
    return Header(text.shapes, text.metadata, text.dtypes)


def _sidecar(path: Path) -> Mapping[str, object]:
    """PEFT's settings file; empty where there is none that makes sense: it may belong to another program."""
    try:
        if not path.is_file() or path.stat().st_size > _SETTINGS.limits.size:
            return {}
        config = _SETTINGS.json(path.read_bytes())
    except (OSError, AdapterFileError):
        return {}
    return config if isinstance(config, dict) and "peft_type" in config else {}


def _is_alone(path: Path) -> bool:
    """Whether settings in a file's folder can only be about it."""
    return path.name == PEFT_FILE or sum(other.suffix.lower() in SUFFIXES for other in path.parent.iterdir()) == 1


def unreadable(path: Path, reason: str, remedy: str) -> AdapterFileError:
    """The error for a file that is no safetensors file or cannot be opened."""
    return AdapterFileError(
        f"This file cannot be read: {reason}",
        where=str(path),
        found=reason,
        expected="a safetensors file",
        remedy=remedy,
    )
