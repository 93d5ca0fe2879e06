"""Which layers are adapted, and with which factors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from ..bounds import Within, require_fields
from ..errors import ConfigError, CoverageError
from ..names.spellings import LayerName, Projection, projection
from ..updates.shapes import KronShape, split

PAPER_FACTORS = (64, 4)
"""``(out_a, in_a)`` of the paper's best variant: 3,874,560 parameters on SDXL (DiffuseKronA, Table 2)."""


@dataclass(frozen=True)
class TargetRule:
    """Adapt the layers that match, with these factors."""

    factors: tuple[int, int] = PAPER_FACTORS
    """``(out_a, in_a)``, the shape of ``A``, out × in. Where it does not divide a layer's width, the nearest divisors are taken."""
    projections: tuple[Projection, ...] = ("q", "k", "v", "qkv", "kv", "out")
    """Which attention projections; empty takes every layer that ``pattern`` finds, attention or not."""
    pattern: str = ""
    """A regular expression that must be found in the layer's name; empty matches all."""
    rate: Annotated[float, Within(0, 1000, remedy="1 learns as fast as the learning rate says.")] = 1.0
    """These layers' learning rate is multiplied by this."""

    def __post_init__(self) -> None:
        if min(self.factors) < 1:
            raise ConfigError(
                f"Factors {self.factors[0]} × {self.factors[1]} are not possible.",
                found=self.factors,
                expected="two positive integers, out × in",
                remedy="Take 64 × 4, the paper's best, to start with.",
            )
        require_fields(self)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f'The layer pattern "{self.pattern}" is no regular expression: {error}.',
                found=self.pattern,
                expected="a Python regular expression",
                remedy='Leave it empty to match every layer, or try a plain part of a name such as "attn2".',
            ) from error

    def matches(self, name: str) -> bool:
        """Whether this rule speaks of the layer ``name``."""
        if self.projections and projection(name) not in self.projections:
            return False
        return re.search(self.pattern, name) is not None


@dataclass(frozen=True)
class Target:
    """One layer to adapt."""

    name: LayerName
    sizes: KronShape
    wanted: tuple[int, int]
    """The factors that the rule asked for."""
    rate: float = 1.0
    """The learning rate is multiplied by this."""

    @property
    def is_adjusted(self) -> bool:
        """The wanted factors do not divide this layer's width; others were taken."""
        return (self.sizes.out_a, self.sizes.in_a) != self.wanted


def select(weights: Mapping[LayerName, tuple[int, ...]], rules: tuple[TargetRule, ...] = (TargetRule(),)) -> tuple[Target, ...]:
    """The layers that the first matching rule adapts, in the order of ``weights``.

    Of a model with two experts per layer, one that reads and one that draws, a rule without a pattern means the one that draws.

    Args:
        weights: Shapes ``(out, in, *kernel)`` of the model's layers by name.

    Raises:
        CoverageError: No rule matches any layer.
    """
    generates = _generating(weights)
    targets = tuple(
        Target(name, split(shape, rule.factors), rule.factors, rule.rate)
        for name, shape in weights.items()
        if (rule := next((r for r in rules if r.matches(name) and (r.pattern or generates(name))), None)) is not None
    )
    if not targets:
        raise CoverageError(
            f"None of the model's {len(weights)} layers is a target.",
            found=len(weights),
            expected="at least one layer that a rule matches",
            remedy="Widen the target rules: no projections and an empty pattern adapt every layer.",
        )
    return targets


_GENERATING_NAMES = re.compile(r"_mo[te]_gen(?=[._]|$)|(?<![A-Za-z0-9])nar_")
"""What models with two experts per layer, one that reads and one that draws, call those of the second (SenseNova, BAGEL; YuE2)."""


def _generating(weights: Iterable[str]) -> Callable[[str], bool]:
    """Whether a layer takes part in the picture, for a model that has two of each: its twin for reading text is no target."""
    twins = {_GENERATING_NAMES.sub("", name) for name in weights if _GENERATING_NAMES.search(name)}
    return lambda name: name not in twins


def describe_adjustments(targets: tuple[Target, ...]) -> tuple[str, ...]:
    """A line for each kind of layer whose width the wanted factors do not divide; empty when all of them do."""
    kinds: dict[tuple, int] = {}
    for target in targets:
        if target.is_adjusted:
            key = (target.wanted, target.sizes)
            kinds[key] = kinds.get(key, 0) + 1
    return tuple(
        f"{count} layers of {sizes.out_features} × {sizes.in_features} are not divisible by {wanted[0]} × {wanted[1]}: "
        f"taking {sizes.out_a} × {sizes.in_a}."
        for (wanted, sizes), count in kinds.items()
    )
