"""Adapter file formats: one module each with ``NAME``, ``sniff``, ``read`` and perhaps ``write``; a new one is a line here.

A format is told by names, shapes and metadata, never by the file's name; `detect` finds exactly one. Within a file each
layer is read by its own method (`krona_ops.formats.kinds`), so files that mix LoKr, LoRA and differences are read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from ..errors import FormatError
from . import cdka, diff, diffusekrona, layers, loha, lokr, lora, parts, peft, sdscripts
from .header import Header

READERS: tuple[ModuleType, ...] = (lokr, peft, sdscripts, diffusekrona, cdka, loha, lora, diff)
"""What can be read."""


def detect(header: Header, formats: Sequence[ModuleType] = READERS) -> ModuleType:
    """The one format that a file is in.

    Raises:
        FormatError: It is in none, and the methods that it holds are told; or it is in several.
    """
    found = [module for module in formats if module.sniff(header)]
    if len(found) == 1:
        return found[0]
    if found:
        sample = ", ".join(list(header.shapes)[:3])
        raise FormatError(
            f"The file could be {' or '.join(module.NAME for module in found)}: it holds {sample}.",
            found=[module.NAME for module in found],
            expected="one format",
            remedy="Was the file mixed from several? Convert its parts one by one.",
        )
    raise layers.nothing_readable(parts.group(header.shapes, parts.split_all(header).get), header)
