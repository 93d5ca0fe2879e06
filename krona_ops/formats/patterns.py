"""The keys of PEFT's ``rank_pattern`` and ``alpha_pattern``, matched as PEFT does,
without its regular expressions' engine.

PEFT runs ``re.match(rf"(.*\\.)?({key})$", path)`` on every key. What it, diffusers and trainers write are paths and
ends of paths, perhaps escaped and with a ``^`` before them: those are looked up. Real expressions are evaluated by
`krona_ops.formats.expressions`, or refused by name: a file must not decide how long its reading takes, and backtracking
over an expression from a file may never end.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from ..errors import FormatError
from ..shown import shown
from .expressions import Expression, NotEvaluatedError

_SPECIAL = frozenset("\\^$*+?{}[]|()")
_ANY = None
"""``.`` in a key: one character, whichever."""
MOST_KEYS = 20_000
MOST_EXPRESSIONS = 50
"""PEFT's users write a handful; each is tried on each layer."""
MOST_STEPS_OF_ALL = 10_000_000
"""Of all expressions on all layers of one file: some seconds."""
_MOST_FORMS = 64
"""Of keys of one length: where their dots are. Names of layers of one model have some ten."""
_LONGEST = 1_000


class Patterns:
    """Keys with their values, arranged so that the value of each of many layers is looked up fast.

    Args:
        what: ``rank_pattern`` or ``alpha_pattern``, for the error.

    Raises:
        FormatError: There are more keys than any adapter has layers.
    """

    def __init__(self, patterns: Mapping[str, float], what: str) -> None:
        self._what = what
        if len(patterns) > MOST_KEYS:
            raise self._refused(f"{len(patterns):,} keys", patterns, "are more than any adapter has layers")
        self._values = list(patterns.values())
        self._keys = list(patterns)
        self._forms: dict[int, dict[tuple[bool, tuple[int, ...]], dict[str, int]]] = {}
        """By the length of a key, whether it is a whole path and where its dots are:
        its characters, a dot for any, and its position."""
        self._expressions: list[tuple[int, str]] = []
        for position, key in enumerate(self._keys):
            characters = literal(key)
            if characters is None:
                self._expressions.append((position, key))
            elif len(characters) <= _LONGEST:
                dots = tuple(n for n, character in enumerate(characters) if character is _ANY)
                form = self._forms.setdefault(len(characters), {}).setdefault((key.startswith("^"), dots), {})
                form.setdefault("".join(character or "." for character in characters), position)
        self._steps = 0
        worst = max(map(len, self._forms.values()), default=0)
        if worst > _MOST_FORMS or len(self._expressions) > MOST_EXPRESSIONS:
            raise self._refused(f"{len(patterns):,} keys", patterns, "are written in too many ways")

    def value_of(self, path: str) -> float | None:
        """The value of the first key that matches the end of a layer's path inside its model; ``None`` where none does.

        Raises:
            FormatError: A key before the first that matches is an expression that is not evaluated.
        """
        first = self._first_literal(path)
        for position, key in self._expressions:
            if first is not None and position > first:
                break
            try:
                if self._matches(key, path):
                    first = position
                    break
            except NotEvaluatedError as error:
                raise self._refused(f'the key "{shown(key)}"', key, f"is a regular expression, and {error}") from error
        return None if first is None else self._values[first]

    def _first_literal(self, path: str) -> int | None:
        positions = []
        for start in _starts(path):
            tail = path[start:]
            for (is_whole, dots), keys in self._forms.get(len(tail), {}).items():
                if not (is_whole and start):
                    position = keys.get(_with_dots(tail, dots))
                    positions += [] if position is None else [position]
        return min(positions, default=None)

    def _matches(self, key: str, path: str) -> bool:
        _expression(key)  # alone: one that closes the group which PEFT puts around it is none
        starts = 0
        for n in _starts(path):
            starts |= 1 << n
        ends, steps = _expression(f"(?:{key})$").ends(path, starts)
        self._steps += steps
        if self._steps > MOST_STEPS_OF_ALL:
            raise NotEvaluatedError("all layers together take too many steps")
        return bool(ends)

    def _refused(self, what: str, value: object, why: str) -> FormatError:
        return FormatError(
            f"PEFT's {self._what} has {what}, which {why}; paths and ends of paths are looked up.",
            found=shown(value),
            expected="a layer's path, or its end",
            remedy="Save the adapter again with a path for each such layer, or choose the scale rule yourself.",
        )


def _starts(path: str) -> list[int]:
    """Where ``(.*\\.)?`` may end: at the beginning, and behind every dot of the first line."""
    line = path.partition("\n")[0]
    return [0, *(n + 1 for n, character in enumerate(line) if character == ".")]


def _with_dots(text: str, dots: tuple[int, ...]) -> str:
    if all(text[n] == "." for n in dots):
        return text
    characters = list(text)
    for n in dots:
        if characters[n] != "\n":
            characters[n] = "."
    return "".join(characters)


@lru_cache(maxsize=2 * MOST_EXPRESSIONS)
def _expression(pattern: str) -> Expression:
    return Expression(pattern)


def matches_whole(pattern: str, path: str) -> bool | None:
    """Whether an expression is a whole path, as PEFT reads ``target_modules`` that are one text;
    ``None``: not evaluated here."""
    characters = _literal_of_target(pattern)
    return None if characters is None else _is(path, characters)


@lru_cache(maxsize=8)  # asked for every layer of a file
def _literal_of_target(pattern: str) -> tuple[str | None, ...] | None:
    return literal(pattern)


def literal(pattern: str) -> tuple[str | None, ...] | None:
    """The characters that a key stands for, ``None`` for any one; nothing where it is a real expression.

    >>> literal(r"^a\\.b.c")
    ('a', '.', 'b', None, 'c')
    >>> literal("to_(q|k)") is None
    True
    """
    rest = pattern.removeprefix("^")
    rest = rest[:-1] if rest.endswith("$") and not rest.endswith("\\$") else rest
    meant: list[str | None] = []
    characters = iter(rest)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            if not escaped or escaped.isalnum():  # \d, \w, \1, …: a class of characters, or a group
                return None
            meant.append(escaped)
        elif character in _SPECIAL:
            return None
        else:
            meant.append(_ANY if character == "." else character)
    return tuple(meant)


def _is(path: str, characters: tuple[str | None, ...]) -> bool:
    return len(path) == len(characters) and all(
        wanted is _ANY or wanted == character for wanted, character in zip(characters, path, strict=True)
    )
