"""KronA and CDKA of sd-scripts (pull request 2370): LoKr's tensor names, but a scale that only the metadata tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from torch import Tensor

from ..updates.adapter import Adapter
from . import diffusekrona, layers, parts
from .header import Header
from .scale_rules import ScaleRule

NAME = "sd-scripts KronA"
_MODULE = re.compile(r"networks\.(krona|cdka)$")


@lru_cache(maxsize=2)  # other formats ask this too
def sniff(header: Header) -> bool:
    """Whether the metadata names one of the two modules. They save an alpha always, which PEFT never does."""
    if not _MODULE.search(header.metadata.get("ss_network_module", "")) or "lokr" not in parts.methods(header):
        return False
    return any(key.endswith(".alpha") for key in header.shapes) and not diffusekrona.sniff(header)


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in the file's tensors; the scale as in `krona_ops.formats.scale`.

    Raises:
        FormatError: See `krona_ops.formats.layers.read`.
    """
    return layers.read(tensors, header, rule)
