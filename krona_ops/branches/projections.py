"""The four projections of a parallel branch at one site: the base's own with an update beside, or matrices of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn import functional

from ..updates.delta import Delta, map_tensors

Base = Callable[[Tensor], Tensor]
"""The base model's own projection, called as its module is: merged, bypassed and quantised weights count."""


class Projection(Protocol):
    """How a branch projects ``(…, in)`` to ``(…, out)``."""

    def __call__(self, base: Base, x: Tensor) -> Tensor:
        """Project; ``base`` is the model's projection of the same name."""

    def like(self, x: Tensor) -> Projection:
        """The same where ``x`` is, and in its dtype."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """``(out, in)`` of what it adds or is; ``None`` where it is the base's alone."""


@dataclass(frozen=True, eq=False)
class Beside:
    """``W x + ΔW x`` with the base's ``W``."""

    update: Delta | None = None
    """``None``: the base's projection alone."""

    def __call__(self, base: Base, x: Tensor) -> Tensor:
        y = base(x)
        return y if self.update is None else y + self.update.apply(x)

    def like(self, x: Tensor) -> Beside:
        return Beside(None if self.update is None else map_tensors(self.update, lambda tensor: tensor.to(x)))

    @property
    def shape(self) -> tuple[int, ...] | None:
        return None if self.update is None else self.update.shape


@dataclass(frozen=True, eq=False)
class Own:
    """``M x + b``, without the base."""

    weight: Tensor
    """``(out, in)``."""
    bias: Tensor | None = None
    """``(out,)``."""

    def __call__(self, base: Base, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def like(self, x: Tensor) -> Own:
        return Own(self.weight.to(x), None if self.bias is None else self.bias.to(x))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)


class Bases(NamedTuple):
    """The projections of the attention that a branch stands beside."""

    q: Base
    k: Base
    v: Base
    out: Base


@dataclass(frozen=True, eq=False)
class SiteBranch:
    """The branch beside one attention."""

    q: Projection
    k: Projection
    v: Projection
    out: Projection
    gate: float | Tensor = 1.0
    """What its output is multiplied by; 0 before the training."""

    def output(
        self, bases: Bases, n: Tensor, source: Tensor, mix: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """What the attention's own output gains: ``g · out(mix(q(n), k(s), v(s)))``.

        Args:
            n: ``(B, N, d)``, what the attention reads.
            source: ``(S, M, d)``, what the branch attends to, taken where ``n`` is taken.
            mix: From queries, keys and values to ``(B, N, d)``, see `krona_ops.branches.attention`.
        """
        mixed = mix(self.q(bases.q, n), self.k(bases.k, source), self.v(bases.v, source))
        return self.gate * self.out(bases.out, mixed)

    def like(self, x: Tensor) -> SiteBranch:
        """The same where ``x`` is, and in its dtype."""
        return replace(self, **{name: getattr(self, name).like(x) for name in Bases._fields})
