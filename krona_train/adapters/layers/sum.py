"""A sum of Kronecker products, of equal or of different sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from krona_ops.live.attach import convolution_options
from krona_ops.nearest.kronecker import Nearest, Rearrangement
from krona_ops.targets.rules import Target
from krona_ops.updates.contraction import norm
from krona_ops.updates.delta import Delta, Sum
from krona_ops.updates.shapes import KronShape

from ...settings.groups import AdapterConfig
from .kronecker import KronLayer, in_form
from .protocol import Call, Computed, IsPlain, Layer, Role, gated

NOISE = 1e-6
"""Share of an update's norm below which what is left of it is the rounding of float32."""


class SumLayer(Layer):
    """``ΔW = Σ Aᵢ ⊗ Bᵢ``, each started as a product alone is.

    A rule names the sizes of the first product in ``factors``, and those of the others in ``terms``.
    """

    kind = "sum"
    splits = True

    def __init__(self, products: Sequence[KronLayer]) -> None:
        super().__init__()
        self._products = tuple(products)
        self.parts = nn.ModuleList(products)  # by this name in states: factors.<layer>.parts.0.a

    @classmethod
    def build(cls, target: Target, config: AdapterConfig, rng: torch.Generator, base: Callable[[], Tensor]) -> SumLayer:
        return cls([KronLayer(sizes, config.layout, rng, config.init_std) for sizes in sizes_of(target)])

    def by_role(self) -> Mapping[Role, tuple[nn.Parameter, ...]]:
        return {"random": tuple(each.a for each in self._products), "zero": tuple(each.b for each in self._products)}

    def split(self, computed: Callable[[nn.Parameter], Computed]) -> None:
        for product in self._products:
            product.split(computed)

    def forward(self, x: Tensor, y: Tensor, convolution: dict[str, object] | None = None) -> Tensor:
        """``y + ΔW x`` in the dtype of ``x``; ``convolution`` holds stride, padding and dilation for a convolution."""
        for product in self._products:
            y = product(x, y, convolution)
        return y

    def call_for(self, module: nn.Module, name: str, is_plain: IsPlain) -> Call:
        options = convolution_options(module, name)

        def call(
            original: Callable[..., Tensor], gate: Tensor | None, x: Tensor, *args: object, **kwargs: object
        ) -> Tensor:
            return self(gated(x, gate), original(x, *args, **kwargs), options)

        return call

    def weigh(self, weight: Tensor) -> Tensor:
        for product in self._products:
            weight = product.weigh(weight)
        return weight

    def delta(self) -> Sum:
        return Sum(tuple(product.delta() for product in self._products))

    def begin_at(self, delta: Delta) -> None:
        """Stand where a sum of at most as many products stands.

        Products that it lacks stay as they were built, each random times zero: with one ``A`` in common they would
        learn the same.
        """
        for product, term in zip(self._products, _terms(delta), strict=False):
            product.begin_at(term)

    @classmethod
    def as_it_is(cls, delta: Delta, target: Target, config: AdapterConfig) -> Delta | None:
        return _summed(_terms(delta), sizes_of(target), config)

    @classmethod
    def nearest(cls, delta: Delta, target: Target, config: AdapterConfig) -> Nearest:
        """The best sum where all sizes are equal (Eckart and Young 1936).

        Else each product in turn from what the ones before it left; none more once that is rounding.
        """
        sizes, size = sizes_of(target), norm(delta)
        if len(set(sizes)) == 1:
            best = Rearrangement(delta, sizes[0], config.layout).nearest(len(sizes))
            terms, error = _terms(best.delta), best.error
        else:
            terms, rest = (), delta
            for each in sizes:
                if terms and norm(rest) <= NOISE * size:
                    break
                terms = (*terms, Rearrangement(rest, each, config.layout).nearest(1).delta)
                rest = Sum((delta, *(term.scaled(-1.0) for term in terms)))
            error = norm(rest) / size if size else 0.0
        summed = _summed(terms, sizes, config)
        assert summed is not None  # they were made in these sizes
        return Nearest(summed, error)


def sizes_of(target: Target) -> tuple[KronShape, ...]:
    """The sizes of a target's products; two alike where the rule names one."""
    return (target.sizes, *(target.more or (target.sizes,)))


def _terms(delta: Delta) -> tuple[Delta, ...]:
    return delta.terms if isinstance(delta, Sum) else (delta,)


def _summed(terms: Sequence[Delta], sizes: Sequence[KronShape], config: AdapterConfig) -> Delta | None:
    """Products of the first of these sizes as one update, a single one as itself; ``None`` where they are no such
    products."""
    products = [in_form(term, each, config.layout) for term, each in zip(terms, sizes, strict=False)]
    whole = tuple(product for product in products if product is not None)
    if len(whole) < len(terms):
        return None
    return whole[0] if len(whole) == 1 else Sum(whole)
