"""Which base model an adapter was made for, told by the names and shapes of its layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .spellings import spellings


@dataclass(frozen=True)
class _Sign:
    """A pattern of layer names, and the input widths that tell the sizes of a family of models apart."""

    pattern: re.Pattern[str]
    names: Mapping[int, str]
    """Base models by the input width of the layers that match."""
    otherwise: str = ""
    """The base model where the width is another; empty goes on to the next sign."""
    width: str = "width"


def _sign(pattern: str, names: Mapping[int, str], otherwise: str = "", width: str = "width") -> _Sign:
    return _Sign(re.compile(pattern), names, otherwise, width)


_NUMBER = re.compile(r"(?<![^_])\d+(?=_|$)")
"""Of a block; no sign below asks for a certain one."""
_CROSS = "cross attention width"
_SIGNS: tuple[_Sign, ...] = (
    # The first that is found decides, so the names that only one family has come first.
    _sign(
        r"(?:input|output|middle|down|up|mid)_block.*attn2_to_[kv]$",
        {768: "SD1.5", 1024: "SD2", 2048: "SDXL", 1280: "the SDXL refiner"},
        "a Stable Diffusion UNet",
        _CROSS,
    ),
    _sign(r"(?:input|output|middle)_blocks?_\d+|mid_block_attentions|(?:down|up)_blocks_\d+_attentions", {}, "a Stable Diffusion UNet"),
    _sign(r"(?:down|up)_blocks_\d+_\d+_attention", {2048: "Stable Cascade stage C"}, "Stable Cascade"),
    _sign(r"joint_blocks_\d+_x_block_attn", {1536: "SD3 medium", 2432: "SD3.5 large"}, "SD3"),
    _sign(r"joint_transformer_blocks|double_layers_\d+_attn_w", {}, "AuraFlow"),
    _sign(r"individual_token_refiner|token_refiner_refiner_blocks", {3072: "HunyuanVideo", 3584: "HunyuanImage 2.1", 2048: "HunyuanVideo 1.5"}, "HunyuanVideo"),
    _sign(r"double_blocks_\d+_attn_(?:img|txt)_attn", {}, "JoyImage"),
    _sign(r"double_stream_layers|single_stream_layers", {}, "Boogu"),
    _sign(r"(?:double|single)_stream_blocks_\d+_block", {}, "HiDream"),
    _sign(r"visual_transformer_blocks|text_transformer_blocks", {1792: "Kandinsky 5 Lite video", 2560: "Kandinsky 5 image", 4096: "Kandinsky 5 Pro"}, "Kandinsky 5"),
    _sign(r"txtfusion|text_fusion|blocks_\d+_attn_w[qkvo]$|blocks_\d+_attn_to_gate", {}, "Krea 2"),
    _sign(r"llm_adapter_blocks", {}, "Anima"),
    _sign(r"blocks_\d+_(?:self|cross)_attn_(?:q_proj|k_proj|v_proj|output_proj)$", {2048: "Cosmos Predict 2 (2B) or Anima", 5120: "Cosmos Predict 2 (14B)"}, "Cosmos Predict 2"),
    _sign(r"blocks_block\d+_blocks_\d+_block_attn", {}, "Cosmos"),
    _sign(r"blocks_\d+_self_attn_[qkvo]$|(?<!transformer_)blocks_\d+_attn1_to_q$", {1536: "Wan 2.1 (1.3B)", 5120: "Wan 2.1 or 2.2 (14B)", 3072: "Wan 2.2 (5B)", 1408: "HunyuanDiT"}, "Wan"),
    _sign(r"blocks_\d+_cross_attn_(?:q|kv)_linear$", {}, "PixArt"),
    _sign(r"blocks_\d+_attn1_wqkv$", {}, "HunyuanDiT"),
    _sign(r"blocks_\d+_attn_(?:qkv|proj)_[xy]$", {3072: "Mochi", 1536: "PixelDiT"}, "Mochi"),
    _sign(r"(?<!transformer_)blocks_\d+_(?:q|k|v|attn_out)$", {}, "CogVideoX"),
    _sign(r"audio_to_video_attn|audio_attn1", {}, "LTX-2"),
    _sign(r"double_blocks_\d+_img_attn_qkv|single_blocks_\d+_linear1|single_transformer_blocks_\d+_attn", {3072: "Flux.1 (or Chroma, HunyuanVideo, Flux.2 Klein 4B)", 4096: "Flux.2 Klein 9B", 6144: "Flux.2", 1024: "Hunyuan3D 2"}, "a Flux-type model"),
    _sign(r"transformer_blocks_\d+_attn_add_[qkv]_proj$", {1536: "SD3 medium", 2432: "SD3.5 large", 3072: "Qwen-Image (or the double blocks of Flux)"}, "an MMDiT"),
    _sign(r"transformer_blocks_\d+_attn_to_[qkv]$", {1536: "SD3 medium", 2432: "SD3.5 large", 3072: "Qwen-Image (or the double blocks of Flux)", 2560: "ACE-Step"}, ""),
    _sign(r"transformer_blocks_\d+_attn1_to_q$", {2048: "LTX-Video", 4096: "LTX-2", 1152: "PixArt"}, ""),
    _sign(r"layers_\d+_self_attention_to_", {}, "Ernie-Image"),
    _sign(r"(?:layers|refiner)_\d+_attention_(?:qkv|to_q|out|to_out)", {3840: "Z-Image", 2304: "Lumina 2", 4608: "Ideogram 4"}, "Lumina 2 or Z-Image"),
    _sign(r"(?:layers|refiner)_\d+_attn_to_[qkv]$", {2520: "OmniGen 2", 2304: "Lumina 2"}, ""),
    _sign(r"(?:^|_)layers_\d+_(?:self|cross)_attn_q_proj$", {}, "ACE-Step 1.5 (or a text encoder)"),
)  # fmt: skip


def guess(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The base model that layers of such names and shapes fit, in words; ``None`` where nothing tells.

    Args:
        shapes: ``(out, in, *kernel)`` of the updates, by name in any dialect.

    Returns:
        For example ``"SDXL (cross attention width 2048)"``.
    """
    layers = [(meaning.names, shape) for name, shape in shapes.items() if (meaning := spellings(name)).owner != "text encoder"]
    if not layers and shapes:
        return _text_encoder(shapes)
    # Of layers that differ in their number alone, one tells as much as all: a whole model has thousands.
    alike = Counter(
        (tuple(_NUMBER.sub("0", name) for name in names), shape[1]) for names, shape in layers if len(shape) > 1
    )
    for sign in _SIGNS:
        widths: Counter[int] = Counter()
        for (names, width), count in alike.items():
            if any(sign.pattern.search(name) for name in names):
                widths[width] += count
        known_width = next((width for width in widths if width in sign.names), None)
        if known_width is not None:
            return f"{sign.names[known_width]} ({sign.width} {known_width})"
        if widths and sign.otherwise:
            return f"{sign.otherwise} ({sign.width} {widths.most_common(1)[0][0]})"
    return None


_BASES = {
    "sd_v1": "SD1.5", "sd_v2": "SD2", "sdxl_base_v1-0": "SDXL", "sdxl_refiner_v1-0": "the SDXL refiner", "sd3": "SD3", "flux1": "Flux.1",
}  # fmt: skip


def base_of(metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The base model in a word or two: as the file says, else as its layers tell; empty where neither does."""
    architecture = metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture", "").partition("/")[0]
    return _BASES.get(architecture, architecture) or re.sub(r" \([a-z ]*width \d+\)$", "", guess(shapes) or "")


def whole_model(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What kind of model a file with such tensors holds; ``None`` where they are no weights of one that is known."""
    return guess({name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")})


def _text_encoder(shapes: Mapping[str, tuple[int, ...]]) -> str:
    widths = {shape[1] for name, shape in shapes.items() if len(shape) > 1 and "q_proj" in name}
    clips = {768: "CLIP-L, as in SD1.5 and SDXL", 1024: "CLIP-H, as in SD2", 1280: "CLIP-G, as in SDXL"}
    named = [clips[width] for width in sorted(widths) if width in clips]
    return f"a text encoder ({'; '.join(named)})" if named else "a text encoder"
