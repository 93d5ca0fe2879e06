"""The real host in a benchmark's own process.

Runs where ``COMFYUI_PATH`` names a ComfyUI: under ``python3 tools/host.py run``.
Nothing is imported before `start` is called.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import torch

SDXL = {
    "use_checkpoint": False, "image_size": 32, "out_channels": 4, "use_spatial_transformer": True, "legacy": False, "num_classes": "sequential",
    "adm_in_channels": 2816, "in_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 10, 10],
    "channel_mult": [1, 2, 4], "transformer_depth_middle": 10, "use_linear_in_transformer": True, "context_dim": 2048, "num_head_channels": 64,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
"""The UNet of SDXL as the host detects it."""
SDXL_NARROW = {**SDXL, "model_channels": 64, "transformer_depth": [0, 0, 1, 1, 1, 1], "transformer_depth_middle": 1,
               "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1]}  # fmt: skip
"""The same in small, to try a benchmark without a GPU."""


def start(*, cpu: bool = True, its_attention: bool = False) -> Any:
    """Import the host.

    Args:
        cpu: Whether the host computes on the CPU even where there is a GPU.
        its_attention: Whether the host attends as it chooses itself, which on a CPU depends on how much memory is free
            at the moment; otherwise it takes PyTorch's.

    Returns:
        The host's package ``comfy``, with ``comfy.sd`` and ``comfy.model_management`` in it.
    """
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    options = importlib.import_module("comfy.cli_args").args
    options.cpu = cpu
    options.use_pytorch_cross_attention = not its_attention
    for module in ("comfy.model_management", "comfy.sd", "comfy.utils"):
        importlib.import_module(module)
    logging.getLogger().setLevel(logging.WARNING)
    return sys.modules["comfy"]


def small_sd15(*, tiny: bool = False) -> Any:
    """A ``MODEL`` of SD1.5's class with few layers and random weights, loaded as a loader node does it.

    Args:
        tiny: Whether it has as few layers as the host takes, for a rehearsal.
    """
    from tools import tiny_models

    layout = "minimal" if tiny else "shaped"
    file = str(tiny_models.cached("sd15", layout=layout, clip=False, vae=False))
    load = sys.modules["comfy.sd"].load_checkpoint_guess_config
    with torch.inference_mode():
        return load(file, output_vae=False, output_clip=False)[0]


def sdxl(narrow: bool = False, *, disable_dynamic: bool = True) -> Any:
    """A ``MODEL`` of SDXL's class with random weights, bfloat16 on a GPU and float32 elsewhere.

    Args:
        disable_dynamic: The host gives it when it asks for the model once more, as its training node does.
    """
    from comfy import model_management, model_patcher, supported_models

    device = model_management.get_torch_device()
    config = supported_models.SDXL(dict(SDXL_NARROW if narrow else SDXL))
    config.set_inference_dtype(torch.float32 if device.type == "cpu" else torch.bfloat16, None)
    with torch.no_grad():
        net = config.get_model({}, "", device=device)
        for weight in net.diffusion_model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
            else:
                weight.fill_(0.5)  # biases and norms
    patcher = model_patcher.ModelPatcher(net, load_device=device, offload_device=device)
    patcher.cached_patcher_init = (sdxl, (narrow,))
    return patcher


def attention_layers(model: Any) -> dict[str, tuple[int, int]]:
    """Name to ``(out, in)`` of the attention projections of a ``MODEL``."""
    from krona_ops.names.spellings import projection

    return {
        name: (module.weight.shape[0], module.weight.shape[1])
        for name, module in model.model.named_modules()
        if isinstance(module, torch.nn.Linear) and projection(name) is not None
    }
