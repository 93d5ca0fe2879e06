"""Flux, Flux.2, Chroma, HunyuanVideo, HunyuanImage and their relatives: double blocks, then single blocks."""

from __future__ import annotations

from .table import SWAPPED, Table

_OWN_REFINER = "txt_in.individual_token_refiner.blocks.#"
_REFINER = "context_embedder.token_refiner.refiner_blocks.#"
_EMBEDDER = "context_embedder.time_text_embed"
_TIME = ("time_text_embed", "time_guidance_embed", "time_embed")
"""What Flux and HunyuanVideo, Flux.2 and HunyuanImage, LongCat-Image and HunyuanVideo 1.5 call it."""


def _embedder(ours: str, theirs: str, original: str = "") -> dict[str, str | tuple[str, ...]]:
    return {
        f"{ours}.{end}_layer": (
            *(f"{time}.{theirs}.linear_{n}" for time in _TIME),
            *((f"{original.format(2 * n - 2, n)}",) if original else ()),
        )
        for n, end in ((1, "in"), (2, "out"))
    }


def _stream(stream: str, attention: str, norm: str, ff: str, out: str) -> dict[str, str | tuple[str, ...]]:
    block, theirs = f"double_blocks.#.{stream}", "transformer_blocks.#"
    return {
        f"{block}_attn.qkv": f"{theirs}.attn.{attention}",
        f"{block}_attn.proj": f"{theirs}.attn.{out}",
        f"{block}_mod.lin": (f"{theirs}.{norm}.linear", f"{block}_mod.linear"),
        f"{block}_mlp.0": (f"{theirs}.{ff}.net.0.proj", f"{theirs}.{ff}.linear_in", f"{block}_mlp.fc1"),
        f"{block}_mlp.2": (f"{theirs}.{ff}.net.2", f"{theirs}.{ff}.linear_out", f"{block}_mlp.fc2"),
    }


FLUX = Table(
    ("double_blocks.0.img_attn.qkv",),
    {
        **_stream("img", "to_{q|k|v}", "norm1", "ff", "to_out.0"),
        **_stream("txt", "{add_q_proj|add_k_proj|add_v_proj}", "norm1_context", "ff_context", "to_add_out"),
        "single_blocks.#.linear1": (
            "single_transformer_blocks.#.{attn.to_q|attn.to_k|attn.to_v|proj_mlp}",
            "single_blocks.#.{linear1_q|linear1_k|linear1_v|linear1_mlp}",
            "single_transformer_blocks.#.attn.to_qkv_mlp_proj",
        ),
        "single_blocks.#.linear2": (
            "single_transformer_blocks.#.proj_out",
            "single_transformer_blocks.#.attn.to_out",
            "single_blocks.#.linear2.fc",
        ),
        "single_blocks.#.modulation.lin": ("single_transformer_blocks.#.norm.linear", "single_blocks.#.modulation.linear"),
        "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
        "single_stream_modulation.lin": "single_stream_modulation.linear",
        **_embedder("time_in", "timestep_embedder", "time_in.mlp.{0}"),
        **_embedder("time_r_in", "timestep_embedder_r", "time_r_in.mlp.{0}"),
        **_embedder("guidance_in", "guidance_embedder", "guidance_in.mlp.{0}"),
        **_embedder("vector_in", "text_embedder"),
        "img_in": "x_embedder",
        "img_in.proj": "x_embedder.proj",
        "txt_in": "context_embedder",
        "txt_in.input_embedder": "context_embedder.proj_in",
        "txt_in.t_embedder.in_layer": (f"{_EMBEDDER}.timestep_embedder.linear_1", "txt_in.t_embedder.mlp.0"),
        "txt_in.t_embedder.out_layer": (f"{_EMBEDDER}.timestep_embedder.linear_2", "txt_in.t_embedder.mlp.2"),
        "txt_in.c_embedder.in_layer": (f"{_EMBEDDER}.text_embedder.linear_1", "txt_in.c_embedder.linear_1"),
        "txt_in.c_embedder.out_layer": (f"{_EMBEDDER}.text_embedder.linear_2", "txt_in.c_embedder.linear_2"),
        f"{_OWN_REFINER}.self_attn.qkv": f"{_REFINER}.attn.to_{{q|k|v}}",
        f"{_OWN_REFINER}.self_attn.proj": f"{_REFINER}.attn.to_out.0",
        f"{_OWN_REFINER}.mlp.0": (f"{_REFINER}.ff.net.0.proj", f"{_OWN_REFINER}.mlp.fc1"),
        f"{_OWN_REFINER}.mlp.2": (f"{_REFINER}.ff.net.2", f"{_OWN_REFINER}.mlp.fc2"),
        f"{_OWN_REFINER}.adaLN_modulation.1": f"{_REFINER}.norm_out.linear",
        "byt5_in.fc1": "context_embedder_2.linear_1",
        "byt5_in.fc2": "context_embedder_2.linear_2",
        "byt5_in.fc3": "context_embedder_2.linear_3",
        "vision_in.proj.1": "image_embedder.linear_1",
        "vision_in.proj.3": "image_embedder.linear_2",
        "distilled_guidance_layer.layers.#.in_layer": "distilled_guidance_layer.layers.#.linear_1",
        "distilled_guidance_layer.layers.#.out_layer": "distilled_guidance_layer.layers.#.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": f"{SWAPPED}norm_out.linear",
    },
    source="diffusers: convert_flux…, convert_flux2…, convert_chroma…, convert_hunyuan_video…, convert_hunyuan_video1_5…, convert_hunyuan_image…",
)

TABLES = (FLUX,)
