"""LoHa: the elementwise product of two low-rank matrices (LyCORIS)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..updates.adapter import Adapter
from . import diffusekrona, layers, parts
from .header import Header
from .scale_rules import ScaleRule

NAME = "loha"


def sniff(header: Header) -> bool:
    """Whether a file holds LoHa layers and no Kronecker ones."""
    methods = parts.methods(header)
    return "hada" in methods and not methods & {"lokr", "cdka"} and not diffusekrona.sniff(header)


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in the file's tensors, as exact updates.

    Raises:
        FormatError: See `krona_ops.formats.layers.read`.
    """
    return layers.read(tensors, header, rule)
