"""The real host in a benchmark's own process, on the CPU, with this pack in it as a custom node.

Runs where ``COMFYUI_PATH`` names a ComfyUI: under ``python3 tools/host.py run``. Nothing is imported before `start` is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACK = "krona_pack"
"""What the pack is called here: `nodes` alone is the host's module."""


def start() -> Any:
    """Import the host, and the pack as the host does it.

    Returns:
        The host's package ``comfy``, with ``comfy.sd`` and ``comfy.model_management`` in it.
    """
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    options = importlib.import_module("comfy.cli_args").args
    options.cpu = True
    options.use_pytorch_cross_attention = True  # the host's choice for CPUs depends on how much memory is free at the moment
    for module in ("comfy.model_management", "comfy.sd", "comfy.utils"):
        importlib.import_module(module)
    logging.getLogger().setLevel(logging.WARNING)
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    if spec is None or spec.loader is None:
        raise SystemExit(f"{ROOT} holds no pack.")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    spec.loader.exec_module(pack)
    return sys.modules["comfy"]


def pack_module(name: str) -> Any:
    """A module of the pack that imports the host, such as ``"nodes.host.patch"``."""
    return importlib.import_module(f"{PACK}.{name}")


def small_sd15() -> Any:
    """A ``MODEL`` of SD1.5's class with few layers and random weights, loaded as a loader node does it."""
    from tools import tiny_models

    file = str(tiny_models.cached("sd15", layout="shaped", clip=False, vae=False))
    load = sys.modules["comfy.sd"].load_checkpoint_guess_config
    with torch.inference_mode():
        return load(file, output_vae=False, output_clip=False)[0]


def attention_layers(model: Any) -> dict[str, tuple[int, int]]:
    """Name to ``(out, in)`` of the attention projections of a ``MODEL``."""
    from krona_ops.names import projection

    return {
        name: (module.weight.shape[0], module.weight.shape[1])
        for name, module in model.model.named_modules()
        if isinstance(module, torch.nn.Linear) and projection(name) is not None
    }
