"""Adapter file formats: one module each with ``NAME``, ``sniff``, ``read`` and perhaps ``write``; a new one is a line here.

A format is told by names, shapes and metadata, never by the file's name; `detect` finds exactly one. Within a file each
layer is read by its own method (`krona_ops.formats.kinds`), so files that mix LoKr, LoRA and differences are read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from ..errors import FormatError
from ..header import Header
from . import cdka, diff, diffusekrona, loha, lokr, lora, peft, sdscripts

FORMATS: tuple[ModuleType, ...] = (lokr, peft, sdscripts, diffusekrona, cdka, loha, lora, diff)
"""What can be read."""


def detect(header: Header, formats: Sequence[ModuleType] = FORMATS) -> ModuleType:
    """The one format that a file is in.

    Raises:
        FormatError: It is in none, or in several.
    """
    found = [module for module in formats if module.sniff(header)]
    if len(found) == 1:
        return found[0]
    sample = ", ".join(list(header.shapes)[:3]) or "no tensors"
    if found:
        raise FormatError(
            f"The file could be {' or '.join(module.NAME for module in found)}: it holds {sample}.",
            found=[module.NAME for module in found],
            expected="one format",
            remedy="Was the file mixed from several? Convert its parts one by one.",
        )
    raise FormatError(
        f"No known adapter format: it holds {sample}{', …' if len(header.shapes) > 3 else ''}",
        found=sample,
        expected=" or ".join(module.NAME for module in formats),
        remedy="Is it a checkpoint or another kind of file?",
    )
