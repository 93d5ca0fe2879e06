"""Target rules as a person writes them: one per line, ``pattern; projections; factors; rate``."""

from __future__ import annotations

import re
from typing import get_args

from ..errors import ConfigError
from ..names.spellings import Projection
from .rules import TargetRule

PROJECTIONS: tuple[Projection, ...] = get_args(Projection)
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


def parse_rules(text: str, factors: tuple[int, int]) -> tuple[TargetRule, ...]:
    """The rules in a text; empty lines and what follows a ``#`` do not count.

    Each line has up to four parts, and what is left out is usual: a regular expression that must be found in the layer's
    name (every layer), projections separated by commas (those of attention; ``*`` takes every layer that the pattern
    finds, attention or not), factors (``factors``), and what the learning rate is multiplied by (1). For example::

        attn2; k,v; 64x8; 2.0
        ff\\.net; *; 16x16
        ; q,out

    Args:
        factors: Of the rules that name none.

    Raises:
        ConfigError: A line cannot be read; it is named by its number.
    """
    rules = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = [part.strip() for part in line.split("#")[0].split(";")]
        if any(parts):
            rules.append(_rule(parts, factors, f"rule {number}"))
    return tuple(rules)


def _rule(parts: list[str], factors: tuple[int, int], where: str) -> TargetRule:
    if len(parts) > 4:
        raise ConfigError(
            f"It has {len(parts)} parts.",
            where=where,
            found=len(parts),
            expected="pattern; projections; factors; rate",
            remedy="Take out the semicolons that are too many.",
        )
    pattern, projections, pair, rate = (*parts, *[""] * (4 - len(parts)))
    try:
        return TargetRule(
            factors=parse_factors(pair, where) if pair else factors,
            projections=_projections(projections, where),
            pattern=pattern,
            rate=float(rate) if rate else 1.0,
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
    names = [name.strip() for name in text.split(",")]
    unknown = next((name for name in names if name not in PROJECTIONS), None)
    if unknown is not None:
        raise ConfigError(
            f"There is no projection {unknown!r}.",
            where=where,
            found=unknown,
            expected=", ".join(PROJECTIONS),
            remedy="Write * for layers that are no attention.",
        )
    return tuple(names)  # type: ignore[arg-type]
