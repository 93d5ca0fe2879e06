"""Adapters on disk: safetensors only, checked before anything is read, written atomically."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from .atomic import write_atomically
from .errors import AdapterFileError, FormatError
from .formats.header import DTYPES, PAIRS, SIDECAR, Header, read_header, unreadable
from .formats.scale_rules import ScaleRule, check_rule
from .updates.adapter import Adapter

if TYPE_CHECKING:  # `load` and `save` import the formats: headers and plain tensors are read without them
    from .formats.encode import Encoded
    from .formats.layers import Rename

__all__ = ["Header", "load", "load_tensors", "read_header", "save", "save_tensors", "write_atomically"]


def load(
    path: str | os.PathLike[str], scale_rule: ScaleRule = "auto", other: str | os.PathLike[str] | None = None
) -> Adapter:
    """Load an adapter file of any known format; `Adapter.notes` says what was decided on the way.

    Args:
        scale_rule: How strong the update is, where "auto" guesses wrongly; see `krona_ops.formats.scale`.
        other: The second file of an adapter that has two (see `krona_ops.formats.pair`), in either order.

    Raises:
        AdapterFileError: The file cannot be read (see `read_header`).
        FormatError: It holds no adapter of a known format, or a damaged one; the two files are no pair.
        ConfigError: There is no such scale rule.
    """
    from .formats.pair import joined, note_on_half

    adapter = _load(path, scale_rule)
    if other is not None:
        return joined(adapter, _load(other, scale_rule))
    note = note_on_half(adapter)
    return replace(adapter, notes=(*adapter.notes, note)) if note else adapter


def _load(path: str | os.PathLike[str], scale_rule: ScaleRule) -> Adapter:
    from .formats.registry import detect

    rule = check_rule(scale_rule)
    header = read_header(path)
    try:
        reader = detect(header)
        return reader.read(_tensors_of(Path(path), header), header, rule)
    except FormatError as error:
        raise FormatError(
            error.reason, layer=error.layer, where=str(path), found=error.found, expected=error.expected
        ) from error


def _tensors_of(path: Path, header: Header, *, whole: bool = True) -> dict[str, Tensor]:
    """The tensors of a file that PyTorch can hold; readers report the others as left out.

    Args:
        whole: Whether the header speaks of all that is in the file.

    Raises:
        AdapterFileError: The library does not take it, or it has gone meanwhile.
    """
    try:
        if whole and all(dtype in DTYPES for dtype in header.dtypes.values()):
            return load_file(path)
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in header.dtypes.keys() - header.unreadable()}
        return {
            key: _apart(tensors[key]) if dtype == PAIRS else tensors[key]
            for key, dtype in header.dtypes.items()
            if key in tensors
        }
    except (SafetensorError, OSError, RuntimeError) as error:  # the last is PyTorch's word for a file that has gone
        raise unreadable(path, f"its tensors cannot be read: {error}.", "Get the file again.") from error


_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the lower three of four bits mean (OCP Microscaling Formats, table 5); the fourth is the sign."""


def _apart(pairs: Tensor) -> Tensor:
    """Two numbers from each byte, the first from its lower half as PyTorch packs them, in float32,
    which holds them exactly."""
    packed = pairs.view(torch.uint8)
    values = torch.tensor([*_E2M1, *(-value for value in _E2M1)])
    return values[torch.stack((packed & 15, packed >> 4), -1).long().flatten(-2)]


def save(
    adapter: Adapter,
    path: str | os.PathLike[str],
    format: str = "lokr",
    *,
    rank: int | None = None,
    rename: Rename | None = None,
) -> Path:
    """Save an adapter: either the whole file appears under its name, or nothing changes.

    A name that is a link stays one: the file that it leads to is the one that is replaced.

    Args:
        format: "lokr" (ComfyUI's own loaders read it), "kohya", "peft", "lora" (diffusers, PEFT),
            "kohya-lora", "diffusekrona".
        rank: For the two LoRA formats: what is no LoRA yet is converted to at most this rank,
            see `encode` for the error.
        rename: What a layer is called in the file, where only the model knows; names are kept otherwise.

    Raises:
        FormatError: The format cannot hold one of the layers.
        AdapterFileError: The folder cannot be written, or the disk is full.
    """
    from .formats.encode import encode

    encoded = encode(adapter, format, rank=rank, rename=rename)
    path = Path(path)
    beside = path.with_name(SIDECAR)
    if encoded.sidecar is not None:
        _require_own_folder(beside, encoded.sidecar)
    write_atomically(_at_the_end_of_links(path), lambda file: _write_tensors(file, encoded))
    if encoded.sidecar is not None:
        write_atomically(_at_the_end_of_links(beside), lambda file: file.write(str(encoded.sidecar).encode()))
    return path


def _at_the_end_of_links(path: Path) -> Path:
    """The file that a name leads to, there or not yet; `AdapterFileError` where links lead in a circle."""
    end = Path(os.path.realpath(path)) if path.is_symlink() else path
    if end.is_symlink():
        raise AdapterFileError(
            "The name is a link that leads back to itself.",
            where=str(path),
            found="a circle of links",
            expected="a file, or a name that is free",
            remedy="Remove the link, or choose another name.",
        )
    return end


def _write_tensors(file: IO[bytes], encoded: Encoded) -> None:
    """A safetensors file whose metadata holds the hash of its tensors, as kohya's and the managers do."""
    plain = to_bytes(_writable(encoded.tensors))
    start = 8 + int.from_bytes(plain[:8], "little")
    values = memoryview(plain)[start:]
    digest = hashlib.sha256(values).hexdigest()
    metadata = {"format": "pt", **encoded.metadata, "sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"}
    header = json.dumps({"__metadata__": metadata, **json.loads(plain[8:start])}).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    file.write(values)


def _writable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the safetensors library writes them: each with memory of its own, and E8M0, which it does not
    write, in float32, which holds it exactly."""
    seen: set[int] = set()
    made = {}
    for name, tensor in tensors.items():
        tensor = tensor.float() if tensor.dtype == torch.float8_e8m0fnu else tensor
        place = tensor.untyped_storage().data_ptr()
        made[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return made


def _require_own_folder(path: Path, text: str) -> None:
    """Two PEFT adapters in one folder would share their settings, so another one's are not overwritten."""
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        raise AdapterFileError(
            "The folder holds the settings of another PEFT adapter.",
            where=str(path),
            found=path.name,
            expected="a folder of its own",
            remedy="PEFT wants one folder per adapter; choose a new one.",
        )


def save_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str]) -> Path:
    """Write any tensors as a safetensors file: either the whole file appears under its name, or nothing changes.

    Raises:
        AdapterFileError: The folder cannot be written, or the disk is full.
    """
    payload = to_bytes(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt", **metadata}
    )
    return write_atomically(path, lambda file: file.write(payload))


def load_tensors(path: str | os.PathLike[str], names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, checked first.

    Args:
        names: Of the tensors that are read, all of which the file has; all of them without it.

    Raises:
        AdapterFileError: The file cannot be read (see `read_header`).
    """
    header = read_header(path)
    if names is None:
        return _tensors_of(Path(path), header)
    some = replace(header, dtypes={name: header.dtypes[name] for name in names})
    return _tensors_of(Path(path), some, whole=False)
