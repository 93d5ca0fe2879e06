"""The trainable factors of one layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krona_ops.live.attach import ForwardPatch, convolution_options
from krona_ops.targets.rules import Target
from krona_ops.updates import kron
from krona_ops.updates.delta import Kron, Matrix
from krona_ops.updates.factor import Full, LowRank
from krona_ops.updates.kron import Layout

from ..config import AdapterConfig
from .kron_linear import KronConvolution, KronLinear, KronUpdate
from .scheme import choose

EXACT_BITS = 32
"""Of a number that holds a weight and a small update together."""


class KronLayer(nn.Module):
    """``ΔW = A ⊗ B`` with ``A`` normal and ``B = 0``, so that training starts at the base model.

    The released DiffuseKronA code starts ``A`` with standard deviation ``1/a1``, and its ``a1`` is our ``out_a``; the
    paper finds this start (normal and zero) among the best (appendix D.2). Factors are float32 whatever the model computes in.

    Args:
        init_std: Standard deviation of ``A``; 0 is the released code's.
    """

    def __init__(self, target: Target, layout: Layout, generator: torch.Generator, init_std: float = 0.0) -> None:
        super().__init__()
        sizes = target.sizes
        self.layout = layout
        self._sizes = sizes
        start = torch.randn(sizes.out_a, sizes.in_a, generator=generator)
        self.a = nn.Parameter(start * init_std if init_std else start / sizes.out_a)
        self.b = nn.Parameter(torch.zeros(sizes.out_b, sizes.in_b, *sizes.kernel))

    def forward(self, x: Tensor, y: Tensor, convolution: dict[str, object] | None = None) -> Tensor:
        """``y + ΔW x`` in the dtype of ``x``; ``convolution`` holds stride, padding and dilation for a convolution."""
        if convolution is None:
            return KronUpdate.apply(y, x, self.a, self.b, self.layout)
        return y + KronConvolution.apply(x, self.a.to(x.dtype), self.b.to(x.dtype), self.layout, convolution)

    def with_base(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``W x + bias + ΔW x``, for a frozen weight of the dtype of ``x``."""
        scheme = choose(self._sizes, x.shape[:-1].numel(), exact=torch.finfo(x.dtype).bits >= EXACT_BITS)
        return KronLinear.apply(x, self.a, self.b, weight, bias, self.layout, scheme)

    def weigh(self, weight: Tensor) -> Tensor:
        """``W + ΔW`` in the dtype of the weight ``(out, in, *kernel)``, with gradients for the factors; for code that multiplies with the weight itself."""
        return (weight.float() + kron.materialise(self.a, self.b, self.layout)).to(weight.dtype)

    def delta(self) -> Kron:
        """The update as a value, a copy that further training does not change."""
        return Kron(Full(_copy(self.a)), Full(_copy(self.b)), layout=self.layout)

    @torch.no_grad()
    def begin_at(self, delta: Kron) -> None:
        """Stand where an update of this layer's own form stands (`krona_train.adapters.start`)."""
        self.a.copy_(delta.a.dense())
        self.b.copy_(delta.b.dense())

    def random_and_zero(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The factor that starts random and the one that starts at zero."""
        return self.a, self.b


class LoraLayer(nn.Module):
    """``ΔW = (alpha / rank) · up @ down`` with ``down ~ N(0, 1/rank²)`` and ``up = 0``: diffusers' LoRA (``"gaussian"`` start).

    The baseline of the paper, trained by the same loop to compare with. A convolution's ``down`` has its kernel, ``up`` is 1 × 1.
    """

    def __init__(self, target: Target, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        sizes = target.sizes
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, sizes.in_features, *sizes.kernel, generator=generator) / rank)
        self.up = nn.Parameter(torch.zeros(sizes.out_features, rank))

    def forward(self, x: Tensor, y: Tensor, convolution: dict[str, object] | None = None) -> Tensor:
        """``y + ΔW x`` in the dtype of ``x``; ``convolution`` holds stride, padding and dilation for a convolution."""
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if convolution is None:
            return y + F.linear(F.linear(x, down), up) * self.scale
        convolve = kron.CONVOLUTIONS[down.ndim - 2]
        hidden = convolve(x, down, **convolution)  # type: ignore[arg-type]
        return y + convolve(hidden, up.reshape(*up.shape, *[1] * (down.ndim - 2))) * self.scale

    def weigh(self, weight: Tensor) -> Tensor:
        """As `KronLayer.weigh`."""
        update = (self.up @ self.down.flatten(1)).view(weight.shape) * self.scale
        return (weight.float() + update).to(weight.dtype)

    def delta(self) -> Matrix:
        """The update as a value, a copy that further training does not change."""
        return Matrix(LowRank(_copy(self.up), _copy(self.down)), self.scale)

    @torch.no_grad()
    def begin_at(self, delta: Matrix) -> None:
        """Stand where a LoRA of this scale and at most this rank stands; columns that it lacks stay random times zero."""
        assert isinstance(delta.factor, LowRank)
        rank = delta.factor.down.shape[0]
        self.down[:rank].copy_(delta.factor.down)
        self.up.zero_()
        self.up[:, :rank].copy_(delta.factor.up)

    def random_and_zero(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The factor that starts random and the one that starts at zero."""
        return self.down, self.up


Layer = KronLayer | LoraLayer
"""What can be trained."""


def build_layer(target: Target, config: AdapterConfig, generator: torch.Generator) -> Layer:
    """Fresh factors for one target."""
    if config.kind == "lora":
        return LoraLayer(target, config.rank, config.alpha, generator)
    return KronLayer(target, config.layout, generator, config.init_std)


class Switch:
    """Turns all layers of an adapter off for a while: the same model without it, and no second copy."""

    def __init__(self) -> None:
        self.is_on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the layers add nothing."""
        before, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = before


def _copy(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().clone().cpu()


def forward_with(
    layer: Layer,
    module: nn.Module,
    name: str,
    switch: Switch | None = None,
    is_plain: Callable[[nn.Module], bool] = lambda module: type(module) is nn.Linear,
) -> Callable[..., Tensor]:
    """``forward(original, x, ...)`` of ``module`` with the output of ``layer`` added, for `krona_ops.live.attach`.

    Args:
        is_plain: Whether a linear layer is nothing but ``W x + bias``, so that base and update may be computed as one.

    Raises:
        ConfigError: The module is a convolution that a Kronecker product cannot follow (grouped, or padded by reflection).
    """
    options = convolution_options(module, name)
    as_one = layer.with_base if isinstance(layer, KronLayer) else None

    # A model calls this hundreds of times in a step, and a GPU waits for it: everything is looked up once.
    def forward(original: Callable[..., Tensor], x: Tensor, *args: object, **kwargs: object) -> Tensor:
        if switch is not None and not switch.is_on:
            return original(x, *args, **kwargs)
        if as_one is not None and _is_own(original, module) and is_plain(module):
            weight, bias = module.weight, module.bias
            if _fits(weight, x) and (bias is None or _fits(bias, x)):
                return as_one(x, weight, bias)
        return layer(x, original(x, *args, **kwargs), options)

    return forward


def patch_with(
    layer: Layer,
    module: nn.Module,
    name: str,
    switch: Switch | None = None,
    is_plain: Callable[[nn.Module], bool] = lambda module: type(module) is nn.Linear,
) -> ForwardPatch:
    """``module`` with the update of ``layer``, however it is used: called, or by its weight. Arguments and errors as in `forward_with`."""

    def weigh(weight: Tensor) -> Tensor:
        return weight if switch is not None and not switch.is_on else layer.weigh(weight)

    return ForwardPatch(module, forward_with(layer, module, name, switch, is_plain), weigh)


def _is_own(original: Callable[..., Tensor], module: nn.Module) -> bool:
    """Whether nobody else has put something in the place of the class's own method."""
    return getattr(original, "__func__", None) is type(module).forward


def _fits(weight: Tensor, x: Tensor) -> bool:
    """Whether a weight can meet ``x`` as it is: nothing has to be cast, moved or dequantised."""
    is_tensor = type(weight) in (nn.Parameter, Tensor) and type(weight.data) is Tensor
    return is_tensor and weight.dtype == x.dtype and weight.device == x.device
