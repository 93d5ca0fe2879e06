"""The difference to a weight of any shape: norms, biases, and matrices that no factors shall hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krona_ops.live.attach import convolution_options
from krona_ops.targets.rules import Target
from krona_ops.updates import kron
from krona_ops.updates.delta import Delta, Matrix
from krona_ops.updates.factor import Full

from ...settings.groups import AdapterConfig
from .protocol import Call, IsPlain, Role, copy, gated, standing_in
from .whole import WholeLayer


class DifferenceLayer(WholeLayer):
    """``ΔW`` itself, ``target.shape``, started at zero; a weight decay draws it back to the base model.

    In a file it is the host's ``diff``, and ``diff_b`` of a bias.
    """

    kind = "difference"
    roles = frozenset({"zero"})

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.value = nn.Parameter(torch.zeros(target.shape))

    @classmethod
    def build(
        cls, target: Target, config: AdapterConfig, rng: torch.Generator, base: Callable[[], Tensor]
    ) -> DifferenceLayer:
        return cls(target)

    def by_role(self) -> Mapping[Role, tuple[nn.Parameter]]:
        return {"zero": (self.value,)}

    def call_for(self, module: nn.Module, name: str, is_plain: IsPlain) -> Call:
        update = self._update_of(module, name)

        def call(
            original: Callable[..., Tensor], gate: Tensor | None, x: Tensor, *args: object, **kwargs: object
        ) -> Tensor:
            y = original(x, *args, **kwargs)
            return y + gated(update(x).expand_as(y), gate)

        return call

    def _update_of(self, module: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
        """From ``x`` to what the difference adds to the module's output.

        Every kind of module here is linear in its weight: ``f(x; W + ΔW) = f(x; W) + f(x; ΔW)`` with the bias left out
        of the second.
        """
        value = self.value
        if self._is_bias:
            is_second = _has_channels_second(module)
            return lambda x: value.to(x.dtype).view(-1, *[1] * (x.ndim - 2 if is_second else 0))
        if value.ndim > 1:
            options = convolution_options(module, name)
            if options is None:
                return lambda x: F.linear(x, value.to(x.dtype))
            convolve = kron.CONVOLUTIONS[value.ndim - 2]
            return lambda x: convolve(x, value.to(x.dtype), **options)
        forward = type(module).forward

        def update(x: Tensor) -> Tensor:
            with standing_in(module, "weight", value.to(x.dtype)):
                if module._parameters.get("bias") is None:
                    return forward(module, x)
                with standing_in(module, "bias", None):
                    return forward(module, x)

        return update

    def weigh(self, weight: Tensor) -> Tensor:
        return weight if self._is_bias else (weight.float() + self.value).to(weight.dtype)

    def delta(self) -> Matrix:
        return Matrix(Full(copy(self.value)))

    @torch.no_grad()
    def begin_at(self, delta: Delta) -> None:
        self.value.copy_(delta.dense())


def _has_channels_second(module: nn.Module) -> bool:
    """Whether the channels of a module's output stand behind the batch, instead of last."""
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.GroupNorm)
