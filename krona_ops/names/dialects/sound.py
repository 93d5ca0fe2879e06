"""Stable Audio, Stable Audio 3, ACE-Step 1.5."""

from __future__ import annotations

from .table import Table

STABLE_AUDIO = Table(
    ("transformer.layers.0.self_attn.to_qkv",),
    {
        "transformer.layers.#.self_attn.to_qkv": "transformer_blocks.#.attn1.to_{q|k|v}",
        "transformer.layers.#.self_attn.to_out": "transformer_blocks.#.attn1.to_out.0",
        "transformer.layers.#.cross_attn.to_q": "transformer_blocks.#.attn2.to_q",
        "transformer.layers.#.cross_attn.to_kv": "transformer_blocks.#.attn2.to_{k|v}",
        "transformer.layers.#.cross_attn.to_out": "transformer_blocks.#.attn2.to_out.0",
        "transformer.layers.#.ff.ff.0.proj": "transformer_blocks.#.ff.net.0.proj",
        "transformer.layers.#.ff.ff.2": "transformer_blocks.#.ff.net.2",
        "transformer.project_in": "proj_in",
        "transformer.project_out": "proj_out",
        "to_timestep_embed.0": "timestep_proj.0",
        "to_timestep_embed.2": "timestep_proj.2",
        "to_global_embed.0": "global_proj.0",
        "to_global_embed.2": "global_proj.2",
        "to_cond_embed.0": "cross_attention_proj.0",
        "to_cond_embed.2": "cross_attention_proj.2",
    },
    source="diffusers: scripts/convert_stable_audio.py",
)

STABLE_AUDIO_3 = Table(
    ("transformer.global_cond_embedder.0",),
    {
        # Differential attention: q, k, v, q2, k2 here; q, q2, k, k2, v there.
        "transformer.layers.#.self_attn.to_qkv": "<0 3 1 4 2> transformer_blocks.#.self_attn.to_qkv",
        "transformer.layers.#.self_attn.to_out": "transformer_blocks.#.self_attn.to_out",
        "transformer.layers.#.cross_attn.to_q": "transformer_blocks.#.cross_attn.to_q",
        "transformer.layers.#.cross_attn.to_kv": "transformer_blocks.#.cross_attn.to_kv",
        "transformer.layers.#.cross_attn.to_out": "transformer_blocks.#.cross_attn.to_out",
        "transformer.layers.#.ff.ff.0.proj": "transformer_blocks.#.ff.proj_in",
        "transformer.layers.#.ff.ff.2": "transformer_blocks.#.ff.proj_out",
        "transformer.layers.#.to_local_embed.0": "transformer_blocks.#.to_local_embed.0",
        "transformer.layers.#.to_local_embed.2": "transformer_blocks.#.to_local_embed.2",
        "transformer.global_cond_embedder.0": "global_cond_embedder.0",
        "transformer.global_cond_embedder.2": "global_cond_embedder.2",
        "transformer.project_in": "proj_in",
        "transformer.project_out": "proj_out",
    },
    source="diffusers: scripts/convert_stable_audio_3_to_diffusers.py",
)

ACE_STEP_15 = Table(
    ("decoder.layers.0.self_attn.o_proj",),
    {
        "decoder.proj_in.1": "proj_in_conv",
        "decoder.proj_out.1": "proj_out_conv",
    },
    roots=(
        ("decoder.", ""),  # files name the decoder alone
        ("encoder.", "condition_encoder."),
        ("tokenizer.", "audio_tokenizer."),
        ("detokenizer.", "audio_token_detokenizer."),
    ),
    source="diffusers: scripts/convert_ace_step_to_diffusers.py",
)

TABLES = (STABLE_AUDIO_3, STABLE_AUDIO, ACE_STEP_15)
