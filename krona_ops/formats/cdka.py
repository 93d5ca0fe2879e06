"""CDKA with its own tensor names: sums of Kronecker products (see `krona_ops.formats.kinds.cdka`)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..updates.adapter import Adapter
from . import diffusekrona, layers, parts
from .header import Header
from .scale_rules import ScaleRule

NAME = "cdka"


def sniff(header: Header) -> bool:
    """Whether a file holds CDKA layers and no LoKr ones."""
    methods = parts.methods(header)
    return "cdka" in methods and "lokr" not in methods and not diffusekrona.sniff(header)


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in the file's tensors.

    Raises:
        FormatError: See `krona_ops.formats.layers.read`.
    """
    return layers.read(tensors, header, rule)
