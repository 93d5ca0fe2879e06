"""Names of layers: what the pack calls them, and what a name says about the layer."""

from __future__ import annotations

import re
from typing import Literal, NewType

LayerName = NewType("LayerName", str)
"""A module's path as the host's state dict spells it, without ``.weight``: ``diffusion_model.input_blocks.1.1.…attn1.to_q``."""

Projection = Literal["q", "k", "v", "qkv", "kv", "out"]
"""What an attention layer computes: one of its inputs, several fused into one weight, or its output."""

_LEAVES: dict[Projection, str] = {
    "q": r"to_q|q|q_proj|wq|q_linear|query|add_q_proj|to_add_q|linear_q|w1q|w2q|img_attn_q|txt_attn_q|q_norm_proj",
    "k": r"to_k|k|k_proj|wk|k_linear|key|add_k_proj|to_add_k|linear_k|w1k|w2k|k_img|img_attn_k|txt_attn_k",
    "v": r"to_v|v|v_proj|wv|v_linear|value|add_v_proj|to_add_v|linear_v|w1v|w2v|v_img|img_attn_v|txt_attn_v",
    "qkv": r"qkv|qkv_proj|to_qkv|add_qkv_proj|qkv_x|qkv_y|Wqkv|in_proj|query_key_value|img_attn_qkv|txt_attn_qkv",
    "kv": r"kv|kv_proj|to_kv|kv_linear|kv_y",
    "out": r"to_out|to_out\.0|out|out_proj|o|o_proj|wo|proj|proj_x|proj_y|to_add_out|out_layer|dense|w1o|w2o|img_attn_proj|txt_attn_proj|output_proj",
}
_PROJECTION = {kind: re.compile(rf"(?:^|\.)(?:{leaves})$") for kind, leaves in _LEAVES.items()}
_ATTENTION = re.compile(r"(?:^|[._])(?:\w*attn\w*|\w*attention\w*)(?=[._])", re.IGNORECASE)
# Flux-type single blocks compute q, k, v and the MLP's first half in one weight, the output and its second half in another.
_FUSED_BLOCK: dict[re.Pattern[str], Projection] = {
    re.compile(r"(?:^|\.)single_blocks\.\d+\.linear1$"): "qkv",
    re.compile(r"(?:^|\.)single_blocks\.\d+\.linear2$"): "out",
}


def projection(name: str) -> Projection | None:
    """Which projection of an attention a layer is, told by its name alone; ``None`` where it is none."""
    for pattern, kind in _FUSED_BLOCK.items():
        if pattern.search(name):
            return kind
    if not _ATTENTION.search(name):
        return None
    return next((kind for kind, pattern in _PROJECTION.items() if pattern.search(name)), None)
