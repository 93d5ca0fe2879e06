"""Updates of norms beside the norm: its output gains what another weight, or another bias, would have made of it.

For the weights ``g`` and ``b`` of a norm ``g·n(x) + b`` that is ``Δg·n(x)`` and ``Δb``. In a model whose weights are all
in float8 that is exact, where adding to the weights rounds most of a small change away.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krona_ops.updates.delta import Delta

NORMS = (nn.GroupNorm, nn.LayerNorm)


def is_vector_of_norm(key: str, delta: Delta, module: nn.Module) -> bool:
    """Whether an update is one of a norm's weight or bias that can run beside it.

    Args:
        key: The weight's, ``.weight`` or ``.bias`` included.
    """
    return isinstance(module, NORMS) and len(delta.shape) == 1 and key.endswith((".weight", ".bias"))


class NormUpdate:
    """One update of a norm, with its strength, on its device.

    Args:
        delta: ``(channels,)``.
        is_bias: Whether it is one of the bias.
    """

    def __init__(self, delta: Delta, module: nn.Module, is_bias: bool) -> None:
        self._delta, self._module, self._is_bias = delta, module, is_bias
        self._ready: dict[torch.dtype, Tensor] = {}

    def add(self, y: Tensor, x: Tensor, *, is_ours: bool) -> Tensor:
        """``y + Δg·n(x)``, or ``y + Δb``; ``y`` and ``x`` are ``(batch, channels, *space)`` for group norms,
        ``(..., channels)`` for others."""
        change = self._for(y.dtype)
        if isinstance(self._module, nn.GroupNorm):
            change = change.view(-1, *(1,) * (y.ndim - 2))
        change = change if self._is_bias else change * self._normalised(x)
        return y.add_(change) if is_ours else y + change

    def _normalised(self, x: Tensor) -> Tensor:
        module = self._module
        if isinstance(module, nn.GroupNorm):
            return F.group_norm(x, module.num_groups, eps=module.eps)
        assert isinstance(module, nn.LayerNorm), f"a {type(module).__name__} is no norm that is known here"
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)

    def _for(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._ready:
            with torch.inference_mode(False):
                self._ready[dtype] = self._delta.formed().to(dtype)
        return self._ready[dtype]
