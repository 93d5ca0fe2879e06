"""Which names ComfyUI's own *Load LoRA* knows, per kind of base model, and what any tool's name means there.

The tables are in ``core_names.json``, which tools/generate/core_names.py makes from the host's key maps: names without
their blocks' numbers (`krona_ops.names.template`). A name is looked up as ComfyUI would (`Base.loads`),
or as the pack does, prefixes off (`Base.means`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from .spellings import flat, renamed, spellings
from .template import filled, template

FILE = Path(__file__).with_name("core_names.json")
FLAT = (
    "lora_unet_",
    "lycoris_",
    "lora_transformer_",
    "lora_prior_unet_",
    "lora_te1_",
    "lora_te2_",
    "lora_te3_",
    "lora_te_",
    "lora_prior_te_",
)
"""Prefixes behind which a path has underscores alone."""
_BIAS = ".bias"
_ENCODERS = ("clip_l", "clip_g", "clip_h", "t5xxl", "t5xl", "t5base")
_CLIPS = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}


@dataclass(frozen=True)
class Weight:
    """What a layer's name means on one kind of base model."""

    path: str
    """The layer's path as the host's model has it, the encoder in front for those of text encoders."""
    part: str = ""
    """Which rows: ``1/3:1/3`` is the second third, ``swap`` is all of them with the halves changed over;
    empty is the whole weight."""
    bias: bool = False


@dataclass(frozen=True, eq=False)
class Base:
    """One kind of base model, or the text encoders of one."""

    names: tuple[str, ...]
    """The host's names of the families that it is."""
    kind: Literal["model", "text encoder"]
    layers: tuple[str, ...] = field(repr=False)
    """Paths of the layers with a weight, as templates."""
    known: Mapping[str, tuple[int, str]] = field(repr=False)
    """The names that the host's key map has besides the paths, prefixes included:
    the layer's number (-1: a UNet's, counted otherwise), and the part."""
    others: Mapping[str, tuple[tuple[int, str], ...]] = field(repr=False)
    """Flat names that other tools have."""
    parameters: frozenset[str] = field(repr=False)
    """What the host knows by its whole name because it is no ``.weight``."""
    residual: int = 0
    """Residual blocks on each level of a UNet; 0 for other models."""
    without_attention: tuple[int, ...] = ()
    """The levels on a UNet's way up whose last block has no attention."""

    @cached_property
    def _paths(self) -> Mapping[str, str]:
        return {flat(path): path for path in self.layers}

    @cached_property
    def _own(self) -> Mapping[str, str]:
        """The path of each name that the host makes of it."""
        roots = {"diffusion_model.": ".", "lora_unet_": "_"} if self.kind == "model" else {"text_encoders.": "."}
        return {root + path.replace(".", dot): path for root, dot in roots.items() for path in self.layers}

    @cached_property
    def _spelled(self) -> Mapping[tuple[int, str], tuple[str, ...]]:
        spelled: dict[tuple[int, str], list[str]] = {}
        for name, where in self.known.items():
            spelled.setdefault(where, []).append(name)
        return {where: tuple(names) for where, names in spelled.items()}

    @cached_property
    def _dotted(self) -> Mapping[str, str]:
        """The dotted spelling of diffusers' names, prefix off, by the flat one."""
        bare = [name.partition(".")[2] for name in self.known if name.startswith(("unet.", "transformer."))]
        plain = [name.replace(".processor.", ".") for name in bare if not name.startswith("base_model.")]
        return {flat(name): f"{name}.0" if name.endswith(".to_out") else name for name in plain}

    def loads(self, name: str) -> Weight | None:
        """The weight that ComfyUI's own loader changes when a file has a layer of this very name;
        ``None`` where it knows no such name."""
        if name.startswith("diffusion_model.") and self.kind == "model" and template(name)[0] in self.parameters:
            return Weight(name.removeprefix("diffusion_model."))
        is_bias = name.endswith(_BIAS)
        spelled, numbers = template(name.removesuffix(_BIAS))
        if (path := self._own.get(spelled)) is not None:
            return Weight(filled(path, numbers), "", is_bias)
        where = self.known.get(spelled)
        if where is None:
            return None
        if where[0] == -1:
            native = unet_path(_bare(name.removesuffix(_BIAS)), self)
            return Weight(native, where[1], is_bias) if native else None
        return Weight(filled(self.layers[where[0]], numbers), where[1], is_bias)

    def means(self, name: str, shape: tuple[int, ...] = ()) -> Weight | None:
        """The weight that the pack finds for a name of any tool; ``None`` where there is none, or more than one."""
        return self.loads(name) or _means(self, name, shape[1] if len(shape) > 1 else 0)

    def spelled(self, weight: Weight) -> Iterator[str]:
        """Every name under which ComfyUI's own loader finds the weight, except UNets' names in diffusers' words."""
        path, numbers = template(weight.path)
        end = _BIAS if weight.bias else ""
        if path not in self.layers:
            if f"diffusion_model.{path}" in self.parameters:
                yield f"diffusion_model.{weight.path}"
            return
        if not weight.part:
            yield from (filled(name, numbers) + end for name, own in self._own.items() if own == path)
        for name in self._spelled.get((self.layers.index(path), weight.part), ()):
            yield filled(name, numbers) + end

    def diffusers(self, name: str) -> str | None:
        """The dotted path that diffusers has for a layer, where the host knows it too; for a name of any spelling."""
        for spelled in (*spellings(name).names, *(f"{n}_0" for n in spellings(name).names)):
            pattern, numbers = template(spelled)
            if (dotted := self._dotted.get(pattern)) is not None:
                return filled(dotted, numbers)
        return None


@lru_cache(maxsize=20_000)
def _means(base: Base, name: str, width: int) -> Weight | None:
    is_bias = name.endswith(_BIAS)
    meaning = spellings(name.removesuffix(_BIAS))
    if meaning.owner not in (None, base.kind):
        return None
    for spelled in dict.fromkeys((*meaning.names, *map(renamed, meaning.names))):
        pattern, numbers = template(spelled)
        if (path := base._paths.get(pattern)) is not None:
            return Weight(filled(path, numbers), "", is_bias)
        places = base.others.get(pattern, ())
        if base.kind == "text encoder" and len(places) > 1:
            places = _of_encoder(base, places, meaning.encoder, width)
        if len(places) == 1 and places[0][0] >= 0:
            return Weight(filled(base.layers[places[0][0]], numbers), places[0][1], is_bias)
        if (native := unet_path(spelled, base)) is not None:
            return Weight(native, "", is_bias)
    return None


def _of_encoder(
    base: Base, places: tuple[tuple[int, str], ...], number: int | None, width: int
) -> tuple[tuple[int, str], ...]:
    """The places in the text encoder that the name gives the number of, else in the one of the update's width."""
    by_encoder: dict[str, list[tuple[int, str]]] = {}
    for where in places:
        by_encoder.setdefault(base.layers[where[0]].partition(".")[0], []).append(where)
    if number is None:
        return tuple(by_encoder.get(_CLIPS.get(width, ""), ()))
    order = sorted(by_encoder, key=lambda e: (_ENCODERS.index(e) if e in _ENCODERS else 99, e))
    return tuple(by_encoder[order[number - 1]]) if number <= len(order) else ()


def _bare(name: str) -> str:
    return flat(name.removeprefix("unet.") if "." in name else re.sub("^(?:lora_unet_|lycoris_)", "", name))


_UNET = re.compile(
    r"(?:(?P<side>down|up)_blocks_(?P<block>\d+)|mid_block)_(?P<kind>attentions|resnets|downsamplers|upsamplers)_(?P<index>\d+)_(?P<rest>.+)"
)
_RESNET = {
    "norm1": "in_layers_0", "conv1": "in_layers_2", "time_emb_proj": "emb_layers_1", "norm2": "out_layers_0", "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
_BASIC = {
    "time_embedding_linear_1": "time_embed_0", "time_embedding_linear_2": "time_embed_2", "conv_in": "input_blocks_0_0",
    "conv_norm_out": "out_0", "conv_out": "out_2", "add_embedding_linear_1": "label_emb_0_0", "add_embedding_linear_2": "label_emb_0_2",
    "class_embedding_linear_1": "label_emb_0_0", "class_embedding_linear_2": "label_emb_0_2",
}  # fmt: skip


def unet_path(spelled: str, base: Base) -> str | None:
    """The path of a UNet's layer by diffusers' flat name for it (``down_blocks_1_attentions_0_…``),
    as `comfy.utils.unet_to_diffusers` counts."""
    if spelled in _BASIC and base.residual:
        return _path(_BASIC[spelled], base)
    match, in_a_block = _UNET.fullmatch(spelled), base.residual
    if match is None or not in_a_block:
        return None
    side, kind, index, rest = match["side"], match["kind"], int(match["index"]), match["rest"]
    block = int(match["block"] or 0)
    rest = _RESNET.get(rest, rest) if kind == "resnets" else rest
    if side is None:
        return _path(f"middle_block_{1 if kind == 'attentions' else 2 * index}_{rest}", base)
    if side == "down":
        n = 1 + (in_a_block + 1) * block + index
        if kind == "downsamplers":
            return _path(f"input_blocks_{n + in_a_block}_0_op", base)
        return _path(f"input_blocks_{n}_{1 if kind == 'attentions' else 0}_{rest}", base)
    n = (in_a_block + 1) * block + index
    if kind == "upsamplers":
        return _path(f"output_blocks_{n + in_a_block}_{1 if block in base.without_attention else 2}_conv", base)
    return _path(f"output_blocks_{n}_{1 if kind == 'attentions' else 0}_{rest}", base)


def _path(spelled: str, base: Base) -> str | None:
    for candidate in (spelled, f"{spelled}_0"):
        pattern, numbers = template(candidate)
        if (path := base._paths.get(pattern)) is not None:
            return filled(path, numbers)
    return None


@lru_cache(maxsize=1)
def bases() -> tuple[Base, ...]:
    """Every kind of base model that the tables know."""
    return tuple(_base(entry) for entry in json.loads(FILE.read_text(encoding="utf-8"))["bases"])


def _base(entry: Mapping[str, Any]) -> Base:
    core = {
        prefix + (name.replace(".", "_") if prefix in FLAT else name): (where, part)
        for prefixes, names in entry["core"]
        for prefix in prefixes
        for name, (where, part) in names.items()
    }
    others = {name: tuple((where, part) for where, part in places) for name, places in entry["others"].items()}
    return Base(
        tuple(entry["names"]),
        entry["kind"],
        tuple(entry["layers"]),
        core,
        others,
        frozenset(entry.get("parameters", ())),
        entry.get("unet", {}).get("residual", 0),
        tuple(entry.get("unet", {}).get("without_attention", ())),
    )


def fitting(layers: Mapping[str, tuple[int, ...]], among: Iterable[Base]) -> tuple[tuple[Base, ...], int]:
    """The kinds of base model that know most of these layers, and how many they know.

    Of text encoders, those for which ComfyUI knows most of the names as they are; of UNets that fit equally, the usual
    ones, with two residual blocks on a level, before those with one (KOALA).

    Args:
        layers: Shapes of the updates ``(out, in, *kernel)`` by name.
    """
    counts = [(sum(base.means(name, shape) is not None for name, shape in layers.items()), base) for base in among]
    most = max((count for count, _ in counts), default=0)
    likeliest = [base for count, base in counts if count == most and most]
    loaded = {
        base: sum(base.loads(name) is not None for name in layers) for base in likeliest if base.kind == "text encoder"
    }
    likeliest = [base for base in likeliest if loaded.get(base, 0) == max(loaded.values(), default=0)]
    usual = [base for base in likeliest if base.residual != 1]
    return tuple(usual or likeliest), most
