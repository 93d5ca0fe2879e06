"""Layers of real models, as shapes: what benchmarks build with random numbers."""

from __future__ import annotations

Shape = tuple[int, int]
"""``(out, in)``."""

# Blocks of SDXL's UNet: (name, transformer blocks in it, width). Keys and values of attn2 read 2048 numbers per token.
SDXL_BLOCKS = (
    *((f"input_blocks.{n}.1", 2, 640) for n in (4, 5)),
    *((f"input_blocks.{n}.1", 10, 1280) for n in (7, 8)),
    ("middle_block.1", 10, 1280),
    *((f"output_blocks.{n}.1", 10, 1280) for n in (0, 1, 2)),
    *((f"output_blocks.{n}.1", 2, 640) for n in (3, 4, 5)),
)
SDXL_TEXT = 2048
FLUX_WIDTH, FLUX_MLP, FLUX_DOUBLE, FLUX_SINGLE = 3072, 12288, 19, 38


def sdxl_attention() -> dict[str, Shape]:
    """The 560 attention layers of SDXL's UNet."""
    return {
        f"diffusion_model.{block}.transformer_blocks.{n}.{attention}.{leaf}": (
            width,
            SDXL_TEXT if attention == "attn2" and leaf in ("to_k", "to_v") else width,
        )
        for block, depth, width in SDXL_BLOCKS
        for n in range(depth)
        for attention in ("attn1", "attn2")
        for leaf in ("to_q", "to_k", "to_v", "to_out.0")
    }


def flux_attention() -> dict[str, Shape]:
    """The attention layers of Flux: q, k, v as one weight; in single blocks together with the feed-forward part."""
    double = {
        f"diffusion_model.double_blocks.{n}.{stream}_attn.{leaf}": (FLUX_WIDTH * parts, FLUX_WIDTH)
        for n in range(FLUX_DOUBLE)
        for stream in ("img", "txt")
        for leaf, parts in (("qkv", 3), ("proj", 1))
    }
    single = {
        f"diffusion_model.single_blocks.{n}.{leaf}": shape
        for n in range(FLUX_SINGLE)
        for leaf, shape in (
            ("linear1", (3 * FLUX_WIDTH + FLUX_MLP, FLUX_WIDTH)),
            ("linear2", (FLUX_WIDTH, FLUX_WIDTH + FLUX_MLP)),
        )
    }
    return double | single
