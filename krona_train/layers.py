"""The trainable factors of one layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from krona_ops import kron
from krona_ops.delta import Kron
from krona_ops.errors import ConfigError
from krona_ops.factor import Full
from krona_ops.kron import Layout
from krona_ops.targets import Target


class KronLayer(nn.Module):
    """``ΔW = A ⊗ B`` with ``A ~ N(0, 1/out_a²)`` and ``B = 0``, so that training starts at the base model.

    The released DiffuseKronA code starts ``A`` with standard deviation ``1/a1``, and its ``a1`` is our ``out_a``; the
    paper finds this start (normal and zero) among the best (appendix D.2). Factors are float32 whatever the model computes in.
    """

    def __init__(self, target: Target, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        sizes = target.sizes
        self.layout = layout
        self.a = nn.Parameter(torch.randn(sizes.out_a, sizes.in_a, generator=generator) / sizes.out_a)
        self.b = nn.Parameter(torch.zeros(sizes.out_b, sizes.in_b, *sizes.kernel))

    def forward(self, x: Tensor, convolution: dict[str, object] | None = None) -> Tensor:
        """``ΔW x`` in the dtype of ``x``; ``convolution`` holds stride, padding and dilation for a convolution."""
        a, b = self.a.to(x.dtype), self.b.to(x.dtype)
        if convolution is None:
            return kron.apply(a, b, x, self.layout)
        return kron.convolve(a, b, x, self.layout, **convolution)  # type: ignore[arg-type]

    def delta(self) -> Kron:
        """The update as a value, a copy that further training does not change."""
        return Kron(Full(self.a.detach().clone().cpu()), Full(self.b.detach().clone().cpu()), layout=self.layout)


def forward_with(layer: Callable[..., Tensor], module: nn.Module, name: str) -> Callable[..., Tensor]:
    """``forward(original, x, ...)`` of ``module`` with the output of ``layer`` added, for `krona_train.inject`.

    Raises:
        ConfigError: The module is a convolution that a Kronecker product cannot follow (grouped, or padded by reflection).
    """
    options = convolution_options(module, name)
    extra = layer if options is None else partial(layer, convolution=options)

    def forward(original: Callable[..., Tensor], x: Tensor, *args: object, **kwargs: object) -> Tensor:
        return original(x, *args, **kwargs) + extra(x)

    return forward


def convolution_options(module: nn.Module, name: str) -> dict[str, object] | None:
    """Stride, padding and dilation of a convolution; ``None`` for a linear layer.

    Raises:
        ConfigError: The convolution is grouped or padded by anything but zeros.
    """
    if getattr(module, "kernel_size", None) is None:
        return None
    if module.groups != 1 or module.padding_mode != "zeros":
        raise ConfigError(
            f"A convolution with {module.groups} groups and {module.padding_mode} padding cannot be adapted on the fly.",
            layer=name,
            found=(module.groups, module.padding_mode),
            expected="one group, zeros",
            remedy="Leave this layer out with a target rule, or apply the adapter in merge mode.",
        )
    return {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
