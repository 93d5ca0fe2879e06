"""LoRA: kohya's, LyCORIS's, diffusers' and PEFT's names, LoCon, DoRA. Written with the names of diffusers and PEFT."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..updates.adapter import Adapter
from ..updates.delta import Delta, Dora, Matrix
from ..updates.factor import LowRank
from . import diffusekrona, layers, parts
from .header import Header
from .kinds.lokr import times_number
from .layers import Rename, cannot_hold, describe
from .scale_rules import ScaleRule

NAME = "lora"


def sniff(header: Header) -> bool:
    """Whether a file holds LoRA layers and none of another method, and is not DiffuseKronA's with the same names."""
    methods = parts.methods(header)
    return "lora" in methods and not methods & {"lokr", "hada", "cdka"} and not diffusekrona.sniff(header)


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in the file's tensors, as exact low-rank updates.

    Raises:
        FormatError: See `krona_ops.formats.layers.read`.
    """
    return layers.read(tensors, header, rule)


def write(adapter: Adapter, rename: Rename = str) -> dict[str, Tensor]:
    """``<layer>.lora_A.weight`` and ``lora_B.weight``, as diffusers and PEFT read them at scale 1.

    Raises:
        FormatError: An update is no LoRA; `krona_ops.formats.encode.as_lora` makes one.
    """
    tensors: dict[str, Tensor] = {}
    for name, delta in adapter.layers.items():
        down, up = _write_layer(name, delta)
        tensors |= {
            f"{rename(name)}.lora_A.weight": down.contiguous(),
            f"{rename(name)}.lora_B.weight": up.contiguous(),
        }
    return tensors


def _write_layer(name: str, delta: Delta) -> tuple[Tensor, Tensor]:
    if not isinstance(delta, Matrix) or not isinstance(delta.factor, LowRank):
        raise cannot_hold(name, describe(delta), _remedy(delta), "LoRA")
    up, down = delta.factor.up, delta.factor.down
    up = up.reshape(*up.shape, *(1,) * (down.ndim - 2))
    return down, (up if delta.scale == 1.0 else times_number(up, delta.scale))


def _remedy(delta: Delta) -> str:
    """What the user can do: choose a rank, or another format where no rank helps."""
    if isinstance(delta, Dora):
        return "Save in the kohya-lora or the lokr format, which have a place for the norm."
    if len(delta.shape) < 2:
        return "Save in the kohya-lora format, which keeps norms and biases, or leave them out: KronA Weights with their names and 0."
    return "Choose a rank to convert it."
