"""Files of the code released with DiffuseKronA (IBM/DiffuseKronA at 6c24fc5).

Their keys are those of an old diffusers LoRA, so ComfyUI and diffusers take them for one and fail. But ``down.weight`` is
``Aᵀ (in_a, out_a)``, ``up.weight`` is ``B (out_b, in_b)``, and the update is their Kronecker product with its rows in the
order ``(out_b, out_a)``: the ``shuffled`` layout of `krona_ops.kron`. There is no scale in these files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..adapter import Adapter
from ..delta import Delta, Kron
from ..factor import Full
from ..header import Header
from ..left_out import LeftOut, gathered
from ..names import LayerName
from . import layers, parts
from .kinds.layer import Layer, LayerError, times
from .kinds.lokr import times_number
from .layers import Rename, cannot_hold, describe
from .scale import Resolved, ScaleRule

NAME = "diffusekrona"
_KEY = re.compile(r"(?P<layer>.*attn\d*\.processor\.(?P<projection>to_(?:q|k|v|out)))_lora\.(?P<part>down|up)\.weight")


def sniff(header: Header) -> bool:
    """Whether the names are those of attention processors, and the shapes those of Kronecker factors.

    A LoRA's ``down (r, in)`` and ``up (out, r)`` share the rank in every layer; Kronecker factors do so only by chance. And
    ``down``, which is ``Aᵀ``, is the same in all layers of one projection, while a LoRA's follows the width. Tensors of other
    names say nothing about that, and one layer in ten may be damaged.
    """
    if "lora" not in parts.methods(header.shapes):
        return False
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    downs: dict[str, Counter[tuple[int, ...]]] = {}
    for key, shape in header.shapes.items():
        match = _KEY.fullmatch(key)
        if match is None or len(shape) != 2:
            continue
        pairs.setdefault(match["layer"], {})[match["part"]] = shape
        if match["part"] == "down":
            downs.setdefault(match["projection"], Counter())[shape] += 1
    whole = [pair for pair in pairs.values() if len(pair) == 2]
    others = sum(pair["down"][0] != pair["up"][1] for pair in whole)
    one_shape = all(shapes.most_common(1)[0][1] >= 0.9 * shapes.total() for shapes in downs.values())
    return bool(whole) and others > 0.1 * len(whole) and one_shape


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in the file's tensors: every update ``shuffled(A, B)`` with ``A = down.T`` and ``B = up``.

    Raises:
        FormatError: No pair of factors is whole.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            rest[key] = tensor
        else:
            pairs.setdefault(match["layer"], {})[match["part"]] = tensor
    found: dict[LayerName, Delta] = {}
    left: list[LeftOut] = []
    errors: list[LayerError] = []
    for name, pair in pairs.items():
        try:
            found[LayerName(name)] = _read_layer(name, pair)
        except LayerError as error:
            errors.append(error)
            left.append(LeftOut("DiffuseKronA", str(error).removeprefix(f"{name}: "), (name,)))
    if not found:
        raise errors[0]
    notes = (f"{len(found)} layers: official DiffuseKronA, shuffled layout, scale 1.",)
    other = _beside(rest, header, rule)
    told = gathered([*left, *other.left_out])
    notes += tuple(note for note in other.notes if note not in map(str, other.left_out))
    return Adapter({**found, **other.layers}, header.metadata, (*notes, *map(str, told)), told)


def _beside(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule) -> Adapter:
    """What else is in the file; an adapter without layers, and what was left out, where nothing of it can be read."""
    if not tensors:
        return Adapter({})
    part = replace(header, shapes={key: header.shapes[key] for key in tensors})
    if any(parts.is_whole(held) for held in parts.group(tensors).layers.values()):
        return layers.read(tensors, part, rule)
    return Adapter({}, left_out=layers.unreadable(part))


def _read_layer(name: str, pair: Mapping[str, Tensor]) -> Kron:
    layer = Layer(name, pair, lambda _: Resolved(1.0, ""))
    up, down = layer.pair("up", "down")
    if (up.ndim, down.ndim) != (2, 2):
        raise layer.error(f"Its factors are {times(down.shape)} and {times(up.shape)}.", tuple(up.shape), "two matrices")
    return Kron(Full(down.mT), Full(up), 1.0, "shuffled")


def write(adapter: Adapter, rename: Rename = str) -> dict[str, Tensor]:
    """The tensors as the official loader reads them; the scale is multiplied into ``down``.

    Raises:
        FormatError: An update is not in the shuffled layout with whole factors, or a name is none of an attention's projection.
    """
    tensors: dict[str, Tensor] = {}
    for name, delta in adapter.layers.items():
        stem = f"{rename(LayerName(name))}_lora"
        if not _KEY.fullmatch(f"{stem}.down.weight"):
            raise cannot_hold(name, f'a layer called "{stem}"', "Official files only hold attention processors.", NAME)
        down, up = _write_layer(name, delta)
        tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    return tensors


def _write_layer(name: str, delta: Delta) -> tuple[Tensor, Tensor]:
    fits = isinstance(delta, Kron) and delta.layout == "shuffled" and len(delta.b.shape) == 2
    if not fits or not isinstance(delta.a, Full) or not isinstance(delta.b, Full):
        raise cannot_hold(name, describe(delta), "Train with the shuffled layout, or save as lokr or LoRA.", NAME)
    down = delta.a.value.mT.contiguous()
    return (down if delta.scale == 1.0 else times_number(down, delta.scale)), delta.b.value.contiguous()
