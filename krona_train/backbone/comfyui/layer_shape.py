"""The shape of a layer of the host."""

from __future__ import annotations

from torch import nn


def layer_shape(module: nn.Module) -> tuple[int, ...] | None:
    """``(out, in, *kernel)`` of a linear layer or convolution of the host, quantised or not; ``None`` for anything else."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return (module.out_features, module.in_features)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return tuple(module.weight.shape)
    return None
