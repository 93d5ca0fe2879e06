"""MV-Adapter's files with random weights, and narrow UNets that their condition encoders fit."""

import torch
from safetensors.torch import save_file

WIDE, NARROW = (320, 640, 1280, 1280), (32, 64, 128, 128)
KINDS = {"sd21": ("full_adapter", 8), "sdxl": ("full_adapter_xl", 16)}
"""What diffusers calls the encoder of a family's files, and pixels of its patches along a side."""

_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": NARROW[0], "context_dim": 24, "num_heads": -1,
    "num_head_channels": 16, "use_checkpoint": False, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": True, "use_temporal_attention": False, "transformer_depth_middle": 1,
}  # fmt: skip
_OF_FAMILY = {
    "sd21": {
        "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3,
    },
    "sdxl": {
        "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "num_classes": "sequential", "adm_in_channels": 2816,
        "transformer_depth": [0, 0, 1, 1, 1, 1], "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    },
}  # fmt: skip


def reference(family, channels=NARROW, seed=0, in_channels=6):
    """diffusers' own network of a family, with random weights."""
    from diffusers import T2IAdapter

    kind, patch = KINDS[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = T2IAdapter(in_channels, list(channels), 2, patch, kind)
    return made.requires_grad_(False).eval()


def write(path, network, dtype=torch.float32, **changes):
    """A file as MV-Adapter's: the encoder, and some of the attention's projections beside it.

    Args:
        changes: Tensors by name, ``None`` for none.
    """
    tensors = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    site = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor"
    tensors |= {f"{site}.to_{part}_mv.weight": torch.zeros(4, 4) for part in "qkv"}
    tensors |= changes
    save_file({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def model_of(family):
    """A UNet of the host with the family's blocks, an eighth or a tenth as wide, as a MODEL."""
    import comfy.model_patcher
    import comfy.supported_models

    kind = {"sd21": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[family]
    config = kind({**_UNET, **_OF_FAMILY[family]})
    config.set_inference_dtype(torch.float32, None)
    net = config.get_model({}, "", device=torch.device("cpu"))
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            fan_in = weight[0].numel() if weight.ndim > 1 else 1
            values = torch.randn(weight.shape, generator=rng) / fan_in**0.5
            is_scale = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(1 + 0.1 * values if is_scale else values if weight.ndim > 1 else 0.1 * values)
    return comfy.model_patcher.ModelPatcher(net.eval(), torch.device("cpu"), torch.device("cpu"))


def conditioning(family, seed):
    """A prompt as its encoding."""
    rng = torch.Generator().manual_seed(seed)
    said = {"pooled_output": torch.randn(1, 1280, generator=rng)} if family == "sdxl" else {}
    return [[torch.randn(1, 7, 24, generator=rng), said]]
