"""Wan, Cosmos, Mochi, CogVideoX, LTX-Video, MiniMax H3."""

from __future__ import annotations

from .table import SWAPPED, Table


def _wan_block(block: str) -> dict[str, str]:
    return {
        **{f"{block}.self_attn.{leaf}": f"{block}.attn1.to_{leaf}" for leaf in "qkv"},
        **{f"{block}.cross_attn.{leaf}": f"{block}.attn2.to_{leaf}" for leaf in "qkv"},
        f"{block}.self_attn.o": f"{block}.attn1.to_out.0",
        f"{block}.cross_attn.o": f"{block}.attn2.to_out.0",
        f"{block}.cross_attn.k_img": f"{block}.attn2.add_k_proj",
        f"{block}.cross_attn.v_img": f"{block}.attn2.add_v_proj",
        f"{block}.ffn.0": f"{block}.ffn.net.0.proj",
        f"{block}.ffn.2": f"{block}.ffn.net.2",
    }


WAN = Table(
    ("blocks.0.self_attn.o",),
    {
        **_wan_block("blocks.#"),
        **_wan_block("vace_blocks.#"),
        "vace_blocks.#.before_proj": "vace_blocks.#.proj_in",
        "vace_blocks.#.after_proj": "vace_blocks.#.proj_out",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "head.head": "proj_out",
        "face_adapter.fuser_blocks.#.linear1_q": "face_adapter.#.to_q",
        "face_adapter.fuser_blocks.#.linear1_kv": "face_adapter.#.to_{k|v}",
        "face_adapter.fuser_blocks.#.linear2": "face_adapter.#.to_out",
        "face_encoder.conv1_local.conv": "face_encoder.conv1_local",
        "face_encoder.conv2.conv": "face_encoder.conv2",
        "face_encoder.conv3.conv": "face_encoder.conv3",
    },
    source="diffusers: convert_wan_transformer_to_diffusers",
)

PREDICT2 = Table(
    ("blocks.0.self_attn.output_proj",),
    {
        **{
            f"blocks.#.{ours}_attn.{leaf}": f"transformer_blocks.#.{theirs}.to_{'out.0' if leaf[0] == 'o' else leaf[0]}"
            for ours, theirs in (("self", "attn1"), ("cross", "attn2"))
            for leaf in ("q_proj", "k_proj", "v_proj", "output_proj")
        },
        **{
            f"blocks.#.adaln_modulation_{ours}.{n}": f"transformer_blocks.#.{theirs}.linear_{n}"
            for ours, theirs in (("self_attn", "norm1"), ("cross_attn", "norm2"), ("mlp", "norm3"))
            for n in (1, 2)
        },
        "blocks.#.mlp.layer1": "transformer_blocks.#.ff.net.0.proj",
        "blocks.#.mlp.layer2": "transformer_blocks.#.ff.net.2",
        "t_embedder.1.linear_1": "time_embed.t_embedder.linear_1",
        "t_embedder.1.linear_2": "time_embed.t_embedder.linear_2",
        "x_embedder.proj.1": "patch_embed.proj",
        "final_layer.adaln_modulation.1": "norm_out.linear_1",
        "final_layer.adaln_modulation.2": "norm_out.linear_2",
        "final_layer.linear": "proj_out",
    },
    roots=(("llm_adapter.", "text_conditioner."),),  # Anima
    source="diffusers: convert_cosmos_transformer_checkpoint_to_diffusers, convert_anima_to_diffusers",
)

_COSMOS = ("attn1", "attn2", "ff")
COSMOS = Table(
    ("blocks.block0.blocks.0.block.attn.to_q.0",),
    {
        **{
            f"blocks.block#.blocks.{n}.block.attn.to_{leaf}.0": f"transformer_blocks.#.attn{n + 1}.to_{leaf}{end}"
            for n in (0, 1)
            for leaf, end in (("q", ""), ("k", ""), ("v", ""), ("out", ".0"))
        },
        **{
            f"blocks.block#.blocks.{n}.adaLN_modulation.{i}": f"transformer_blocks.#.norm{n + 1}.linear_{i}"
            for n in (0, 1, 2)
            for i in (1, 2)
        },
        "blocks.block#.blocks.2.block.layer1": "transformer_blocks.#.ff.net.0.proj",
        "blocks.block#.blocks.2.block.layer2": "transformer_blocks.#.ff.net.2",
        "t_embedder.1.linear_1": "time_embed.t_embedder.linear_1",
        "t_embedder.1.linear_2": "time_embed.t_embedder.linear_2",
        "x_embedder.proj.1": "patch_embed.proj",
        "final_layer.adaLN_modulation.1": "norm_out.linear_1",
        "final_layer.adaLN_modulation.2": "norm_out.linear_2",
        "final_layer.linear": "proj_out",
    },
    source="diffusers: convert_cosmos_transformer_checkpoint_to_diffusers",
)

MOCHI = Table(
    ("blocks.0.mod_x",),
    {
        "blocks.#.attn.qkv_x": "transformer_blocks.#.attn1.to_{q|k|v}",
        "blocks.#.attn.qkv_y": "transformer_blocks.#.attn1.add_{q|k|v}_proj",
        "blocks.#.attn.proj_x": "transformer_blocks.#.attn1.to_out.0",
        "blocks.#.attn.proj_y": "transformer_blocks.#.attn1.to_add_out",
        "blocks.#.mod_x": "transformer_blocks.#.norm1.linear",
        # The last block's text stream ends there, and its modulation goes by another name.
        "blocks.#.mod_y": ("transformer_blocks.#.norm1_context.linear", "transformer_blocks.#.norm1_context.linear_1"),
        "blocks.#.mlp_x.w1": f"{SWAPPED}transformer_blocks.#.ff.net.0.proj",
        "blocks.#.mlp_x.w2": "transformer_blocks.#.ff.net.2",
        "blocks.#.mlp_y.w1": f"{SWAPPED}transformer_blocks.#.ff_context.net.0.proj",
        "blocks.#.mlp_y.w2": "transformer_blocks.#.ff_context.net.2",
        "x_embedder.proj": "patch_embed.proj",
        "t_embedder.mlp.0": "time_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_embed.timestep_embedder.linear_2",
        "t5_y_embedder.to_kv": "time_embed.pooler.to_kv",
        "t5_y_embedder.to_q": "time_embed.pooler.to_q",
        "t5_y_embedder.to_out": "time_embed.pooler.to_out",
        "t5_yproj": "time_embed.caption_proj",
        "final_layer.mod": f"{SWAPPED}norm_out.linear",
        "final_layer.linear": "proj_out",
    },
    source="diffusers: convert_mochi_transformer_checkpoint_to_diffusers",
)

COGVIDEOX = Table(
    ("blocks.0.attn_out",),
    {
        **{f"blocks.#.{leaf}": f"transformer_blocks.#.attn1.to_{leaf}" for leaf in "qkv"},
        "blocks.#.attn_out": "transformer_blocks.#.attn1.to_out.0",
        "blocks.#.norm1.linear": "transformer_blocks.#.norm1.linear",
        "blocks.#.norm2.linear": "transformer_blocks.#.norm2.linear",
        "blocks.#.ff_proj": "transformer_blocks.#.ff.net.0.proj",
        "blocks.#.ff_out": "transformer_blocks.#.ff.net.2",
        "time_embedding_linear_1": "time_embedding.linear_1",
        "time_embedding_linear_2": "time_embedding.linear_2",
        "ofs_embedding_linear_1": "ofs_embedding.linear_1",
        "ofs_embedding_linear_2": "ofs_embedding.linear_2",
    },
    source="diffusers: CogVideoXTransformer3DModel, which the host's class is written after",
)

LTX = Table(
    ("patchify_proj",),
    {
        "patchify_proj": "proj_in",
        "audio_patchify_proj": "audio_proj_in",
        "text_embedding_projection": "connectors.text_proj_in",
        "text_embedding_projection.aggregate_embed": "connectors.text_proj_in",
        "text_embedding_projection.audio_aggregate_embed": "connectors.audio_text_proj_in",
        "text_embedding_projection.video_aggregate_embed": "connectors.video_text_proj_in",
    },
    roots=(
        ("adaln_single.", "time_embed."),
        ("audio_adaln_single.", "audio_time_embed."),
        ("prompt_adaln_single.", "prompt_adaln."),
        ("audio_prompt_adaln_single.", "audio_prompt_adaln."),
        ("av_ca_video_scale_shift_adaln_single.", "av_cross_attn_video_scale_shift."),
        ("av_ca_audio_scale_shift_adaln_single.", "av_cross_attn_audio_scale_shift."),
        ("av_ca_a2v_gate_adaln_single.", "av_cross_attn_video_a2v_gate."),
        ("av_ca_v2a_gate_adaln_single.", "av_cross_attn_audio_v2a_gate."),
        *(
            (f"{stream}_embeddings_connector.transformer_1d_blocks.", f"{prefix}{stream}_connector.transformer_blocks.")
            for stream in ("video", "audio")
            for prefix in ("", "connectors.")
        ),
    ),
    source="diffusers: convert_ltx_transformer…, convert_ltx2_transformer…, convert_ltx2_to_diffusers (connectors)",
)

MINIMAX_H3 = Table(
    ("video_patch_proj",),
    {
        **{
            f"{ours}.{ours_leaf}": theirs_leaf.replace("block", theirs)
            for ours, theirs in (
                ("blocks.#", "transformer_blocks.#"),
                ("token_refiner.blocks.#", "token_refiner.refiner_blocks.#"),
            )
            for ours_leaf, theirs_leaf in (
                ("attn.qkv_proj", "block.attn.to_{q|k|v}"),
                ("attn.out_proj", "block.attn.to_out.0"),
                ("mlp.fc1", f"{SWAPPED}block.ff.net.0.proj"),
                ("mlp.fc2", "block.ff.net.2"),
            )
        },
        "blocks.#.adaln_proj.linear": "transformer_blocks.#.adaln_proj.linear",
        "time_embedder.proj_in": "time_embedder.linear_1",
        "time_embedder.proj_out": "time_embedder.linear_2",
        "video_patch_proj": "proj_in",
        "audio_patch_proj": "audio_proj_in",
        "condition_proj": "context_embedder",
        "final_layer.adaln_proj.linear": "norm_out.linear",
        "final_layer.video_out": "proj_out",
        "final_layer.audio_out": "audio_proj_out",
    },
    source="diffusers: convert_minimax_h3_transformer_checkpoint_to_diffusers",
)

TABLES = (WAN, PREDICT2, COSMOS, MOCHI, COGVIDEOX, LTX, MINIMAX_H3)
