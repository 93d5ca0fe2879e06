"""LoKr as ComfyUI and LyCORIS read it: ``<layer>.lokr_w1`` and ``lokr_w2``, each whole or as a product of two.

The default format for saving: layers keep their names (``diffusion_model.…``), which ComfyUI maps on every model.
Updates that are no Kronecker products (LoRA, LoHa, biases, norms)
are written beside them in the tensors that ComfyUI has for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..updates.adapter import Adapter
from ..updates.delta import Delta, Dora, Kron
from ..updates.factor import Full
from . import diffusekrona, layers, parts, peft, sdscripts
from .header import Header
from .layers import Rename
from .scale_rules import ScaleRule

NAME = "lokr"


def sniff(header: Header) -> bool:
    """Whether a file holds LoKr layers, and not PEFT's or sd-scripts' KronA, which have another scale."""
    others = (peft, sdscripts, diffusekrona)
    return "lokr" in parts.methods(header) and not any(other.sniff(header) for other in others)


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in a LoKr file's tensors.

    Raises:
        FormatError: See `krona_ops.formats.layers.read`.
    """
    return layers.read(tensors, header, rule)


def write(adapter: Adapter, rename: Rename = str) -> dict[str, Tensor]:
    """The tensors of an adapter as a LoKr file, which ComfyUI's own Load LoRA node reads without this pack.

    ComfyUI multiplies the axes of one- and three-dimensional kernels wrongly and says nothing (rel. error 1.4), but a
    flattened ``w2`` rightly; so such kernels are written flattened, and get their shape back from the weight.

    Raises:
        FormatError: LoKr cannot hold a layer.
    """
    return layers.write(replace(adapter, layers={name: _flat(delta) for name, delta in adapter.layers.items()}), rename)


def _flat(delta: Delta) -> Delta:
    if isinstance(delta, Kron) and len(delta.b.shape) in (3, 5) and isinstance(delta.b, Full):
        return replace(delta, b=Full(delta.b.value.flatten(1)))
    if isinstance(delta, Dora) and delta.is_per_output and (flat := _flat(delta.delta)) is not delta.delta:
        return replace(delta, delta=flat, magnitude=delta.magnitude.reshape(-1, 1))
    return delta
