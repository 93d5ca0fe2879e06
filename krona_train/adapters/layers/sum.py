"""A sum of Kronecker products, of equal or of different sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from krona_ops.live.attach import convolution_options
from krona_ops.nearest.kronecker import Nearest, Rearrangement
from krona_ops.targets.rules import Target
from krona_ops.updates.contraction import norm
from krona_ops.updates.delta import Delta, Kron, Sum
from krona_ops.updates.factor import Full
from krona_ops.updates.shapes import KronShape

from ...settings.groups import AdapterConfig
from .kronecker import KronLayer, in_form
from .protocol import Call, IsPlain, Layer, Role, gated


class SumLayer(Layer):
    """``ΔW = Σ Aᵢ ⊗ Bᵢ``, each started as a product alone is. A rule names the sizes: ``factors``, and in ``terms`` those of the others."""

    kind = "sum"

    def __init__(self, parts: Sequence[KronLayer]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    @classmethod
    def build(cls, target: Target, config: AdapterConfig, rng: torch.Generator, base: Callable[[], Tensor]) -> SumLayer:
        return cls([KronLayer(sizes, config.layout, rng, config.init_std) for sizes in sizes_of(target)])

    def by_role(self) -> Mapping[Role, tuple[nn.Parameter, ...]]:
        return {"random": tuple(part.a for part in self.parts), "zero": tuple(part.b for part in self.parts)}

    def forward(self, x: Tensor, y: Tensor, convolution: dict[str, object] | None = None) -> Tensor:
        """``y + ΔW x`` in the dtype of ``x``; ``convolution`` holds stride, padding and dilation for a convolution."""
        for part in self.parts:
            y = part(x, y, convolution)
        return y

    def call_for(self, module: nn.Module, name: str, is_plain: IsPlain) -> Call:
        options = convolution_options(module, name)

        def call(original: Callable[..., Tensor], gate: Tensor | None, x: Tensor, *args: object, **kwargs: object) -> Tensor:
            return self(gated(x, gate), original(x, *args, **kwargs), options)

        return call

    def weigh(self, weight: Tensor) -> Tensor:
        for part in self.parts:
            weight = part.weigh(weight)
        return weight

    def delta(self) -> Sum:
        return Sum(tuple(part.delta() for part in self.parts))

    def begin_at(self, delta: Delta) -> None:
        assert isinstance(delta, Sum)
        for part, term in zip(self.parts, delta.terms, strict=True):
            part.begin_at(term)

    @classmethod
    def as_it_is(cls, delta: Delta, target: Target, config: AdapterConfig) -> Sum | None:
        terms, sizes = delta.terms if isinstance(delta, Sum) else (delta,), sizes_of(target)
        if len(terms) != len(sizes):
            return None
        found = [in_form(term, each, config.layout) for term, each in zip(terms, sizes, strict=True)]
        return None if None in found else Sum(tuple(found))  # type: ignore[arg-type]

    @classmethod
    def nearest(cls, delta: Delta, target: Target, config: AdapterConfig) -> Nearest:
        """The best sum where all sizes are equal (Eckart and Young 1936); else each product in turn from what the ones before it left."""
        sizes = sizes_of(target)
        if len(set(sizes)) == 1:
            found = Rearrangement(delta, sizes[0], config.layout).nearest(len(sizes))
            terms = list(found.delta.terms) if isinstance(found.delta, Sum) else [found.delta]
            terms += [_nothing(sizes[0], terms[0]) for _ in sizes[len(terms) :]]
            return Nearest(_summed(terms, sizes, config), found.error)
        left, terms = delta, []
        for each in sizes:
            terms.append(Rearrangement(left, each, config.layout).nearest(1).delta)
            left = Sum((delta, *(term.scaled(-1.0) for term in terms)))
        size = norm(delta)
        return Nearest(_summed(terms, sizes, config), norm(left) / size if size else 0.0)


def sizes_of(target: Target) -> tuple[KronShape, ...]:
    """The sizes of a target's products; two alike where the rule names one."""
    return (target.sizes, *(target.more or (target.sizes,)))


def _summed(terms: Sequence[Delta], sizes: Sequence[KronShape], config: AdapterConfig) -> Sum:
    found = [in_form(term, each, config.layout) for term, each in zip(terms, sizes, strict=True)]
    assert None not in found  # they were made in these sizes
    return Sum(tuple(found))  # type: ignore[arg-type]


def _nothing(sizes: KronShape, like: Delta) -> Kron:
    """A product of zero whose ``A`` is not, so that it can leave zero."""
    assert isinstance(like, Kron)
    return Kron(like.a, Full(torch.zeros(sizes.out_b, sizes.in_b, *sizes.kernel)), layout=like.layout)
