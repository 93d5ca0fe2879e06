"""Target rules as a person writes them: one per line, ``pattern; projections; factors; rate; kind``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from ..errors import ConfigError
from ..names.spellings import Projection
from .parts import MODEL_PARTS
from .rules import TargetRule

PROJECTIONS: tuple[Projection, ...] = get_args(Projection)
PARTS = ("pattern", "projections", "factors", "rate", "kind")
_FACTORS = re.compile(r"\s*(\d+)\s*[x×]\s*(\d+)\s*")


def parse_factors(text: str, where: str) -> tuple[int, int]:
    """``64x4`` or ``64 × 4`` as ``(out_a, in_a)``.

    Raises:
        ConfigError: It is something else.
    """
    match = _FACTORS.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text.strip()!r} is no pair of factors.",
            where=where,
            found=text.strip(),
            expected="out x in, such as 64x4",
            remedy="Write the rows of A, an x, and its columns.",
        )
    return int(match[1]), int(match[2])


def parse_rules(text: str, factors: tuple[int, int], kinds: Sequence[str] = ()) -> tuple[TargetRule, ...]:
    """The rules in a text; empty lines and what follows a ``#`` do not count.

    Each line has up to five parts, and what is left out is usual: a regular expression that must be found in the layer's
    name (every layer), projections separated by commas (those of attention; ``*`` takes every layer that the pattern
    finds, attention or not), factors (``factors``; of a sum of products those of each, with a ``+`` between), what the
    learning rate is multiplied by (1), and what is trained (what the adapter's settings say). For example::

        attn2; k,v; 64x8; 2.0
        ff\\.net; *; 16x16
        ; q,out; 64x4 + 8x8; ; sum
        norm; *; ; ; difference
        norms of the residual blocks; ; ; 2.0

    A name of `krona_ops.targets.parts.MODEL_PARTS` in the place of the pattern takes that part of the model, whatever
    the projections.

    Args:
        factors: Of the rules that name none.
        kinds: What can be trained; any word is taken where there are none.

    Raises:
        ConfigError: A line cannot be read; it is named by its number.
    """
    rules = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = [part.strip() for part in line.split("#")[0].split(";")]
        if any(parts):
            rules.append(_rule(parts, factors, kinds, f"rule {number}"))
    return tuple(rules)


def _rule(parts: list[str], factors: tuple[int, int], kinds: Sequence[str], where: str) -> TargetRule:
    if len(parts) > len(PARTS):
        raise ConfigError(
            f"It has {len(parts)} parts.",
            where=where,
            found=len(parts),
            expected="; ".join(PARTS),
            remedy="Take out the semicolons that are too many.",
        )
    pattern, projections, pairs, rate, kind = (*parts, *[""] * (len(PARTS) - len(parts)))
    if kind and kinds and kind not in kinds:
        raise ConfigError(
            f"There is no kind {kind!r}.",
            where=where,
            found=kind,
            expected=", ".join(kinds),
            remedy="Write one of these, or leave it out.",
        )
    is_part = pattern in MODEL_PARTS
    first, *terms = [parse_factors(pair, where) for pair in pairs.split("+")] if pairs else [factors]
    try:
        return TargetRule(
            factors=first,
            projections=() if is_part else _projections(projections, where),
            pattern="" if is_part else pattern,
            rate=float(rate) if rate else 1.0,
            kind=kind,
            terms=tuple(terms),
            part=pattern if is_part else "",
        )
    except ValueError as error:
        raise ConfigError(
            f"{rate!r} is no number.", where=where, found=rate, expected="such as 0.5", remedy="Leave it out for 1."
        ) from error
    except ConfigError as error:
        raise error if error.where else ConfigError(str(error), where=where) from error


def _projections(text: str, where: str) -> tuple[Projection, ...]:
    if text == "*":
        return ()
    if not text:
        return TargetRule().projections
    projections: list[Projection] = []
    for name in map(str.strip, text.split(",")):
        if name not in PROJECTIONS:
            raise ConfigError(
                f"There is no projection {name!r}.",
                where=where,
                found=name,
                expected=", ".join(PROJECTIONS),
                remedy="Write * for layers that are no attention.",
            )
        projections.append(name)
    return tuple(projections)
