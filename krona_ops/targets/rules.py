"""Which layers are adapted, and with which factors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from ..bounds import Within, require_fields, shown
from ..errors import ConfigError, CoverageError
from ..names.spellings import LayerName, Projection, projection
from ..updates.shapes import KronShape, split
from .parts import MODEL_PARTS

PAPER_FACTORS = (64, 4)
"""``(out_a, in_a)`` of the paper's best variant: 3,874,560 parameters on SDXL (DiffuseKronA, Table 2)."""
FEED_FORWARD_LAYERS = r"\b(ff|ffn|mlp|feed_forward|img_mlp|txt_mlp|ff_context|w[123])\b"
"""A pattern that is in the names of the layers after an attention, in the families that the host loads."""


@dataclass(frozen=True)
class TargetRule:
    """Adapt the layers that match, with these factors."""

    factors: tuple[int, int] = PAPER_FACTORS
    """``(out_a, in_a)``, the shape of ``A``, out × in. Where it does not divide a layer's width,
    the nearest divisors are taken."""
    projections: tuple[Projection, ...] = ("q", "k", "v", "qkv", "kv", "out")
    """Which attention projections; empty takes every layer that ``pattern`` finds, attention or not."""
    pattern: str = ""
    """A regular expression that must be found in the layer's name; empty matches all."""
    rate: Annotated[float, Within(0, 1000, remedy="1 learns as fast as the learning rate says.")] = 1.0
    """These layers' learning rate is multiplied by this."""
    kind: str = ""
    """What is trained for these layers: ``kronecker``, ``lora``, ``sum`` (of Kronecker products), ``difference`` (of
    any weight, norms and biases too) or ``full`` (the weight itself); empty is what ``adapter.kind`` says.
    Rules of different kinds may stand side by side."""
    terms: tuple[tuple[int, int], ...] = ()
    """Of a sum: the factors of its products after the first one, whose are ``factors``. Empty is one more of these."""
    part: str = ""
    """Instead of projections, a part of the model by name: ``norms of the residual blocks``, ``down- and upsamplers`` or
    ``biases of attention``. For norms and biases ``difference`` is trained where ``kind`` says nothing."""

    def __post_init__(self) -> None:
        impossible = next((pair for pair in (self.factors, *self.terms) if min(pair) < 1), None)
        if impossible is not None:
            raise ConfigError(
                f"Factors {impossible[0]} × {impossible[1]} are not possible.",
                found=impossible,
                expected="two positive integers, out × in",
                remedy="Take 64 × 4, the paper's best, to start with.",
            )
        require_fields(self)
        if self.part and self.part not in MODEL_PARTS:
            raise ConfigError(
                f"There is no part of a model by the name {shown(self.part)}.",
                found=self.part,
                expected=", ".join(MODEL_PARTS),
                remedy=f"Write one of {', '.join(MODEL_PARTS)}; or take layers by a pattern.",
            )
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f'The layer pattern "{self.pattern}" is no regular expression: {error}.',
                found=self.pattern,
                expected="a Python regular expression",
                remedy='Leave it empty to match every layer, or try a plain part of a name such as "attn2".',
            ) from error

    @property
    def trained(self) -> str:
        """What is trained: ``kind``, else what suits the part; empty is what the adapter's settings say."""
        return self.kind or (MODEL_PARTS[self.part].kind if self.part else "")

    def matches(self, name: str) -> bool:
        """Whether this rule speaks of the layer ``name``."""
        if self.part:
            return MODEL_PARTS[self.part].has(name) and re.search(self.pattern, name) is not None
        if self.projections and projection(name) not in self.projections:
            return False
        return re.search(self.pattern, name) is not None


@dataclass(frozen=True)
class Target:
    """A layer that is to be adapted, with the sizes of its factors."""

    name: LayerName
    sizes: KronShape
    wanted: tuple[int, int]
    """The factors that the rule asked for."""
    rate: float = 1.0
    """The learning rate is multiplied by this."""
    kind: str = ""
    """What is trained; empty is what the adapter's settings say."""
    more: tuple[KronShape, ...] = ()
    """Of a sum: the sizes of its products after the first one."""
    is_vector: bool = False
    """Whether the weight has one dimension, as those of norms and biases do;
    ``sizes`` are ``(out, 1)`` then, all of it in ``A``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight: ``(out, in, *kernel)``, or ``(out,)``."""
        return (self.sizes.out_features,) if self.is_vector else self.sizes.weight

    @property
    def is_adjusted(self) -> bool:
        """The wanted factors do not divide this layer's width; others were taken."""
        return (self.sizes.out_a, self.sizes.in_a) != self.wanted


def select(
    weights: Mapping[LayerName, tuple[int, ...]],
    rules: tuple[TargetRule, ...] = (TargetRule(),),
    *,
    is_whole: Callable[[TargetRule], bool] = lambda rule: False,
) -> tuple[Target, ...]:
    """The layers that the first matching rule adapts, in the order of ``weights``.

    Of a model with two experts per layer, one that reads and one that draws,
    a rule without a pattern means the one that draws.

    Args:
        weights: Shapes ``(out, in, *kernel)`` of the model's layers by name;
            ``(out,)`` of norms and biases, which rules for factors pass by.
        is_whole: Whether what a rule trains has no factors, so that weights of any shape can be its targets.

    Raises:
        CoverageError: No rule matches any layer, or one takes a part that this kind of model does not have.
    """
    _require_parts(weights, rules)
    generates = _generating(weights)
    whole = {rule for rule in rules if is_whole(rule)}
    targets = tuple(
        _target(name, shape, rule, rule in whole)
        for name, shape in weights.items()
        if (
            rule := next(
                (
                    r
                    for r in rules
                    if r.matches(name) and (r.pattern or generates(name)) and (len(shape) > 1 or r in whole)
                ),
                None,
            )
        )
        is not None
    )
    if not targets:
        raise CoverageError(
            f"None of the model's {len(weights)} layers is a target.",
            found=len(weights),
            expected="at least one layer that a rule matches",
            remedy="Widen the target rules: no projections and an empty pattern adapt every layer.",
        )
    return targets


def _target(name: LayerName, shape: tuple[int, ...], rule: TargetRule, is_whole: bool) -> Target:
    if len(shape) == 1:
        return Target(name, KronShape(shape[0], 1, 1, 1), (shape[0], 1), rule.rate, rule.trained, is_vector=True)
    sizes = split(shape, rule.factors)
    more = tuple(split(shape, factors) for factors in rule.terms)
    return Target(name, sizes, (sizes.out_a, sizes.in_a) if is_whole else rule.factors, rule.rate, rule.trained, more)


def _require_parts(weights: Iterable[str], rules: Iterable[TargetRule]) -> None:
    """
    Raises:
        CoverageError: A part belongs to a kind of model that this is not; or to any, and this one has none.
    """
    wanted = {rule.part: MODEL_PARTS[rule.part] for rule in rules if rule.part}
    for name, part in wanted.items():
        akin = [each for each in wanted.values() if part.architecture and each.architecture == part.architecture]
        if not any(each.has(layer) for layer in weights for each in akin or [part]):
            raise CoverageError(
                f"The model has no {name}; {f'this preset is for {part.architecture}s' if akin else 'its layers have none'}.",
                found=f"no {name}",
                expected=f"a {part.architecture}" if akin else f"a model with {name}",
                remedy="Load a UNet, such as SD1.5's or SDXL's, or choose a preset of attention for this model."
                if akin
                else "Leave the rule out, or train the attention itself.",
            )


def describe_missing(weights: Iterable[str], rules: Iterable[TargetRule]) -> tuple[str, ...]:
    """A line for each part that a rule takes and that this model does not have."""
    parts = {rule.part: None for rule in rules if rule.part}
    return tuple(
        f"The model has no {name}, so the rule for them trains nothing."
        for name in parts
        if not any(map(MODEL_PARTS[name].has, weights))
    )


_GENERATING_NAMES = re.compile(r"_mo[te]_gen(?=[._]|$)|(?<![A-Za-z0-9])nar_")
"""What models with two experts per layer, one that reads and one that draws,
call those of the second (SenseNova, BAGEL; YuE2)."""


def _generating(weights: Iterable[str]) -> Callable[[str], bool]:
    """Whether a layer takes part in the picture, for a model that has two of each:
    its twin for reading text is no target."""
    twins = {_GENERATING_NAMES.sub("", name) for name in weights if _GENERATING_NAMES.search(name)}
    return lambda name: name not in twins


def describe_adjustments(targets: tuple[Target, ...]) -> tuple[str, ...]:
    """A line for each kind of layer whose width the wanted factors do not divide; empty when all of them do."""
    kinds: dict[tuple[tuple[int, ...], KronShape], int] = {}
    for target in targets:
        if target.is_adjusted:
            key = (target.wanted, target.sizes)
            kinds[key] = kinds.get(key, 0) + 1
    return tuple(
        f"{count} layers of {sizes.out_features} × {sizes.in_features} are not divisible by {wanted[0]} × {wanted[1]}: "
        f"taking {sizes.out_a} × {sizes.in_a}."
        for (wanted, sizes), count in kinds.items()
    )
