"""Names of layers: what the pack calls them, what a name says about the layer, and how the tools spell one and the same name.

A file's name meets a model's in one flat spelling (`flat`), after the prefixes that its writer put in front are taken off
(`spellings`). What diffusers calls a layer that the host names otherwise is in `ALIASES`; weights that hold q, k and v in one
go under the names of their parts too (`part_names`, `split_names`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NewType

LayerName = NewType("LayerName", str)
"""A module's path as the host's state dict spells it, without ``.weight``: ``diffusion_model.input_blocks.1.1.…attn1.to_q``."""

Projection = Literal["q", "k", "v", "qkv", "kv", "out"]
"""What an attention layer computes: one of its inputs, several fused into one weight, or its output."""


_SEPARATORS = str.maketrans("./-", "___")


def flat(name: str) -> str:
    """One spelling for all dialects: lower case, every separator one underscore, without what attention processors add."""
    name = name.lower().translate(_SEPARATORS)
    while "__" in name:
        name = name.replace("__", "_")
    return name.strip("_").replace("_processor_", "_").removesuffix("_lora")


# What an attention is called, with what may stand between it and its projections.
_CONTAINER = r"(?:[a-z]*attn\d*|[a-z]*attention|ca_text|cross_attend_prompt)_(?:(?:attn|attention|self|output|image|token_to_image|image_to_token)_)?"
_STREAM = r"(?:img_|txt_|instruct_|image_)?"
_LEAVES: dict[Projection, str] = {
    "q": rf"{_STREAM}(?:to_)?q|to_q_(?:t|0)|q_proj|q_linear|(?:to_)?query|add_q_proj|to_add_q|linear_q|w\d?q",
    "k": rf"{_STREAM}(?:to_)?k|to_k_(?:t|0)|k_proj|k_linear|(?:to_)?key|add_k_proj|to_add_k|linear_k|w\d?k|k_img",
    "v": rf"{_STREAM}(?:to_)?v|to_v_(?:t|0)|v_proj|v_linear|(?:to_)?value|add_v_proj|to_add_v|linear_v|w\d?v|v_img",
    "qkv": rf"{_STREAM}(?:to_)?qkv(?:_[xy])?|qkv_proj|add_qkv_proj|to_added_qkv|wqkv|in_proj|query_key_value|(?:img|txt)_attn_qkv"
    r"|proj_qkv_(?:vid|txt|all)|to_qkv_mlp_proj",
    "kv": r"(?:to_)?kv|kv_proj|kv_linear|kv_y",
    "out": rf"{_STREAM}(?:to_)?out|to_out_(?:t|0)|out_proj|o|o_proj|w\d?o|proj|proj_[xy]|to_add_out|linear_out|out_layer|dense|output_proj"
    r"|(?:img|txt)_attn_proj|proj_out_(?:vid|txt|all)",
}
# Projections that stand in no attention: Flux-type single blocks (q, k, v and the MLP's first half in one weight), CogVideoX's
# blocks, the sound and face adapters of Wan.
_ELSEWHERE: dict[Projection, str] = {
    "q": r"blocks_\d+_q|injector_\d+_q|fuser_blocks_\d+_linear1_q",
    "k": r"blocks_\d+_k|injector_\d+_k",
    "v": r"blocks_\d+_v|injector_\d+_v",
    "qkv": r"single_blocks_\d+_linear1(?:_qkv)?",
    "kv": r"fuser_blocks_\d+_linear1_kv",
    "out": r"single_blocks_\d+_linear2|single_transformer_blocks_\d+_proj_out|injector_\d+_o|fuser_blocks_\d+_linear2",
}
_PROJECTION: dict[Projection, re.Pattern[str]] = {
    kind: re.compile(rf"(?:^|_)(?:(?:{_CONTAINER})(?:{leaves})|{_ELSEWHERE[kind]})$") for kind, leaves in _LEAVES.items()
}


@lru_cache(maxsize=20_000)
def projection(name: str) -> Projection | None:
    """Which projection of an attention a layer is, told by its name alone, in any dialect; ``None`` where it is none.

    Gates of an attention and poolings of a text's tokens are none: no trainer means them by "the attention layers".
    """
    spelled = flat(name)
    return next((kind for kind, pattern in _PROJECTION.items() if pattern.search(spelled)), None)


Owner = Literal["model", "text encoder"]


@dataclass(frozen=True)
class Spelling:
    """What a file's name may mean once its prefixes are read."""

    names: tuple[str, ...]
    """Flat names, the one with least taken off first."""
    owner: Owner | None = None
    """Which part of the pipeline a prefix speaks of; ``None`` where none does."""
    encoder: int | None = None
    """Which text encoder a prefix speaks of, counted from 1; the first where it has no number."""


_PREFIXES: tuple[tuple[re.Pattern[str], Owner | None], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), owner)  # type: ignore[misc]
    for pattern, owner in (
        (r"lora_(?:prior_)?unet_+", "model"),
        (r"lora_transformer_+", "model"),
        (r"model\.diffusion_model\.", "model"),
        (r"diffusion_model[._]", "model"),
        (r"transformer\.", "model"),
        (r"unet[._]", "model"),
        (r"(?:lora_)?text_encoders?(?:_?(?P<encoder>\d))?[._]", "text encoder"),
        (r"lora_(?:prior_)?te(?P<encoder>\d)?_", "text encoder"),
        (r"te(?:_?(?P<encoder>\d))?[._]", "text encoder"),
        (r"lycoris_+", None),
        (r"base_model\.model\.", None),
        (r"model\.", None),
        # Last, as "transformer_blocks" is a name of its own far more often than a prefix and a name.
        (r"transformer_(?!blocks|1d)", "model"),
    )
)


@lru_cache(maxsize=20_000)
def spellings(name: str) -> Spelling:
    """What a layer of a file may be called in the model, prefixes off one by one, and whose layer the prefixes say it is."""
    names, owner, encoder, rest = [flat(name)], None, None, name
    while found := next(((m, o) for pattern, o in _PREFIXES if (m := pattern.match(rest))), None):
        match, meant = found
        rest = rest[match.end() :]
        owner = owner or meant
        if meant == "text encoder":
            encoder = encoder or int(match.groupdict().get("encoder") or 1)
        names.append(flat(rest))
    if owner is None and re.search(r"(?:^|_)text_model_(?:encoder|embeddings)_", names[-1]):
        owner = "text encoder"
    return Spelling(tuple(dict.fromkeys(names)), owner, encoder)


_USO = {"qkv_lora1": "img_attn_qkv", "qkv_lora2": "txt_attn_qkv", "proj_lora1": "img_attn_proj", "proj_lora2": "txt_attn_proj"}
_USO_SINGLE = {"qkv": "linear1_qkv", "proj": "linear2"}


def renamed(spelled: str) -> str:
    """A flat name of the Flux processors of XLabs and USO in the model's words, as `comfy.lora_convert` has them; others as they are."""
    double = re.fullmatch(r"(double_blocks_\d+)_((?:qkv|proj)_lora[12])", spelled)
    if double:
        return f"{double[1]}_{_USO[double[2]]}"
    single = re.fullmatch(r"(single_blocks_\d+)_(qkv|proj)", spelled)
    return f"{single[1]}_{_USO_SINGLE[single[2]]}" if single else spelled


Stream = Literal["to", "add"]
"""How diffusers spells the projections of an attention: ``to_q`` for its own stream, ``add_q_proj`` for the added one."""

ALIASES: tuple[tuple[re.Pattern[str], str, Stream], ...] = tuple(
    (re.compile(pattern), parent, stream)  # type: ignore[misc]
    for pattern, parent, stream in (
        # HunyuanVideo, HunyuanImage (diffusers: convert_hunyuan_video_to_diffusers.py)
        (r"double_blocks\.(\d+)\.img_attn\.\w+", r"transformer_blocks.\1.attn", "to"),
        (r"double_blocks\.(\d+)\.txt_attn\.\w+", r"transformer_blocks.\1.attn", "add"),
        (r"single_blocks\.(\d+)\.linear1", r"single_transformer_blocks.\1.attn", "to"),
        (
            r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.self_attn\.\w+",
            r"context_embedder.token_refiner.refiner_blocks.\1.attn",
            "to",
        ),
        # Wan (convert_wan_to_diffusers.py), Cosmos Predict 2 and Anima (convert_cosmos_to_diffusers.py)
        (r"((?:vace_)?blocks\.\d+)\.self_attn\.\w+", r"\1.attn1", "to"),
        (r"((?:vace_)?blocks\.\d+)\.cross_attn\.[kv]_img", r"\1.attn2", "add"),
        (r"((?:vace_)?blocks\.\d+)\.cross_attn\.\w+", r"\1.attn2", "to"),
        (r"blocks\.(\d+)\.self_attn\.\w+", r"transformer_blocks.\1.attn1", "to"),
        (r"blocks\.(\d+)\.cross_attn\.\w+", r"transformer_blocks.\1.attn2", "to"),
        (r"blocks\.block(\d+)\.blocks\.0\.block\.attn\..+", r"transformer_blocks.\1.attn1", "to"),
        (r"blocks\.block(\d+)\.blocks\.1\.block\.attn\..+", r"transformer_blocks.\1.attn2", "to"),
        # Mochi, CogVideoX
        (r"blocks\.(\d+)\.attn\.\w+_x", r"transformer_blocks.\1.attn1", "to"),
        (r"blocks\.(\d+)\.attn\.\w+_y", r"transformer_blocks.\1.attn1", "add"),
        (r"blocks\.(\d+)\.(?:[qkv]|attn_out)", r"transformer_blocks.\1.attn1", "to"),
        # MiniMax H3
        (r"blocks\.(\d+)\.attn\.\w+", r"transformer_blocks.\1.attn", "to"),
        (r"token_refiner\.blocks\.(\d+)\.attn\.\w+", r"token_refiner.refiner_blocks.\1.attn", "to"),
        # ACE-Step 1.5, whose files name the decoder alone
        (r"decoder\.(layers\.\d+\.\w+)\.\w+", r"\1", "to"),
        # Lumina 2, Stable Cascade, Stable Audio
        (r"transformer\.layers\.(\d+)\.(\w+_attn)\.\w+", r"transformer_blocks.\1.\2", "to"),
        (r"(.*)\.attention\.\w+", r"\1.attn", "to"),
        (r"(.*)\.attention\.attn\.\w+", r"\1.attention", "to"),
        (r"transformer\.layers\.(\d+)\.self_attn\.\w+", r"transformer_blocks.\1.attn1", "to"),
        (r"transformer\.layers\.(\d+)\.cross_attn\.\w+", r"transformer_blocks.\1.attn2", "to"),
    )
)
"""The host's names of attention layers, and what diffusers calls their attention; for what `comfy.utils.*_to_diffusers` leaves out."""

_RENAMED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^single_blocks\.(\d+)\.linear2$", r"single_transformer_blocks.\1.proj_out"),
        (r"^((?:double|single)_blocks\..*)(_mod|modulation)\.lin$", r"\1\2.linear"),  # the original HunyuanVideo
        (r"^((?:double_blocks|txt_in)\..*mlp)\.0$", r"\1.fc1"),
        (r"^((?:double_blocks|txt_in)\..*mlp)\.2$", r"\1.fc2"),
        (r"^decoder\.(layers\..*)$", r"\1"),  # ACE-Step 1.5, whose files name the decoder alone
        (r"^(.*\.to_(?:out|[qkv]))\.0$", r"\1"),
        (r"^(.*\.to_out)$", r"\1.0"),
    )
)


def aliases(path: str) -> Iterator[str]:
    """What other tools call a whole layer of the host, by its path inside the model (``blocks.0.self_attn.q``)."""
    for pattern, replacement in _RENAMED:
        if pattern.match(path):
            yield pattern.sub(replacement, path)
    kind = projection(path)
    if kind is not None:
        for parent, stream in attentions(path):
            yield f"{parent}.{_leaf(kind, stream)}"
            yield f"{parent}.{_leaf(kind, stream).removesuffix('.0')}"


_ADDED = re.compile(r".*(?:_img|_t|_y|^add_\w+|^to_add_\w+|^(?:txt|instruct)_\w+)$")
"""Leaves of an attention's added stream, where the host keeps both streams in one module."""


def attentions(path: str) -> Iterator[tuple[str, Stream]]:
    """The attentions that a projection belongs to, in diffusers' words and in the host's own, and its stream there."""
    parent, _, leaf = path.rpartition(".")
    is_added = _ADDED.match(leaf) is not None
    for pattern, attention, stream in ALIASES:
        if (stream == "add" or not is_added) and (match := pattern.fullmatch(path)):
            yield match.expand(attention), stream
    if not is_added:
        yield parent, "to"


def _leaf(kind: Projection, stream: Stream) -> str:
    if kind == "out":
        return "to_out.0" if stream == "to" else "to_add_out"
    if stream == "to":
        return f"to_{kind}"
    return f"add_{kind}_proj" if len(kind) == 1 else f"to_added_{kind}"


def part_names(path: str, kind: Projection) -> Iterator[tuple[str, Projection]]:
    """The names that the parts of a fused projection go by where another tool keeps them apart, and which part each is."""
    parent, _, leaf = path.rpartition(".")
    for part in kind:
        for attention, stream in attentions(path):
            yield f"{attention}.{_leaf(part, stream)}", part  # type: ignore[arg-type]
        for spelled in (leaf.lower().replace(kind, part), part, f"{part}_proj", f"{part}_linear"):
            yield f"{parent}.{spelled}", part  # type: ignore[misc]


_FUSED: dict[str, tuple[str, ...]] = {
    # The names of q alone, where a name of q, k and v in one ends so; "{}" is the part.
    "to_added_qkv": ("add_{}_proj",),
    "add_qkv_proj": ("add_{}_proj",),
    "qkv_linear": ("{}_linear",),
    "qkv_proj": ("{}_proj",),
    "in_proj": ("{}_proj", "to_{}"),
    "to_qkv": ("to_{}",),
    "wqkv": ("w{}",),
    "qkv": ("to_{}", "{}_proj", "{}_linear", "w{}", "{}"),
    "to_added_kv": ("add_{}_proj",),
    "kv_linear": ("{}_linear",),
    "kv_proj": ("{}_proj",),
    "to_kv": ("to_{}",),
    "kv": ("to_{}", "{}_proj", "{}_linear", "w{}", "{}"),
}


def split_names(spelled: str) -> Iterator[tuple[str, ...]]:
    """What the parts of a fused projection may be called, q first: ``…_attn_to_qkv`` is ``…_attn_to_q, …_to_k, …_to_v``."""
    for leaf, patterns in _FUSED.items():
        if spelled.endswith(f"_{leaf}"):
            parts = "kv" if "qkv" not in leaf and leaf != "in_proj" else "qkv"
            for pattern in patterns:
                yield tuple(spelled[: -len(leaf)] + pattern.format(part) for part in parts)
            return
