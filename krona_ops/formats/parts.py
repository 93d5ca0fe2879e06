"""Which layer a tensor of an adapter file belongs to, and which part of it it is:
the only place that knows spellings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ..names.branches import GATE, place_of
from .header import Header

SUM_PARTS = tuple(f"lokr_sum_{number}_{which}" for number in range(16) for which in ("w1", "w2"))
"""The factors of a sum of Kronecker products, as this pack stores it."""
_LORA_SPELLINGS = (
    (".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"),  # kohya, LyCORIS
    (".lora_B.weight", ".lora_A.weight", None),  # PEFT, diffusers
    (".lora_B", ".lora_A", None),  # Mochi
    (".lora.up.weight", ".lora.down.weight", None),  # diffusers
    ("_lora.up.weight", "_lora.down.weight", None),  # diffusers' attention processors
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight", None),  # diffusers' text encoders
    (".lora_layer.up.weight", ".lora_layer.down.weight", None),  # diffusers' other layers, 0.17 to 0.21
)
_OF_PEFT = (
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
)
_OWN = (
    *_OF_PEFT,
    *("cdka_a", "cdka_b"),
    *SUM_PARTS,
    *("diff", "diff_b", "w_norm", "b_norm", "set_weight"),
    *("alpha", "dora_scale", "magnitude", "scalar", "row_offset", "reshape_weight"),
)
SUFFIXES: dict[str, str] = {
    **{f".{part}": part for part in _OWN},
    **{
        spelling: part
        for spellings in _LORA_SPELLINGS
        for spelling, part in zip(spellings, ("lora_up", "lora_down", "lora_mid"), strict=True)
        if spelling
    },
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_B.bias": "lora_bias",
    ".lora_embedding_A": "lora_embedding_a",
    ".lora_embedding_B": "lora_embedding_b",
}
"""The end of a tensor's name, and what we call that part.
PEFT puts the name of an adapter into some of them: see `split`."""
_OF_ONE_WORD = {
    spelling[1:]: part for spelling, part in SUFFIXES.items() if spelling.startswith(".") and spelling.count(".") == 1
}
_OF_TWO_WORDS = {
    tuple(spelling[1:].split(".")): part
    for spelling, part in SUFFIXES.items()
    if spelling.startswith(".") and spelling.count(".") == 2
}
"""None of the longer ones ends in one of these."""
_NAMED = {
    **{(part, ""): part for part in _OF_PEFT},
    **{(spelling, "weight"): part for spelling, part in (
        ("lora_up", "lora_up"), ("lora_down", "lora_down"), ("lora_mid", "lora_mid"), ("lora_B", "lora_up"), ("lora_A", "lora_down"),
    )},
    ("lora_B", "bias"): "lora_bias",
    ("lora_magnitude_vector", ""): "magnitude",
    ("lora_magnitude_vector", "weight"): "magnitude",
}  # fmt: skip
"""What stands before and behind the name of PEFT's adapter."""
_NO_ADAPTER = re.compile(r"scale|quant|absmax|zero_?point|bias$")
"""What a quantiser puts behind a tensor's name, where the name of an adapter would be."""
_OF_FLUX = re.compile(r"\.(?:qkv|proj)_lora[12]$")
"""XLabs' and USO's processors of Flux have two of each;
`krona_ops.names.spellings.renamed` says which layers they are."""
MODIFIERS = frozenset({"alpha", "dora_scale", "magnitude", "scalar", "row_offset", "reshape_weight"})
"""Parts that say something about an update and are none."""
_PLAIN = frozenset({"diff", "diff_b", "w_norm", "b_norm", "set_weight"})
_WHOLE = (
    {"lora_up", "lora_down"},
    {"lora_embedding_a", "lora_embedding_b"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    {"cdka_a", "cdka_b"},
    {"lokr_sum_0_w1", "lokr_sum_0_w2"},
    *({*a, *b} for a in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b")) for b in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))),
)
"""What makes an update; all else about a layer may be missing."""
_COMMONEST = {"lokr_w1", "lokr_w2"}


LayerPart = tuple[str, str]
"""The layer that a tensor belongs to, and which part of it it is."""


@lru_cache(maxsize=20_000)
def split(key: str) -> LayerPart | None:
    """The layer and the part of a tensor by its name, or ``None`` where no method
    that is known here writes such a name.

    >>> split("lora_unet_mid_block.lokr_w1"), split("x.lora_A.my_adapter.weight")
    (('lora_unet_mid_block', 'lokr_w1'), ('x', 'lora_down'))
    """
    layer, _, last = key.rpartition(".")
    if layer and (part := _OF_ONE_WORD.get(last)):
        return layer, part
    if last == GATE and place_of(key) is not None:
        return key, "diff"
    before, _, word = layer.rpartition(".")
    if before and (part := _OF_TWO_WORDS.get((word, last))):
        return before, part
    tail = key.rsplit(".", 3)
    if len(tail) > 3 and (part := SUFFIXES.get("." + ".".join(tail[1:]))):
        return tail[0], part
    if key.endswith(("_lora.up.weight", "_lora.down.weight")):
        layer, _, rest = key.rpartition("_lora.")
        return (layer, f"lora_{rest.removesuffix('.weight')}") if layer else None
    if len(tail) > 2 and tail[-1] == "weight" and tail[-2] in ("up", "down") and _OF_FLUX.search(".".join(tail[:-2])):
        return ".".join(tail[:-2]), f"lora_{tail[-2]}"
    return _with_adapter_name(tail)


def _with_adapter_name(tail: list[str]) -> tuple[str, str] | None:
    """``x.lora_A.<name>.weight``, ``x.lokr_w1.<name>``: PEFT writes "default", or what the user called the adapter."""
    for before, behind in ((-3, tail[-1]), (-2, "")):
        if (
            len(tail) > -before
            and not _NO_ADAPTER.search(tail[before + 1])
            and (part := _NAMED.get((tail[before], behind)))
            and (layer := ".".join(tail[:before]))
        ):
            return layer, part
    return None


@dataclass(frozen=True)
class Grouped:
    """A file's tensor names by layer and part."""

    layers: dict[str, dict[str, str]] = field(default_factory=dict)
    """``{layer: {part: key}}`` in the file's order."""
    twice: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Layers of which two tensors are the same part, with these two."""
    strangers: list[str] = field(default_factory=list)
    """Names of no method that is known here."""
    enlarged: set[str] = field(default_factory=set)
    """Layers whose LoRA is for a weight that becomes larger with it, without a tensor that says so."""


@lru_cache(maxsize=2)  # a format is told by this, and then read by it
def split_all(header: Header) -> Mapping[str, LayerPart | None]:
    """`split` of each name in a header."""
    split_key = split.__wrapped__  # what is kept of so many names would push each other out
    return {key: split_key(key) for key in header.shapes}


def group(keys: Iterable[str], split_key: Callable[[str], LayerPart | None] = split) -> Grouped:
    """Sort a file's tensor names by layer and part.

    Args:
        split_key: `split`, or a look-up in what `split_all` found.

    Parts of one layer go by one name in nearly every file. Where a tool converted a part of the names only
    (ai-toolkit's SDXL, scripts that replace dots), what is incomplete alone is put together by the flat name.
    """
    keys = list(keys)
    grouped = Grouped()
    is_control = _is_control_lora(keys)
    for key in keys:
        place = split_key(key) or (_norm(key) if is_control else None)
        if place is None:
            grouped.strangers.append(key)
            continue
        layer, part = place
        parts = grouped.layers.setdefault(layer, {})
        if part in parts:
            grouped.twice.setdefault(layer, (parts[part], key))
        parts[part] = key
    _join_halves(grouped.layers)
    if is_control:
        grouped.enlarged.update(name for name in grouped.layers if re.search(r"(?:^|\.)img_in$", name))
    return grouped


def _is_control_lora(keys: list[str]) -> bool:
    """Black Forest Labs' control LoRAs of Flux, as ComfyUI tells them:
    a LoRA of the input, and norms' weights as they are."""
    return any(key.endswith("img_in.lora_A.weight") for key in keys) and any(
        key.endswith(".key_norm.scale") for key in keys
    )


def _norm(key: str) -> tuple[str, str] | None:
    return (key.removesuffix(".scale"), "set_weight") if key.endswith("_norm.scale") else None


def is_whole(parts: Iterable[str]) -> bool:
    """Whether these parts of a layer are all that an update needs."""
    parts = set(parts)
    if parts >= _COMMONEST:
        return True
    return bool(parts & _PLAIN) or any(whole <= parts for whole in _WHOLE)


def _join_halves(layers: dict[str, dict[str, str]]) -> None:
    halves = [name for name, parts in layers.items() if not is_whole(parts)]
    if not halves:
        return
    twins: dict[str, list[str]] = {}
    for name in layers:
        twins.setdefault(_flat(name), []).append(name)
    for half in halves:
        for other in twins[_flat(half)] if half in layers else ():
            fits = other != half and other in layers and not layers[half].keys() & layers[other].keys()
            if fits and is_whole({*layers[half], *layers[other]}):
                kept, gone = (other, half) if set(layers[half]) <= MODIFIERS else (half, other)
                layers[kept] |= layers.pop(gone)
                break


_DIFFUSERS_UNET = re.compile(r"(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)|mid_block_(attentions|resnets)_(\d+)")


def _flat(name: str) -> str:
    """The name without a difference between dots and underscores,
    and a UNet's layers counted as Stability's code does."""
    return _DIFFUSERS_UNET.sub(_counted, name.replace(".", "_"), count=1)


def _counted(match: re.Match[str]) -> str:
    side, block, kind, number, middle, inner = match.groups()
    if side is None:
        return f"middle_block_{1 if middle == 'attentions' else 2 * int(inner)}"
    index = 3 * int(block) + int(number) + (side == "down")
    return f"{'input' if side == 'down' else 'output'}_blocks_{index}_{int(kind == 'attentions')}"


@lru_cache(maxsize=2)  # every format asks this about one file
def methods(header: Header) -> frozenset[str]:
    """The kinds of update in a file, by the beginning of their parts:
    ``lokr``, ``hada``, ``lora``, ``cdka``, ``diff``."""
    parts = {place[1] for place in split_all(header).values() if place}
    kinds = {part.partition("_")[0] for part in parts} & {"lokr", "hada", "lora", "cdka"}
    return frozenset(kinds | {"diff"} if parts & _PLAIN else kinds)


def layers_of(keys: Iterable[str], method: str) -> list[str]:
    """The layers that have a part of a method."""
    return list(dict.fromkeys(place[0] for key in keys if (place := split(key)) and place[1].startswith(method)))


def updates(keys: Iterable[str]) -> list[str]:
    """The layers that have other parts than `MODIFIERS`."""
    places = ((key, split(key)) for key in keys)
    return list(dict.fromkeys(place[0] for _, place in places if place and place[1] not in MODIFIERS))


def method_of(parts: Mapping[str, object] | Iterable[str]) -> str:
    """The methods that a layer's parts belong to, in words: ``LoKr``, ``LoRA and LoHa``."""
    beginnings = (("lokr", "LoKr"), ("hada", "LoHa"), ("cdka", "CDKA"), ("lora", "LoRA"))
    names = [name for start, name in beginnings if any(part.startswith(start) for part in parts)]
    if names:
        return " and ".join(names)
    return "diff" if set(parts) & _PLAIN else f"{' and '.join(sorted(parts))} without an update"
