"""Regular expressions from files, evaluated without backtracking: however one is written, its work has a bound.

Python's own engine tries one way after the other, and ``(a+)+`` has 2ⁿ ways through ``aaa…!``. Here all positions that
an expression may have reached in a text are one integer, a bit for each, and every part of the expression moves all of
them at once (Baeza-Yates and Gonnet 1992). Groups, alternatives, classes and repetitions mean what they mean in `re`;
lookahead, lookbehind and back-references are not evaluated.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

_parser: Any = getattr(re, "_parser", None) or import_module("sre_parse")  # Python 3.10 has it under its old name
LONGEST = 1_000
"""Characters of an expression."""
MOST_STEPS = 20_000
"""Of one evaluation, a step being one part of the expression at all positions."""

Positions = int
"""Bit ``n`` is set where the expression may have come as far as before the character ``n``."""


class NotEvaluatedError(ValueError):
    """An expression has parts that are not evaluated here, or asks for too much work."""


class Expression:
    """A regular expression, parsed by `re` and evaluated on texts by `ends`.

    Raises:
        NotEvaluatedError: It is none, or not one that is evaluated here.
    """

    def __init__(self, pattern: str) -> None:
        if len(pattern) > LONGEST:
            raise NotEvaluatedError(f"it has {len(pattern):,} characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what its writer should have escaped
                parsed = _parser.parse(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise NotEvaluatedError("it is no regular expression") from error
        if parsed.state.flags & ~re.UNICODE:
            raise NotEvaluatedError("it has flags")
        self._parts = list(parsed)
        self._length = len(pattern)
        _Walk("", self._parts)  # says at once what is not evaluated

    def ends(self, text: str, starts: Positions) -> tuple[Positions, int]:
        """Where matches that begin at some positions of a text may end, and how many steps it took to know.

        Raises:
            NotEvaluatedError: It takes too many steps.
        """
        walk = _Walk(text, self._parts)
        return walk.after(starts), self._length + len(text) + MOST_STEPS - walk.left


class _Walk:
    """An expression made ready for one text: ``after`` moves sets of positions through it."""

    def __init__(self, text: str, parts: list) -> None:
        self._text, self.left = text, MOST_STEPS
        self._positions: dict[str, Positions] = {}
        for n, character in enumerate(text):
            self._positions[character] = self._positions.get(character, 0) | 1 << n
        self.after = self._sequence(parts)

    def _sequence(self, parts: list) -> Callable[[Positions], Positions]:
        moves = [self._move(str(name), value) for name, value in parts]

        def after(positions: Positions) -> Positions:
            for move in moves:
                self.left -= 1
                if self.left < 0:
                    raise NotEvaluatedError("it takes too many steps")
                positions = move(positions)
                if not positions:
                    break
            return positions

        return after

    def _move(self, name: str, value: Any) -> Callable[[Positions], Positions]:
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            mask = self._mask(name, value)
            return lambda positions: (positions & mask) << 1
        if name == "SUBPATTERN" and not value[1] and not value[2]:
            return self._sequence(list(value[3]))
        if name == "BRANCH":
            ways = [self._sequence(list(way)) for way in value[1]]
            return lambda positions: _union(way(positions) for way in ways)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeated(int(value[0]), int(value[1]), self._sequence(list(value[2])))
        if name == "AT" and str(value) in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return lambda positions: positions & 1
        if name == "AT" and str(value) in ("AT_END", "AT_END_STRING"):
            end = 1 << len(self._text)
            if str(value) == "AT_END" and self._text.endswith("\n"):
                end |= end >> 1
            return lambda positions: positions & end
        raise NotEvaluatedError(f"it has {name.lower().replace('_', ' ')}, which is not evaluated")

    def _repeated(
        self, least: int, most: int, inner: Callable[[Positions], Positions]
    ) -> Callable[[Positions], Positions]:
        def after(positions: Positions) -> Positions:
            for _ in range(least):
                if not positions:
                    return 0
                before, positions = positions, inner(positions)
                if before == positions:
                    break
            reached, frontier = positions, positions
            for _ in range(most - least):
                frontier = inner(frontier) & ~reached
                if not frontier:
                    break
                reached |= frontier
            return reached

        return after

    def _mask(self, name: str, value: Any) -> Positions:
        """The positions before a character that this part of the expression takes."""
        if name == "LITERAL":
            return self._positions.get(chr(value), 0)
        taken = _character_class(name, value)
        return _union(before for character, before in self._positions.items() if taken(character))


def _union(ways: Any) -> Positions:
    union = 0
    for way in ways:
        union |= way
    return union


def _character_class(name: str, value: Any) -> Callable[[str], bool]:
    if name == "ANY":
        return lambda c: c != "\n"
    if name == "NOT_LITERAL":
        return lambda c: ord(c) != value
    is_negated = str(value[0][0]) == "NEGATE"
    kinds = [_member(str(kind), what) for kind, what in value[is_negated:]]
    return lambda c: any(kind(c) for kind in kinds) != is_negated


_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_WORD": lambda c: c.isalnum() or c == "_",
}


def _member(kind: str, what: Any) -> Callable[[str], bool]:
    if kind == "LITERAL":
        return lambda c: ord(c) == what
    if kind == "RANGE":
        return lambda c: what[0] <= ord(c) <= what[1]
    name = str(what).replace("_NOT_", "_")
    if kind != "CATEGORY" or name not in _CATEGORIES:
        raise NotEvaluatedError("it has a class of characters that is not evaluated")
    return lambda c: _CATEGORIES[name](c) != (name != str(what))
