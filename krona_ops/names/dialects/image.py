"""Lumina 2, Z-Image, Ideogram 4, HunyuanDiT, Stable Cascade, SD3, the video UNet of SVD."""

from __future__ import annotations

from .table import SWAPPED, Table

_STACKS = ("layers.#", "noise_refiner.#", "context_refiner.#")
LUMINA2 = Table(
    ("layers.0.attention.qkv",),
    {
        **{f"{block}.attention.qkv": (f"{block}.attn.to_{{q|k|v}}", f"{block}.attention.to_{{q|k|v}}") for block in _STACKS},
        **{f"{block}.attention.{o}": (f"{block}.attn.to_out.0", f"{block}.attention.to_out.0") for block in _STACKS for o in ("out", "o")},
        **{f"{block}.feed_forward.w{n}": f"{block}.feed_forward.linear_{n}" for block in _STACKS for n in (1, 2, 3)},
        **{f"{block}.adaLN_modulation.1": f"{block}.norm1.linear" for block in _STACKS},
        "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
        "cap_embedder.1": "time_caption_embed.caption_embedder.1",
        "final_layer.adaLN_modulation.1": ("norm_out.linear_1", "all_final_layer.2-1.adaLN_modulation.1"),
        "final_layer.linear": ("norm_out.linear_2", "all_final_layer.2-1.linear"),
        "x_embedder": "all_x_embedder.2-1",
    },
    source="diffusers: convert_lumina2_to_diffusers, convert_z_image…, _convert_non_diffusers_ideogram4_lora_to_diffusers",
)  # fmt: skip

HUNYUAN_DIT = Table(
    ("blocks.0.attn1.Wqkv",),
    {
        "blocks.#.attn1.Wqkv": "blocks.#.attn1.to_{q|k|v}",
        "blocks.#.attn1.out_proj": "blocks.#.attn1.to_out.0",
        "blocks.#.attn2.q_proj": "blocks.#.attn2.to_q",
        "blocks.#.attn2.kv_proj": "blocks.#.attn2.to_{k|v}",
        "blocks.#.attn2.out_proj": "blocks.#.attn2.to_out.0",
        "blocks.#.default_modulation.1": "blocks.#.norm1.linear",
        "blocks.#.mlp.fc1": "blocks.#.ff.net.0.proj",
        "blocks.#.mlp.fc2": "blocks.#.ff.net.2",
        **{f"pooler.{leaf}_proj": f"time_extra_emb.pooler.{leaf}_proj" for leaf in "kqvc"},
        "t_embedder.mlp.0": "time_extra_emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_extra_emb.timestep_embedder.linear_2",
        "extra_embedder.0": "time_extra_emb.extra_embedder.linear_1",
        "extra_embedder.2": "time_extra_emb.extra_embedder.linear_2",
        "mlp_t5.0": "text_embedder.linear_1",
        "mlp_t5.2": "text_embedder.linear_2",
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": f"{SWAPPED}norm_out.linear",
    },
    source="diffusers: scripts/convert_hunyuandit_to_diffusers.py",
)

STABLE_CASCADE = Table(
    ("clip_mapper", "clip_txt_mapper"),
    {
        **{f"{stack}.#.#.attention.attn.to_{leaf}": f"{stack}.#.#.attention.to_{leaf}" for stack in ("down_blocks", "up_blocks") for leaf in "qkv"},
        **{f"{stack}.#.#.attention.attn.out_proj": f"{stack}.#.#.attention.to_out.0" for stack in ("down_blocks", "up_blocks")},
        "clip_mapper": "clip_txt_pooled_mapper",
    },
    source="diffusers: convert_stable_cascade_unet_single_file_to_diffusers",
)  # fmt: skip

_RESNET = {"in_layers.2": "conv1", "out_layers.3": "conv2", "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut"}


def _svd_block(ours: str, theirs: str) -> dict[str, str]:
    return {
        f"{ours}.{stack}{layer}": f"{theirs}.{kind}_res_block.{name}"
        for stack, kind in (("", "spatial"), ("time_stack.", "temporal"))
        for layer, name in _RESNET.items()
    }


def _svd_attention(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"{ours}.time_stack.", f"{theirs}.temporal_transformer_blocks."),
        (f"{ours}.time_pos_embed.0", f"{theirs}.time_pos_embed.linear_1"),
        (f"{ours}.time_pos_embed.2", f"{theirs}.time_pos_embed.linear_2"),
    )


_SVD_PLACES = (
    # Three inputs and three outputs to each of four levels: two with a ResNet (and attention) and the sampler, or
    # three.
    *((f"input_blocks.{n}", f"down_blocks.{(n - 1) // 3}", (n - 1) % 3) for n in range(1, 12)),
    *((f"output_blocks.{n}", f"up_blocks.{n // 3}", n % 3) for n in range(12)),
)
SVD = Table(
    ("input_blocks.1.0.time_stack.in_layers.2",),
    {
        **{k: v for ours, theirs, n in _SVD_PLACES for k, v in _svd_block(f"{ours}.0", f"{theirs}.resnets.{n}").items()},
        **_svd_block("middle_block.0", "mid_block.resnets.0"),
        **_svd_block("middle_block.2", "mid_block.resnets.1"),
    },
    roots=(
        *(root for ours, theirs, n in _SVD_PLACES for root in _svd_attention(f"{ours}.1", f"{theirs}.attentions.{n}")),
        *_svd_attention("middle_block.1", "mid_block.attentions.0"),
        ("label_emb.0.0", "add_embedding.linear_1"),
        ("label_emb.0.2", "add_embedding.linear_2"),
    ),
    source="diffusers: scripts/convert_svd_to_diffusers.py",
)

TABLES = (LUMINA2, HUNYUAN_DIT, STABLE_CASCADE, SVD)
