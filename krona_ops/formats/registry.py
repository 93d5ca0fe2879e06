"""Which formats there are, and which of them a file is in; a new format is a line here.

A format is told by names, shapes and metadata, never by the file's name; `detect` finds exactly one.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from ..errors import FormatError
from . import (
    attention_branch,
    cdka,
    diff,
    diffusekrona,
    kohya,
    layers,
    loha,
    lokr,
    lokr_sum,
    lora,
    norm_values,
    parts,
    peft,
    sdscripts,
)
from .header import Header

FORMATS: tuple[ModuleType, ...] = (
    lokr, kohya, peft, lora, diffusekrona, lokr_sum, sdscripts, cdka, loha, diff, attention_branch,
    norm_values,
)  # fmt: skip
"""Those that are written come first, as a menu shows them."""


def readers() -> tuple[ModuleType, ...]:
    """The formats that files are told by. kohya's is told by its parts, which are LyCORIS's."""
    return tuple(module for module in FORMATS if hasattr(module, "sniff"))


def writers() -> dict[str, ModuleType]:
    """The formats that can be written, by name."""
    return {module.NAME: module for module in FORMATS if hasattr(module, "write")}


def detect(header: Header, formats: Sequence[ModuleType] | None = None) -> ModuleType:
    """The one format that a file is in.

    Args:
        formats: Those that it may be in; `readers` when not given.

    Raises:
        FormatError: It is in none, and the methods that it holds are told; or it is in several.
    """
    matching = [module for module in (readers() if formats is None else formats) if module.sniff(header)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        sample = ", ".join(list(header.shapes)[:3])
        raise FormatError(
            f"The file could be {' or '.join(module.NAME for module in matching)}: it holds {sample}.",
            found=[module.NAME for module in matching],
            expected="one format",
            remedy="Was the file mixed from several? Convert its parts one by one.",
        )
    raise layers.nothing_readable(parts.group(header.shapes, parts.split_all(header).get), header)
