"""LoRA, the baseline of the paper, trained by the same loop to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krona_ops.live.attach import convolution_options
from krona_ops.nearest.kronecker import Nearest
from krona_ops.nearest.low_rank import to_low_rank
from krona_ops.targets.rules import Target
from krona_ops.updates import kron
from krona_ops.updates.delta import Delta, Matrix
from krona_ops.updates.factor import LowRank

from ...settings.groups import AdapterConfig
from .protocol import Call, Computed, IsPlain, Layer, Role, copy, gated


class LoraLayer(Layer):
    """``ΔW = (alpha / rank) · up @ down`` with ``down ~ N(0, 1/rank²)`` and ``up = 0``.

    That is diffusers' LoRA with its ``"gaussian"`` start. A convolution's ``down`` has its kernel, ``up`` is 1 × 1.
    """

    kind = "lora"
    splits = True

    def __init__(self, target: Target, rank: int, alpha: float, rng: torch.Generator) -> None:
        super().__init__()
        sizes = target.sizes
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, sizes.in_features, *sizes.kernel, generator=rng) / rank)
        self.up = nn.Parameter(torch.zeros(sizes.out_features, rank))
        self._computed: Computed | None = None

    @classmethod
    def build(
        cls, target: Target, config: AdapterConfig, rng: torch.Generator, base: Callable[[], Tensor]
    ) -> LoraLayer:
        return cls(target, config.rank, config.alpha, rng)

    def by_role(self) -> Mapping[Role, tuple[nn.Parameter]]:
        return {"random": (self.down,), "zero": (self.up,)}

    def split(self, computed: Callable[[nn.Parameter], Computed]) -> None:
        self._computed = computed(self.up)

    def _up(self) -> Tensor:
        """``up`` as this pass computes with it."""
        return self.up if self._computed is None else self._computed()

    def forward(self, x: Tensor, y: Tensor, convolution: dict[str, object] | None = None) -> Tensor:
        """``y + ΔW x`` in the dtype of ``x``; ``convolution`` holds stride, padding and dilation for a convolution."""
        down, up = self.down.to(x.dtype), self._up().to(x.dtype)
        if convolution is None:
            return y + F.linear(F.linear(x, down), up) * self.scale
        convolve = kron.CONVOLUTIONS[down.ndim - 2]
        hidden = convolve(x, down, **convolution)
        return y + convolve(hidden, up.reshape(*up.shape, *[1] * (down.ndim - 2))) * self.scale

    def call_for(self, module: nn.Module, name: str, is_plain: IsPlain) -> Call:
        options = convolution_options(module, name)

        def call(
            original: Callable[..., Tensor], gate: Tensor | None, x: Tensor, *args: object, **kwargs: object
        ) -> Tensor:
            return self(gated(x, gate), original(x, *args, **kwargs), options)

        return call

    def weigh(self, weight: Tensor) -> Tensor:
        update = (self._up() @ self.down.flatten(1)).view(weight.shape) * self.scale
        return (weight.float() + update).to(weight.dtype)

    def delta(self) -> Matrix:
        return Matrix(LowRank(copy(self.up), copy(self.down)), self.scale)

    @torch.no_grad()
    def begin_at(self, delta: Delta) -> None:
        """Stand where a LoRA of this scale and at most this rank stands.

        Columns that it lacks stay as they were built, random times zero, so that they can learn.
        """
        assert isinstance(delta, Matrix)
        assert isinstance(delta.factor, LowRank)
        rank = delta.factor.down.shape[0]
        self.down[:rank].copy_(delta.factor.down)
        self.up.zero_()
        self.up[:, :rank].copy_(delta.factor.up)

    @classmethod
    def as_it_is(cls, delta: Delta, target: Target, config: AdapterConfig) -> Matrix | None:
        if not isinstance(delta, Matrix) or not isinstance(delta.factor, LowRank):
            return None
        if delta.factor.down.shape[0] > config.rank:
            return None
        scale, up = config.alpha / config.rank, delta.factor.up.float()
        up = up if math.isclose(delta.scale, scale, rel_tol=1e-6) else up * (delta.scale / scale)
        return Matrix(LowRank(up, delta.factor.down.float()), scale)

    @classmethod
    def nearest(cls, delta: Delta, target: Target, config: AdapterConfig) -> Nearest:
        low_rank = to_low_rank(delta, config.rank)
        scaled = cls.as_it_is(low_rank.delta, target, config)
        assert scaled is not None  # a LoRA of at most this rank
        return Nearest(scaled, low_rank.error)
