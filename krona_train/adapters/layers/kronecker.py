"""A Kronecker product, the kind that this pack is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from krona_ops.live.attach import convolution_options
from krona_ops.nearest.kronecker import Nearest, Rearrangement
from krona_ops.targets.rules import Target
from krona_ops.updates import kron
from krona_ops.updates.delta import Delta, Kron
from krona_ops.updates.factor import Full
from krona_ops.updates.kron import Layout
from krona_ops.updates.shapes import KronShape

from ...settings.groups import AdapterConfig
from .kron_linear import KronConvolution, KronLinear, KronUpdate
from .protocol import Call, Computed, IsPlain, Layer, Role, copy, gated
from .scheme import Scheme, choose

EXACT_BYTES = 4
"""Of a number that holds a weight and a small update together."""


class KronLayer(Layer):
    """``ΔW = A ⊗ B`` with ``A`` normal and ``B = 0``, so that training starts at the base model.

    The released DiffuseKronA code starts ``A`` with standard deviation ``1/a1``, and its ``a1`` is our ``out_a``; the
    paper finds this start (normal and zero) among the best (appendix D.2).

    Args:
        init_std: Standard deviation of ``A``; 0 is the released code's.
    """

    kind = "kronecker"
    splits = True

    def __init__(self, sizes: KronShape, layout: Layout, rng: torch.Generator, init_std: float = 0.0) -> None:
        super().__init__()
        self.layout = layout
        self._width = sizes.in_features

        @cache  # of numbers: the sizes would be hashed at each call
        def scheme_for(tokens: int, exact: bool) -> Scheme:
            return choose(sizes, tokens, exact=exact)

        self._scheme_for = scheme_for
        start = torch.randn(sizes.out_a, sizes.in_a, generator=rng)
        self.a = nn.Parameter(start * init_std if init_std else start / sizes.out_a)
        self.b = nn.Parameter(torch.zeros(sizes.out_b, sizes.in_b, *sizes.kernel))
        self._computed: Computed | None = None

    @classmethod
    def build(
        cls, target: Target, config: AdapterConfig, rng: torch.Generator, base: Callable[[], Tensor]
    ) -> KronLayer:
        return cls(target.sizes, config.layout, rng, config.init_std)

    def by_role(self) -> Mapping[Role, tuple[nn.Parameter]]:
        return {"random": (self.a,), "zero": (self.b,)}

    def split(self, computed: Callable[[nn.Parameter], Computed]) -> None:
        self._computed = computed(self.b)

    def _b(self) -> Tensor:
        """``B`` as this pass computes with it."""
        # As an attribute, a module looks for it everywhere else first.
        return self._parameters["b"] if self._computed is None else self._computed()  # type: ignore[return-value]

    def forward(self, x: Tensor, y: Tensor, convolution: dict[str, object] | None = None) -> Tensor:
        """``y + ΔW x`` in the dtype of ``x``; ``convolution`` holds stride, padding and dilation for a convolution."""
        if convolution is None:
            return KronUpdate.apply(y, x, self.a, self._b(), self.layout)
        return y + KronConvolution.apply(x, self.a.to(x.dtype), self._b().to(x.dtype), self.layout, convolution)

    def with_base(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``W x + bias + ΔW x``, for a frozen weight of the dtype of ``x``."""
        scheme = self._scheme_for(x.numel() // self._width, x.dtype.itemsize >= EXACT_BYTES)
        return KronLinear.apply(x, self._parameters["a"], self._b(), weight, bias, self.layout, scheme)

    def call_for(self, module: nn.Module, name: str, is_plain: IsPlain) -> Call:
        options = convolution_options(module, name)

        def call(
            original: Callable[..., Tensor], gate: Tensor | None, x: Tensor, *args: object, **kwargs: object
        ) -> Tensor:
            if gate is None and _is_own(original, module) and is_plain(module):
                assert isinstance(module, nn.Linear)  # what is plain is linear
                parameters = module._parameters
                is_usual = "weight" in parameters and "bias" in parameters  # neither has become something else
                weight = parameters["weight"] if is_usual else module.weight
                bias = parameters["bias"] if is_usual else module.bias
                if weight is not None and _fit(x, weight, bias):
                    return self.with_base(x, weight, bias)
            return self(gated(x, gate), original(x, *args, **kwargs), options)

        return call

    def weigh(self, weight: Tensor) -> Tensor:
        return (weight.float() + kron.materialise(self.a, self._b(), self.layout)).to(weight.dtype)

    def delta(self) -> Kron:
        return Kron(Full(copy(self.a)), Full(copy(self.b)), layout=self.layout)

    @torch.no_grad()
    def begin_at(self, delta: Delta) -> None:
        assert isinstance(delta, Kron)
        self.a.copy_(delta.a.dense())
        self.b.copy_(delta.b.dense())

    @classmethod
    def as_it_is(cls, delta: Delta, target: Target, config: AdapterConfig) -> Kron | None:
        return in_form(delta, target.sizes, config.layout)

    @classmethod
    def nearest(cls, delta: Delta, target: Target, config: AdapterConfig) -> Nearest:
        return Rearrangement(delta, target.sizes, config.layout).nearest(1)


def in_form(delta: Delta, sizes: KronShape, layout: Layout) -> Kron | None:
    """A product of these sizes with its scale in ``B`` and float32; ``None`` for any other update."""
    if not isinstance(delta, Kron) or delta.layout != layout or delta.sizes != sizes:
        return None
    b = delta.b.dense().float()
    return Kron(Full(delta.a.dense().float()), Full(b if delta.scale == 1 else b * delta.scale), layout=layout)


def _is_own(original: Callable[..., Tensor], module: nn.Module) -> bool:
    """Whether nobody else has put something in the place of the class's own method."""
    return getattr(original, "__func__", None) is type(module).forward


def _fit(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether weights can meet ``x`` as they are: nothing has to be cast, moved or dequantised."""
    dtype, device = x.dtype, x.device
    for weight in weights:
        if weight is not None:
            is_tensor = type(weight) in (nn.Parameter, Tensor) and type(weight.data) is Tensor
            if not is_tensor or weight.dtype != dtype or weight.device != device:
                return False
    return True
