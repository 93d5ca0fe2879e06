"""Names of layers: what the pack calls them, what a name says about the layer,
and how the tools spell one and the same name.

A file's name meets a model's in one flat spelling (`flat`), after the prefixes that its writer put in front are taken
off (`spellings`). What diffusers calls a layer that the host names otherwise is in the tables of `dialects`; an
attention's projections go by the usual names of such layers (`usual_names`),
and those in one weight by the names of their parts (`part_names`, `split_names`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NewType

LayerName = NewType("LayerName", str)
"""A module's path as the host's state dict spells it, without ``.weight``:
``diffusion_model.input_blocks.1.1.…attn1.to_q``."""

Projection = Literal["q", "k", "v", "qkv", "kv", "out"]
"""What an attention layer computes: one of its inputs, several fused into one weight, or its output."""


_SEPARATORS = str.maketrans("./-", "___")


def flat(name: str) -> str:
    """One spelling for all dialects: lower case, every separator one underscore,
    without what attention processors add."""
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
# Projections that stand in no attention: Flux-type single blocks (q, k, v and the MLP's first half in one weight),
# CogVideoX's blocks, the sound and face adapters of Wan.
_ELSEWHERE: dict[Projection, str] = {
    "q": r"blocks_\d+_q|injector_\d+_q|fuser_blocks_\d+_linear1_q",
    "k": r"blocks_\d+_k|injector_\d+_k",
    "v": r"blocks_\d+_v|injector_\d+_v",
    "qkv": r"single_blocks_\d+_linear1(?:_qkv)?",
    "kv": r"fuser_blocks_\d+_linear1_kv",
    "out": r"single_blocks_\d+_linear2|single_transformer_blocks_\d+_proj_out|injector_\d+_o|fuser_blocks_\d+_linear2",
}
_PROJECTION: dict[Projection, re.Pattern[str]] = {
    kind: re.compile(rf"(?:^|_)(?:(?:{_CONTAINER})(?:{leaves})|{_ELSEWHERE[kind]})(?:_mo[te]_gen)?$")
    for kind, leaves in _LEAVES.items()
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


_PREFIX_PATTERNS: tuple[tuple[str, Owner | None], ...] = (
    (r"lora[._](?:prior[._])?unet", "model"),
    (r"lora[._]transformer", "model"),
    (r"hunyuan_?video_(?:[a-z0-9]+_)*?lora", "model"),
    (r"(?:lora[._])?text_encoders?(?:_?(?P<encoder>\d))?", "text encoder"),
    (r"lora[._](?:prior[._])?te(?P<encoder>\d)?", "text encoder"),
    (r"te(?:_?(?P<encoder>\d))?", "text encoder"),
    (r"cond_stage_model", "text encoder"),
    (r"diffusion_model", "model"),
    (r"dit|unet|denoiser|prior|conditional_transformer", "model"),
    (r"lycoris", None),
    (r"base_model", None),
    (r"pipe|pipeline|module|model|net|network", None),
    # Last, as "transformer_blocks" is a name of its own far more often than a prefix and a name.
    (r"transformer(?!_(?:blocks|1d))", "model"),
)
# A separator is a dot or an underscore, whoever wrote the name: "[._]+" also takes what is doubled.
_PREFIXES = [(re.compile(rf"(?:{pattern})[._]+", re.IGNORECASE), owner) for pattern, owner in _PREFIX_PATTERNS]
_WRAPPERS = re.compile(r"(?:^|(?<=[._]))_?(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)(?:[._]+|$)")
"""What torch.compile and sharding put in front of a module, anywhere in its path."""
_MODULE = re.compile(r"(?<=[._])module[._]")


_NEUTRAL = re.compile(r"(?:(?:pipe|pipeline|module|net|network)[._]+)+", re.IGNORECASE)


def unwrapped(name: str) -> str:
    """A name without what compilers, wrappers and pipelines put around a model, which says nothing about the layer."""
    bare = _WRAPPERS.sub("", name)
    neutral = _NEUTRAL.match(bare)
    return bare[neutral.end() :] if neutral else bare


@lru_cache(maxsize=20_000)
def spellings(name: str) -> Spelling:
    """What a layer of a file may be called in the model, prefixes off one by one,
    and whose layer the prefixes say it is."""
    rest = _WRAPPERS.sub("", name)
    names, owner, encoder = [flat(name), flat(rest)], None, None
    while prefix := next(
        ((m, o) for pattern, o in _PREFIXES if (m := pattern.match(rest)) and m.end() < len(rest)), None
    ):
        match, meant = prefix
        rest = rest[match.end() :]
        owner = owner or meant
        if meant == "text encoder":
            encoder = encoder or int(match.groupdict().get("encoder") or 1)
        names.append(flat(rest))
    names.append(flat(_MODULE.sub("", rest)))
    if owner is None and re.search(r"(?:^|_)text_model_(?:encoder|embeddings)_", names[-1]):
        owner = "text encoder"
    return Spelling(tuple(dict.fromkeys(names)), owner, encoder)


_USO = {
    "qkv_lora1": "img_attn_qkv",
    "qkv_lora2": "txt_attn_qkv",
    "proj_lora1": "img_attn_proj",
    "proj_lora2": "txt_attn_proj",
}
_USO_SINGLE = {"qkv": "linear1_qkv", "proj": "linear2"}


def renamed(spelled: str) -> str:
    """A flat name of the Flux processors of XLabs and USO in the model's words,
    as `comfy.lora_convert` has them; others as they are."""
    double = re.fullmatch(r"(double_blocks_\d+)_((?:qkv|proj)_lora[12])", spelled)
    if double:
        return f"{double[1]}_{_USO[double[2]]}"
    single = re.fullmatch(r"(single_blocks_\d+)_(qkv|proj)", spelled)
    return f"{single[1]}_{_USO_SINGLE[single[2]]}" if single else spelled


_SEQUENTIAL = re.compile(r"^(.*\.to_(?:out|[qkv]))\.0$")
_ADDED = re.compile(r"(?:\w+_(?:img|t|y)|add_\w+|to_add_\w+|(?:txt|instruct)_\w+)")
"""Leaves of an attention's added stream, where the host keeps both streams in one module:
what its own stream is called is not theirs."""


def usual_names(path: str) -> Iterator[str]:
    """What most tools would call a projection of an attention,
    by its path inside the model (``…self_attn.q_proj`` is a ``to_q``)."""
    if match := _SEQUENTIAL.match(path):
        yield match[1]
        return
    parent, _, leaf = path.rpartition(".")
    kind = projection(path)
    if kind is not None and not _ADDED.fullmatch(leaf):
        yield f"{parent}.to_{kind}"
        if kind == "out":
            yield f"{parent}.to_out.0"


_PARTS: dict[Projection, tuple[Projection, ...]] = {"qkv": ("q", "k", "v"), "kv": ("k", "v")}


def part_names(path: str, kind: Projection) -> Iterator[tuple[str, Projection]]:
    """What most tools would call the parts of a fused projection where they keep them apart, and which part each is.

    Nothing for a projection that is not fused.
    """
    parent, _, leaf = path.rpartition(".")
    for part in _PARTS.get(kind, ()):
        own = () if _ADDED.fullmatch(leaf) else (f"to_{part}",)
        for spelled in (*own, leaf.lower().replace(kind, part), part, f"{part}_proj", f"{part}_linear"):
            yield f"{parent}.{spelled}", part


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
    """What the parts of a fused projection may be called, q first:
    ``…_attn_to_qkv`` is ``…_attn_to_q, …_to_k, …_to_v``."""
    for leaf, patterns in _FUSED.items():
        if spelled.endswith(f"_{leaf}"):
            parts = "kv" if "qkv" not in leaf and leaf != "in_proj" else "qkv"
            for pattern in patterns:
                yield tuple(spelled[: -len(leaf)] + pattern.format(part) for part in parts)
            return
