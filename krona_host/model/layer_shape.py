"""What a layer of the host is: its shape, and whether it is a plain product."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.ops
from torch import Tensor, nn

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def layer_shape(module: nn.Module) -> tuple[int, ...] | None:
    """``(out, in, *kernel)`` of a linear layer or convolution, quantised or not; ``None`` for anything else."""
    rows, columns = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if rows is not None and columns is not None:
        return (rows, columns)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return tuple(module.weight.shape)
    return None


def weight_of(module: nn.Module) -> Tensor:
    """A layer's weight ``(out, in, *kernel)`` as the host keeps it: a quantised one in its packed form."""
    weight = module.weight
    assert isinstance(weight, Tensor), f"the weight is a {type(weight).__name__}"
    return weight


def vectors_of(name: str, module: nn.Module, is_layer: bool) -> Iterator[tuple[str, int]]:
    """``(name, length)`` of a norm's weight and of the bias of a norm or a layer, in the module's own order.

    The weight goes by ``name``, the bias by ``name.bias``.
    """
    if isinstance(module, _NORMS):
        if getattr(module, "weight", None) is not None and module.weight.ndim == 1:
            yield name, len(module.weight)
    elif not is_layer:
        return
    bias = getattr(module, "bias", None)
    if bias is not None and bias.ndim == 1:
        yield f"{name}.bias", len(bias)


def is_plain(module: nn.Module) -> bool:
    """Whether a linear layer computes ``W x + bias`` by the host's own methods, with its weights as they are.

    With ``comfy_cast_weights`` the host casts and moves them first, which does nothing where they fit ``x``.
    """
    plain = comfy.ops.disable_weight_init.Linear
    is_own = type(module) is nn.Linear or all(
        getattr(type(module), name, None) is getattr(plain, name) for name in ("forward", "forward_comfy_cast_weights")
    )
    is_changed = getattr(module, "weight_function", ()) or getattr(module, "bias_function", ()) or hasattr(module, "_v")
    return is_own and not is_changed
