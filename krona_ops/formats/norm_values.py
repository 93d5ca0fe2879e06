"""Values of the norms of a UNet's residual blocks, as they end: the second file of a ResAdapter.

ResAdapter (Cheng et al. 2024, arXiv 2403.02084; code under Apache-2.0) publishes ``diffusion_pytorch_model.safetensors``
beside its LoRA: ``down_blocks.0.resnets.0.norm1.weight`` and so on in float32, what the norms are and not what they gain.
So they are an update against a base model alone (`krona_ops.updates.absolute`). A file is told by names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import FormatError
from ..left_out import LeftOut, gathered
from ..names.resadapter import is_norm
from ..names.spellings import LayerName
from ..updates.absolute import Absolute
from ..updates.adapter import Adapter
from ..updates.delta import Delta
from . import parts, strangers
from .header import Header
from .kinds.layer import LayerError, StoredLayer, whole
from .scale import Resolved
from .scale_rules import ScaleRule

NAME = "norm values"
_ENDS = {".weight": "", ".bias": ".bias"}
"""The end of a tensor's name, and that of the layer which it is."""


def sniff(header: Header) -> bool:
    """Whether most of a file's tensors are vectors of such norms, and none is an update of a layer."""
    if parts.methods(header):
        return False
    norms = sum(_norm(key) is not None and len(shape) == 1 for key, shape in header.shapes.items())
    return 2 * norms > len(header.shapes)


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The values in a file's tensors, weights and biases as layers of their own; a norm is read whole or not at all.

    Args:
        rule: Does not matter here: nothing in these files has a scale.

    Raises:
        FormatError: None of them can be read.
    """
    packed = header.unreadable()
    norms: dict[str, dict[str, str]] = {}
    others = []
    for key in header.shapes:
        norm = _norm(key)
        if norm is None:
            others.append(key)
        else:
            norms.setdefault(norm, {})[key[len(norm) :]] = key
    layers: dict[LayerName, Delta] = {}
    unread: list[LeftOut] = []
    first: LayerError | None = None
    for norm, keys in norms.items():
        try:
            layers.update(_read_norm(norm, keys, tensors, packed))
        except LayerError as error:
            first = first or error
            unread.append(LeftOut("values of a norm", error.reason, (norm,)))
    if not layers and first is not None:
        raise first
    if not layers:
        raise FormatError(
            "No norm of a residual block is in the file.",
            found="none",
            expected="tensors such as down_blocks.0.resnets.0.norm1.weight",
            remedy="Get the file again.",
        )
    left_out = gathered([*unread, *strangers.unknown(others, header.shapes).values()])
    return Adapter(layers, header.metadata, tuple(map(str, left_out)), left_out)


def _norm(key: str) -> str | None:
    """The norm that a tensor belongs to; ``None`` for one of another kind."""
    end = next((end for end in _ENDS if key.endswith(end)), None)
    norm = key[: -len(end)] if end else ""
    return norm if norm and not norm.endswith(".bias") and is_norm(norm) else None


def _read_norm(
    norm: str, keys: Mapping[str, str], tensors: Mapping[str, Tensor], packed: set[str]
) -> dict[LayerName, Delta]:
    """The weight and the bias of one norm, or the one of them that is there.

    Raises:
        LayerError: One is no vector of real numbers, or they differ in length.
    """
    held = {end[1:]: tensors[key] for end, key in keys.items() if key in tensors}
    layer = StoredLayer(norm, held, lambda sizes: Resolved(1.0, ""))
    for key in keys.values():
        if key in packed:
            raise layer.error(f"{key} holds numbers that PyTorch cannot hold one by one.", key, "real numbers")
    values = {end: whole(layer, end[1:], (1, 1)).value for end in keys}
    if len({len(value) for value in values.values()}) > 1:
        lengths = {end[1:]: len(value) for end, value in values.items()}
        raise layer.error(
            f"Its weight has {lengths['weight']} numbers and its bias {lengths['bias']}.", lengths, "as many of both"
        )
    return {LayerName(f"{norm}{_ENDS[end]}"): Absolute(value) for end, value in values.items()}
