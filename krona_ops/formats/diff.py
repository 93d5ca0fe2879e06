"""Plain differences: core's and LyCORIS's ``diff`` and ``diff_b``, and ``w_norm`` and ``b_norm`` of norms."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..updates.adapter import Adapter
from . import layers, parts
from .header import Header
from .scale_rules import ScaleRule

NAME = "diff"


def sniff(header: Header) -> bool:
    """Whether a file holds differences and nothing else."""
    return parts.methods(header) == {"diff"}


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in the file's tensors.

    Raises:
        FormatError: See `krona_ops.formats.layers.read`.
    """
    return layers.read(tensors, header, rule)
