"""The self-attentions of a UNet."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.ldm.modules.attention
from torch import nn


def attention_sites(net: nn.Module) -> Iterator[tuple[str, str, str, str, str, str, int]]:
    """The self-attentions of a UNet's transformers, in the order of their modules.

    Other models have none, because their attention is one with that to the prompt.

    Yields:
        Names of the attention, of the norm whose output it reads, of its q, k, v and out; and its number of heads.
    """
    for name, module in net.named_modules(prefix="diffusion_model"):
        if isinstance(module, comfy.ldm.modules.attention.BasicTransformerBlock) and not module.disable_self_attn:
            attention = f"{name}.attn1"
            parts = (f"{attention}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0"))
            yield attention, f"{name}.norm1", *parts, module.attn1.heads
