"""What a layer of the host is: its shape, and whether it is a plain product."""

from __future__ import annotations

import comfy.ops
from torch import nn


def layer_shape(module: nn.Module) -> tuple[int, ...] | None:
    """``(out, in, *kernel)`` of a linear layer or convolution of the host, quantised or not; ``None`` for anything else."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return (module.out_features, module.in_features)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return tuple(module.weight.shape)
    return None


def is_plain(module: nn.Module) -> bool:
    """Whether a linear layer computes ``W x + bias`` by the host's own, unchanged methods, with nothing done to its weights on the way.

    With ``comfy_cast_weights`` the host casts and moves them first, which does nothing where they fit ``x``.
    """
    plain = comfy.ops.disable_weight_init.Linear
    is_own = type(module) is nn.Linear or all(
        getattr(type(module), name, None) is getattr(plain, name) for name in ("forward", "forward_comfy_cast_weights")
    )
    is_changed = getattr(module, "weight_function", ()) or getattr(module, "bias_function", ()) or hasattr(module, "_v")
    return is_own and not is_changed
