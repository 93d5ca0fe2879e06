"""Everything that a node could leave behind: on the shared models, and in the process."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import random
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..inside import Models

Found = dict[str, Any]


def process() -> Found:
    """The state of this process that everybody shares."""
    import comfy.model_management
    import matplotlib
    from PIL import Image

    loggers = {
        name: (logger.level, len(logger.handlers), len(logger.filters), logger.disabled, logger.propagate)
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and (logger.level or logger.handlers or logger.disabled)
    }
    return {
        "torch's random numbers": _digest(torch.get_rng_state().numpy().tobytes()),
        "NumPy's random numbers": _digest(repr([part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()]).encode()),
        "Python's random numbers": _digest(repr(random.getstate()).encode()),
        "whether gradients are recorded": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic algorithms": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "ways of attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()),
        "precision of products": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()),
        "cuDNN's choices": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "working folder": os.getcwd(),
        "environment": dict(os.environ),
        "sys.path": list(sys.path),
        "logging": (logging.root.level, len(logging.root.handlers), loggers),
        "warnings": (warnings.showwarning, len(warnings.filters)),
        "hooks of the interpreter": (sys.excepthook, sys.unraisablehook, sys.displayhook, sys.gettrace(), sys.getprofile()),
        "signals": {name: signal.getsignal(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGXFSZ")},
        "matplotlib": (matplotlib.get_backend(), _digest(repr(sorted(matplotlib.rcParams.items())).encode()), _open_figures()),
        "PIL": (Image.MAX_IMAGE_PIXELS, Image.warnings is warnings),
        "host in training": getattr(comfy.model_management, "in_training", None),
        "file mode of new files": _umask(),
    }  # fmt: skip


def counts() -> dict[str, int]:
    """What may be fewer than before but not more: open files and threads, once what hangs on the exception is gone."""
    gc.collect()
    return {
        "open files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        "threads": threading.active_count(),
    }


def models(watched: Models) -> Found:
    """The models' numbers, and what hangs on them, as the host hands them to whoever uses them next."""
    import comfy.model_management

    parts = {"MODEL": watched.model, "CLIP": watched.clip.patcher, "VAE": watched.vae.patcher}
    states: Found = {}
    with torch.inference_mode():
        for name, patcher in parts.items():
            comfy.model_management.load_models_gpu([patcher])
            net = patcher.model
            states[f"{name}: weights and buffers"] = _values(net.state_dict())
            states[f"{name}: attributes of modules"] = {
                path: frozenset(module.__dict__) for path, module in net.named_modules()
            }
            states[f"{name}: parameters"] = {
                path: (p.requires_grad, p.is_inference(), p.grad is None) for path, p in net.named_parameters()
            }
            states[f"{name}: buffers"] = {path: b.is_inference() for path, b in net.named_buffers()}
            states[f"{name}: training flags"] = {path: module.training for path, module in net.named_modules()}
            states[f"{name}: hooks"] = {path: _hooks(module) for path, module in net.named_modules()}
            states[f"{name}: patcher"] = _patcher(patcher)
        states["a prediction"] = _prediction(watched.model)
    return states


def different(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of what is not as before."""
    return [
        f"{name} changed{_how(before[name], after.get(name))}" for name in before if before[name] != after.get(name)
    ]


def more(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """What there is more of than before."""
    return [f"{after[name]} {name}, {before[name]} before" for name in before if after[name] > before[name]]


def _how(before: Any, after: Any) -> str:
    """Which entries of a table, or both values where they are short."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return f": {', '.join(map(str, keys[:3]))}{' …' if len(keys) > 3 else ''}"
    return f": {before!r:.80} became {after!r:.80}"


def _hooks(module: torch.nn.Module) -> tuple[int, ...]:
    return (
        len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks), "forward" in module.__dict__,
        len(getattr(module, "weight_function", ())), len(getattr(module, "bias_function", ())),
    )  # fmt: skip


def _patcher(patcher: Any) -> dict[str, Any]:
    tables = (
        "patches",
        "object_patches",
        "wrappers",
        "callbacks",
        "injections",
        "attachments",
        "additional_models",
        "hook_patches",
    )
    return {
        **{name: sorted(map(str, getattr(patcher, name, ()))) for name in tables},
        "model_options": sorted(map(str, patcher.model_options)),
        "uuid": str(getattr(patcher, "patches_uuid", "")),
    }


def _prediction(model: Any) -> str:
    rng = torch.Generator().manual_seed(5)
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    x, context = torch.randn(1, 4, 8, 8, generator=rng), torch.randn(1, 77, 768, generator=rng)
    return _digest(model.model.apply_model(x, torch.tensor([1.5]), c_crossattn=context).numpy().tobytes())


def _values(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    return {
        name: zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        if tensor.numel()
        else 0
        for name, tensor in tensors.items()
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _open_figures() -> int:
    return len(sys.modules["matplotlib.pyplot"].get_fignums()) if "matplotlib.pyplot" in sys.modules else 0


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
