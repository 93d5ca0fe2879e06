"""The weight itself, as full fine-tuning moves it (Ruiz et al. 2022: DreamBooth as published)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from krona_ops.targets.rules import Target
from krona_ops.updates.delta import Delta, Matrix
from krona_ops.updates.factor import Full

from ...settings.groups import AdapterConfig
from .protocol import Call, IsPlain, Role, copy, gated, standing_in
from .whole import WholeLayer


class FullLayer(WholeLayer):
    """``W'`` in the place of ``W``, of any shape, started at it; the update is ``W' − W``.

    A weight decay draws it to zero, not to the base model.

    Args:
        base: ``W``, or a bias; it must stay as it is for as long as this is trained.
    """

    kind = "full"
    roles = frozenset({"weight"})

    def __init__(self, target: Target, base: Tensor) -> None:
        super().__init__(target)
        self._base = base
        self.value = nn.Parameter(base.detach().float().clone())

    @classmethod
    def build(
        cls, target: Target, config: AdapterConfig, rng: torch.Generator, base: Callable[[], Tensor]
    ) -> FullLayer:
        return cls(target, base())

    def by_role(self) -> Mapping[Role, tuple[nn.Parameter]]:
        return {"weight": (self.value,)}

    def call_for(self, module: nn.Module, name: str, is_plain: IsPlain) -> Call:
        which = "bias" if self._is_bias else "weight"

        def call(
            original: Callable[..., Tensor], gate: Tensor | None, x: Tensor, *args: object, **kwargs: object
        ) -> Tensor:
            held = module._parameters[which]
            assert held is not None  # it was taken from there
            with standing_in(module, which, self.value.to(held.dtype)):
                y = original(x, *args, **kwargs)
            if gate is None:
                return y
            without = original(x, *args, **kwargs)
            return without + gated(y - without, gate)

        return call

    def weigh(self, weight: Tensor) -> Tensor:
        return weight if self._is_bias else self.value.to(weight.dtype)

    def delta(self) -> Matrix:
        return Matrix(Full(copy(self.value) - copy(self._base).float()))

    @torch.no_grad()
    def begin_at(self, delta: Delta) -> None:
        self.value.copy_(self._base.to(self.value) + delta.dense().to(self.value))
