"""Files laid out as ResAdapter's authors publish them, with random numbers: a LoRA in float16, values of norms in float32."""

import torch

SD15, SDXL = (320, 640, 1280, 1280), (320, 640, 1280)
"""The widths of the levels."""


def norm_shapes(widths, residual=2):
    """``{diffusers' name: channels}`` of the norms of a UNet's residual blocks."""
    shapes, skips, channels = {}, [widths[0]], widths[0]
    for level, width in enumerate(widths):
        for n in range(residual):
            shapes |= {f"down_blocks.{level}.resnets.{n}.norm1": channels, f"down_blocks.{level}.resnets.{n}.norm2": width}
            channels = width
            skips.append(channels)
        if level < len(widths) - 1:
            skips.append(channels)
    for n in range(2):
        shapes |= {f"mid_block.resnets.{n}.norm{k}": channels for k in (1, 2)}
    for level, width in enumerate(reversed(widths)):
        for n in range(residual + 1):
            shapes[f"up_blocks.{level}.resnets.{n}.norm1"] = channels + skips.pop()
            shapes[f"up_blocks.{level}.resnets.{n}.norm2"] = channels = width
    return shapes


def norm_file(shapes, seed=0, dtype=torch.float32, around=None):
    """``diffusion_pytorch_model.safetensors``: what the norms are in the end.

    Args:
        around: The base's own values by diffusers' name, ``.weight`` or ``.bias`` included, that these are near.
    """
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, channels in shapes.items():
        for end, usual in ((".weight", 1.0), (".bias", 0.0)):
            base = torch.full((channels,), usual) if around is None else around[f"{name}{end}"].float()
            tensors[f"{name}{end}"] = (base + 0.3 * torch.randn(channels, generator=rng)).to(dtype)
    return tensors


def lora_file(widths, rank=16, alpha=8.0, seed=1, dtype=torch.float16):
    """``pytorch_lora_weights.safetensors``: the convolutions between the levels."""
    rng = torch.Generator().manual_seed(seed)
    downs = [(f"down_blocks_{n}_downsamplers_0_conv", width) for n, width in enumerate(widths[:-1])]
    ups = [(f"up_blocks_{n}_upsamplers_0_conv", width) for n, width in enumerate(widths[:0:-1])]
    tensors = {}
    for name, width in downs + ups:
        tensors[f"lora_unet_{name}.lora_down.weight"] = (torch.randn(rank, width, 3, 3, generator=rng) * 0.05).to(dtype)
        tensors[f"lora_unet_{name}.lora_up.weight"] = (torch.randn(width, rank, 1, 1, generator=rng) * 0.05).to(dtype)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return tensors
