"""Files of the code released with DiffuseKronA (IBM/DiffuseKronA at 6c24fc5).

Their keys are those of an old diffusers LoRA, so ComfyUI and diffusers take them for one and fail. But ``down.weight``
is ``Aᵀ (in_a, out_a)``, ``up.weight`` is ``B (out_b, in_b)``, and the update is their Kronecker product with its rows
in the order ``(out_b, out_a)``: the ``shuffled`` layout of `krona_ops.updates.kron`. There is no scale in these files.

Besides the UNet's attentions (``….processor.to_q_lora``) they may hold its feed-forward layers
(``<module>.lora_layer``, with ``--unet_tune_mlp``) and the text encoders' projections and feed-forward layers
(``<module>.lora_linear_layer``, with ``--train_text_encoder``):
the paper's numbers for Stable Diffusion count those of the text encoder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

from torch import Tensor

from ..left_out import LeftOut, gathered
from ..names.spellings import LayerName
from ..updates.adapter import Adapter
from ..updates.delta import Delta, Kron
from ..updates.factor import Full
from . import layers, parts
from .header import Header
from .kinds.layer import LayerError, StoredLayer, times
from .kinds.lokr import times_number
from .layers import Rename, cannot_hold, describe
from .processors import what_is_missing
from .scale import Resolved
from .scale_rules import ScaleRule

NAME = "diffusekrona"
_ATTENTION = re.compile(r"(?P<layer>.*attn\d*\.processor\.(?P<role>to_(?:q|k|v|out)))")
_TEXT = re.compile(r"(?P<layer>.*\.(?:self_attn\.(?P<role>(?:q|k|v|out)_proj)|mlp\.fc\d))")
_ENDS = {
    f"{end}.{part}.weight": (end, part)
    for end in ("_lora", ".lora_linear_layer", ".lora_layer")
    for part in ("down", "up")
}
_HALVES = (".down.weight", ".up.weight")
_CLIP = re.compile(r"(?:text_encoders\.)?clip_(?P<which>[lgh])\.(?:transformer\.)?(?P<path>text_model\..*)")
_CLIP_OF_KOHYA = re.compile(
    r"lora_te(?P<which>1|2|)_text_model_encoder_layers_(?P<n>\d+)_(?P<kind>self_attn|mlp)_(?P<role>\w+)"
)


def _end_of(layer: str) -> str | None:
    """What follows a layer's name in these files; ``None`` where they hold no such layer.

    >>> _end_of("unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj")
    '.lora_layer'
    """
    if _ATTENTION.fullmatch(layer):
        return "_lora"
    if layer.startswith("text_encoder"):
        return ".lora_linear_layer" if _TEXT.fullmatch(layer) else None
    return ".lora_layer" if layer.startswith("unet.") and "attn" not in layer else None


@lru_cache(maxsize=20_000)
def _split(key: str) -> tuple[str, str] | None:
    """The layer and the half of a tensor; ``None`` where it is none of these files'.

    Names are those that `_end_of` gives back, so that what is read can be written as it was.
    """
    for suffix, (end, part) in _ENDS.items():
        if key.endswith(suffix):
            layer = key[: -len(suffix)]
            return (layer, part) if _end_of(layer) == end else None
    return None


def _role(layer: str) -> str:
    """What a layer does; layers of one role have ``A`` of one shape, as the trainer has one setting for them."""
    match = _ATTENTION.fullmatch(layer) or _TEXT.fullmatch(layer)
    return f"{'text ' if _TEXT.fullmatch(layer) else ''}{(match and match['role']) or 'feed-forward'}"


@lru_cache(maxsize=2)  # other formats ask this too
def sniff(header: Header) -> bool:
    """Whether the names are those of the released code, and the shapes those of Kronecker factors.

    A LoRA's ``down (r, in)`` and ``up (out, r)`` share the rank in every layer; Kronecker factors do so only by chance.
    And ``down``, which is ``Aᵀ``, is the same in all layers of one projection, while a LoRA's follows the width.
    Tensors of other names say nothing about that, and one layer in ten may be damaged.
    """
    if "lora" not in parts.methods(header):
        return False
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    downs: dict[str, Counter[tuple[int, ...]]] = {}
    for key, shape in header.shapes.items():
        split = _split(key) if key.endswith(_HALVES) else None
        if split is None or len(shape) != 2:
            continue
        layer, part = split
        pairs.setdefault(layer, {})[part] = shape
        if part == "down":
            downs.setdefault(_role(layer), Counter())[shape] += 1
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
        split = _split(key)
        if split is None:
            rest[key] = tensor
        else:
            pairs.setdefault(split[0], {})[split[1]] = tensor
    updates: dict[LayerName, Delta] = {}
    unread: list[LeftOut] = []
    errors: list[LayerError] = []
    for name, pair in pairs.items():
        try:
            updates[LayerName(name)] = _read_layer(name, pair)
        except LayerError as error:
            errors.append(error)
            unread.append(LeftOut("DiffuseKronA", error.reason, (name,)))
    if not updates:
        raise errors[0]
    notes = (f"{len(updates)} layers: official DiffuseKronA, shuffled layout, scale 1.", *_refusal(updates))
    other = _beside(rest, header, rule)
    left_out = gathered([*unread, *other.left_out])
    notes += tuple(note for note in other.notes if note not in map(str, other.left_out))
    return Adapter({**updates, **other.layers}, header.metadata, (*notes, *map(str, left_out)), left_out)


def _beside(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule) -> Adapter:
    """The adapter in the file's other tensors; without layers, but with what was left out, where none can be read."""
    if not tensors:
        return Adapter({})
    part = replace(header, shapes={key: header.shapes[key] for key in tensors})
    if any(parts.is_whole(held) for held in parts.group(tensors).layers.values()):
        return layers.read(tensors, part, rule)
    return Adapter({}, left_out=layers.unreadable(part))


def notes_on(tensors: Iterable[str]) -> tuple[str, ...]:
    """What the authors' loader makes of a file with tensors of these names."""
    return _refusal(dict.fromkeys(split[0] for key in tensors if (split := _split(key))))


def _refusal(layers: Iterable[str]) -> tuple[str, ...]:
    missing = what_is_missing(layers)
    return (
        (f"The loader released with DiffuseKronA refuses such a file, for {missing}. This pack reads it.",)
        if missing
        else ()
    )


def _read_layer(name: str, pair: Mapping[str, Tensor]) -> Kron:
    layer = StoredLayer(name, pair, lambda _: Resolved(1.0, ""))
    up, down = layer.pair("up", "down")
    if (up.ndim, down.ndim) != (2, 2):
        raise layer.error(
            f"Its factors are {times(down.shape)} and {times(up.shape)}.", tuple(up.shape), "two matrices"
        )
    return Kron(Full(down.mT), Full(up), 1.0, "shuffled")


def write(adapter: Adapter, rename: Rename = str) -> dict[str, Tensor]:
    """The tensors as the official loader reads them; the scale is multiplied into ``down``.

    Raises:
        FormatError: An update is not in the shuffled layout with whole factors,
            or a name is none that these files have.
    """
    tensors: dict[str, Tensor] = {}
    for name, delta in adapter.layers.items():
        layer = name_in_file(rename(LayerName(name)))
        end = _end_of(layer)
        if end is None:
            raise cannot_hold(
                name,
                f'a layer called "{layer}"',
                "Official files hold the UNet's attentions and feed-forward layers (unet.….attn1.processor.to_q, unet.….ff.net.2), "
                "and CLIP's (text_encoder.….self_attn.q_proj, ….mlp.fc1).",
                NAME,
            )
        down, up = _write_layer(name, delta)
        tensors |= {f"{layer}{end}.down.weight": down, f"{layer}{end}.up.weight": up}
    return tensors


def is_of_clip(name: str) -> bool:
    """Whether a name is one of CLIP's layers that these files can hold."""
    return name_in_file(name).startswith("text_encoder") and _end_of(name_in_file(name)) is not None


def name_in_file(name: str) -> str:
    """The name that these files have for a layer of CLIP; other names stay.

    >>> name_in_file("clip_g.transformer.text_model.encoder.layers.0.mlp.fc1")
    'text_encoder_2.text_model.encoder.layers.0.mlp.fc1'
    """
    if match := _CLIP.fullmatch(name):
        return f"text_encoder{'_2' if match['which'] == 'g' else ''}.{match['path']}"
    if match := _CLIP_OF_KOHYA.fullmatch(name):
        which = "_2" if match["which"] == "2" else ""
        return f"text_encoder{which}.text_model.encoder.layers.{match['n']}.{match['kind']}.{match['role']}"
    return name


def _write_layer(name: str, delta: Delta) -> tuple[Tensor, Tensor]:
    fits = isinstance(delta, Kron) and delta.layout == "shuffled" and len(delta.b.shape) == 2
    if not (fits and isinstance(delta, Kron) and isinstance(delta.a, Full) and isinstance(delta.b, Full)):
        raise cannot_hold(name, describe(delta), "Train with the shuffled layout, or save as lokr or LoRA.", NAME)
    down = delta.a.value.mT.contiguous()
    return (down if delta.scale == 1.0 else times_number(down, delta.scale)), delta.b.value.contiguous()
