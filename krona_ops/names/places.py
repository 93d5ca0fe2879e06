"""Where in a model a layer stands, told by its name alone: its path, its block, its attention.

Works on dotted names (``diffusion_model.input_blocks.4.1.…attn2.to_q``) and on underscored ones
(``lora_unet_input_blocks_4_1_…attn2_to_q``) of every family, by what the names say and never by counting layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from .branches import MODES, PARTS, place_of
from .spellings import projection, unwrapped

Attention = Literal["self", "cross", "joint"]
"""``joint`` is an attention that its name calls neither:
mostly one over image and text together (Flux, SD3, Z-Image)."""

_PREFIX = re.compile(
    r"^(?:base_model\.model\.|model\.(?=diffusion_model\.)|diffusion_model\.|transformer\.|unet\."
    r"|dit[._]|hunyuan_?video_(?:[a-z0-9]+_)*?lora_|lora_unet_+|lora_transformer_(?!blocks_)|lycoris_(?:unet_|transformer_(?!blocks_))?|transformer_(?=layers_))",
    re.IGNORECASE,
)
_TEXT_ENCODER = re.compile(
    r"^(?:(?:lora_|lycoris_)?(te|text_encoder)_?(\d?)[._]|(?:text_encoders|cond_stage_model)\.(\w+)\."
    r"|(clip_[a-z]|t5\w*|umt5\w*|byt5\w*|mt5\w*|gemma\w*|llama\w*|qwen\w*|mistral\w*|pile_t5\w*|\w+(?=\.transformer\.(?:text_model|model|encoder|shared)\.))\.)"
)
_STACK = re.compile(r"(?:blocks?|layers?|refiner|encoders|transformers|stages|resblocks|injector)$")
_WHOLE = ("middle_block", "mid_block")
_COMPOUNDS = """
    audio_to_video_attn video_to_audio_attn single_transformer_blocks double_stream_blocks single_stream_blocks visual_transformer_blocks text_transformer_blocks
    double_stream_layers single_stream_layers joint_transformer_blocks transformer_blocks caption_projection down_blocks
    up_blocks mid_block input_blocks output_blocks middle_block double_blocks single_blocks joint_blocks vace_blocks
    double_layers single_layers noise_refiner context_refiner individual_token_refiner token_refiner llm_adapter
    lyric_encoder timbre_encoder music_encoder audio_injector music_injector text_model text_projection time_embed
    time_embedding label_emb add_embedding linear_1 linear_2 x_embedder context_embedder t_embedder y_embedder cap_embedder
    final_layer time_text_embed guidance_in vector_in time_in img_in txt_in x_block context_block img_attn txt_attn img_mlp
    txt_mlp img_mod txt_mod self_attn cross_attn self_attention cross_attention feed_forward ff_context ff_net proj_in
    proj_out proj_mlp in_layers out_layers emb_layers skip_connection conv_in conv_out conv_shortcut time_emb_proj norm_out
    to_q to_k to_v to_qkv to_kv to_out to_add_out add_q_proj add_k_proj add_v_proj q_proj k_proj v_proj o_proj out_proj
    qkv_proj gate_proj up_proj down_proj k_img v_img q_linear kv_linear q_norm k_norm adaLN_modulation
    adaln_modulation_self_attn adaln_modulation_cross_attn adaln_modulation_mlp
"""
"""Modules with an underscore in their names: what an underscored path can be taken apart by."""
_TOKEN = re.compile("(?:" + "|".join(sorted(_COMPOUNDS.split(), key=len, reverse=True)) + r"|[^_]+)(?=_|$)")


@lru_cache(maxsize=20_000)
def path_of(name: str) -> str:
    """The layer's path inside its model, dotted:
    ``lora_unet_double_blocks_3_img_attn_qkv`` is ``double_blocks.3.img_attn.qkv``.

    Of an underscored name, modules that no family is known to have are taken apart at each underscore.
    """
    name = unwrapped(name)
    encoder = _TEXT_ENCODER.match(name)
    bare = name[encoder.end() :] if encoder else _without_prefix(name)
    return bare if "." in bare else ".".join(_TOKEN.findall(bare)) or bare


def _without_prefix(name: str) -> str:
    while prefix := _PREFIX.match(name):
        name = unwrapped(name[prefix.end() :])
    return name


@lru_cache(maxsize=20_000)
def text_encoder_of(name: str) -> str | None:
    """Which text encoder a layer belongs to (``clip_l``, ``text_encoder_2``);
    ``None`` for one of the diffusion model."""
    match = _TEXT_ENCODER.match(unwrapped(name))
    if not match:
        return None
    kohya, number, listed, own = match.groups()
    if kohya:
        return f"text_encoder_{number}" if number and number != "1" else "text_encoder"
    return listed or own


@lru_cache(maxsize=20_000)
def block_of(name: str) -> str:
    """The block of the model that a layer is part of.

    ``input_blocks.4``, ``middle_block``, ``down_blocks.1.attentions.0``, ``double_blocks.3``, ``joint_blocks.7``,
    ``layers.12``, ``txt_in.individual_token_refiner.blocks.0``, ``clip_l.layers.3``; for a layer outside of every
    stack, the module it is in: ``time_embed``, ``final_layer``.
    """
    parts, encoder = path_of(name).split("."), text_encoder_of(name)
    for n, part in enumerate(parts):
        if part in _WHOLE:
            return part
        numbered = n + 1 < len(parts) and parts[n + 1].isdigit() and _STACK.search(part)
        if numbered or re.fullmatch(r"block\d+", part):
            end = n + 2 if numbered else n + 1
            if parts[n] in ("down_blocks", "up_blocks") and parts[end : end + 1] in (["attentions"], ["resnets"]):
                end += 2
            return f"{encoder}.{part}.{parts[n + 1]}" if encoder and numbered else ".".join(parts[:end])
    return encoder or parts[0]


def attention_of(name: str) -> Attention | None:
    """What the attention of a layer looks at, as its name says; ``None`` where it is no projection of an attention.

    A parallel branch goes by the self-attention that it stands beside.
    """
    if place_of(name) is not None:
        return "self"
    if projection(name) is None:
        return None
    words = [
        part for part in path_of(name).split(".") if re.search(r"attn|attention", part, re.I) and part != "attentions"
    ]
    word = words[-1].lower() if words else ""
    if "x_block" in path_of(name).split("."):  # SD3.5: attn2 is a second attention of the picture to itself
        return "self" if word == "attn2" else "joint"
    if re.search(r"attn_?2|cross|xattn|encoder_attn|encdec|i2v|to_", word):
        return "cross"
    return "self" if re.search(r"attn_?1|self", word) else "joint"


@lru_cache(maxsize=20_000)
def role_of(name: str) -> str:
    """What a layer does, in a word or two: ``self q``, ``cross out``, ``qkv``, ``text qkv``, ``self out bias``, ``feed-forward``,
    ``reference q`` and ``reference gate`` of a parallel branch, ``other``."""
    if branch := place_of(name):
        return f"{branch.mode} {branch.part.removeprefix('to_')}"
    if name.endswith(".bias") and projection(name.removesuffix(".bias")) is not None:
        return f"{role_of(name.removesuffix('.bias'))} bias"
    kind, attention, path = projection(name), attention_of(name), path_of(name)
    text = (
        "text "
        if re.search(r"(?:^|\.)(?:txt_attn|txt_mlp|context_block|ff_context|add_[qkv]_proj|to_add_\w+)(?:\.|$)", path)
        else ""
    )
    if kind is not None:
        return f"{text}{kind}" if attention == "joint" else f"{attention} {kind}"
    if re.search(
        r"(?:^|\.)(?:ff|ffn|mlp|\w+_mlp|mlp[XC]|feed_forward|ff_context|ff_net|fc\d|linear[12]|proj_mlp)(?:\.|$)", path
    ):
        return f"{text}feed-forward"
    if re.search(r"(?:^|\.)(?:(?:in_layers|out_layers)\.0|resnets\.\d+\.norm[12])(?:\.bias)?$", path):
        return "norm"  # in front of a residual block's convolutions
    if re.search(r"(?:^|\.)(?:in_layers|out_layers|conv\w*|resnets|skip_connection|op)(?:\.|$)", path):
        return "convolution"
    if re.search(r"(?:^|\.)(?:proj_in|proj_out)$", path):
        return "in/out projection"
    if re.search(r"mod(?:ulation)?\w*(?:\.|$)|emb|adaln", path, re.I):
        return "modulation"
    return "norm" if re.search(r"norm", path, re.I) else "other"


_ROLES = [
    f"{a}{p}{b}"
    for a in ("self ", "cross ", "", "text ")
    for p in ("q", "k", "v", "qkv", "kv", "out")
    for b in ("", " bias")
]
_ROLES += [f"{mode} {part.removeprefix('to_')}" for mode in MODES for part in PARTS]
_ROLES += ["feed-forward", "text feed-forward", "in/out projection", "convolution", "modulation", "norm", "other"]


def sorted_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """Roles in the order a reader expects: self, cross and joint attention, branches, feed-forward, the rest."""
    return tuple(sorted(set(roles), key=lambda role: _ROLES.index(role) if role in _ROLES else len(_ROLES)))


def sorted_blocks(blocks: Iterable[str]) -> tuple[str, ...]:
    """Blocks in the order in which a picture passes them, numbers as numbers; text encoders and lone modules last."""
    return tuple(sorted(set(blocks), key=_block_order))


def _block_order(block: str) -> tuple:
    stages = (
        r"context_refiner|txt_in|token_refiner|encoder\.",
        r"noise_refiner|x_embedder",
        r"(?:input|down)_blocks",
        r"mid(?:dle)?_block",
        r"(?:output|up)_blocks",
        r"double|joint|visual",
        r"single",
    )
    is_numbered = re.search(r"\d", block) or block in _WHOLE
    stage = next((n for n, pattern in enumerate(stages) if re.match(pattern, block)), len(stages))
    if text_encoder_of(f"{block}.") or block.startswith("text_encoder"):
        stage = len(stages) + 2
    elif not is_numbered:
        stage = len(stages) + 1
    return (stage, *(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", block)))
