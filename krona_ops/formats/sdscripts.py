"""KronA and CDKA of sd-scripts (pull request 2370): LoKr's tensor names, but a scale that only the metadata tells."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..adapter import Adapter
from ..header import Header
from . import diffusekrona, layers, parts
from .scale import ScaleRule

NAME = "sd-scripts KronA"
_MODULE = re.compile(r"networks\.(krona|cdka)$")


def sniff(header: Header) -> bool:
    """Whether the metadata names one of the two modules. They save an alpha always, which PEFT never does."""
    is_named = bool(_MODULE.search(header.metadata.get("ss_network_module", "")))
    has_alpha = any(key.endswith(".alpha") for key in header.shapes)
    return is_named and has_alpha and "lokr" in parts.methods(header.shapes) and not diffusekrona.sniff(header)


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in the file's tensors; the scale as in `krona_ops.formats.scale`.

    Raises:
        FormatError: See `krona_ops.formats.layers.read`.
    """
    return layers.read(tensors, header, rule)
