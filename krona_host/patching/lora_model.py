"""Adapters as ComfyUI's own ``LORA_MODEL``: a dict of tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from krona_ops import Adapter, Kron, Matrix
from krona_ops.formats.header import Header
from krona_ops.updates.delta import Delta
from krona_ops.updates.factor import Full

if TYPE_CHECKING:
    from ..types import LoraModel


def from_lora_model(tensors: LoraModel) -> Adapter:
    """The adapter in a ``LORA_MODEL``.

    Raises:
        FormatError: It holds no adapter of a known format.
    """
    from krona_ops.formats.registry import detect  # here and below: a start of ComfyUI does not wait for the formats

    header = Header.of(tensors, {})
    return detect(header).read(dict(tensors), header)


def to_lora_model(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors that ComfyUI's own nodes apply to the same effect.

    What no tensor of theirs can hold (a sum of several products, the shuffled layout) becomes a dense difference.

    Raises:
        FormatError: A layer has an update that depends on the base model's weight in a way that ComfyUI does not know.
    """
    from krona_ops.formats import lokr

    return lokr.write(replace(adapter, layers={name: _plain(delta) for name, delta in adapter.layers.items()}))


def _plain(delta: Delta) -> Delta:
    is_held = isinstance(delta, Matrix) or (isinstance(delta, Kron) and delta.layout == "kron") or delta.needs_weight
    return delta if is_held else Matrix(Full(delta.dense()))
