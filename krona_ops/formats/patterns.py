"""The keys of PEFT's ``rank_pattern`` and ``alpha_pattern``, matched as PEFT does, without a regular expression's engine.

PEFT runs ``re.match(rf"(.*\\.)?({key})$", path)`` on every key. What it, diffusers and trainers write are paths and ends of
paths, perhaps escaped and with a ``^`` before them; those are a comparison of characters. Real expressions are refused by name:
a file must not decide how long its reading takes, and backtracking over an expression from a file may never end.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import FormatError

_SPECIAL = frozenset("\\^$*+?{}[]|()")
_ANY = None
"""``.`` in a key: one character, whichever."""


def first_match(patterns: Mapping[str, float], path: str, what: str) -> float | None:
    """The value of the first key that matches the end of a path; ``None`` where none does.

    Args:
        path: Of a layer inside its model, without PEFT's prefix.
        what: ``rank_pattern`` or ``alpha_pattern``, for the error.

    Raises:
        FormatError: A key before the first that matches is an expression that is not evaluated here.
    """
    for pattern, value in patterns.items():
        characters = literal(pattern)
        if characters is None:
            raise FormatError(
                f'PEFT\'s {what} has the key "{pattern[:100]}", a regular expression; only paths and ends of paths are looked up.',
                found=pattern,
                expected="a layer's path, or its end",
                remedy="Save the adapter again with a path for each such layer, or choose the scale rule yourself.",
            )
        if _ends_with(path, characters, pattern.startswith("^")):
            return value
    return None


def matches_whole(pattern: str, path: str) -> bool | None:
    """Whether an expression is a whole path, as PEFT reads ``target_modules`` that are one text; ``None``: not evaluated here."""
    characters = literal(pattern)
    return None if characters is None else _ends_with(path, characters, True)


def literal(pattern: str) -> tuple[str | None, ...] | None:
    """The characters that a key stands for, ``None`` for any one; nothing where it is a real expression.

    >>> literal(r"^a\\.b.c")
    ('a', '.', 'b', None, 'c')
    >>> literal("to_(q|k)") is None
    True
    """
    rest = pattern.removeprefix("^")
    rest = rest[:-1] if rest.endswith("$") and not rest.endswith("\\$") else rest
    found: list[str | None] = []
    characters = iter(rest)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            if not escaped or escaped.isalnum():  # \d, \w, \1, …: a class of characters, or a group
                return None
            found.append(escaped)
        elif character in _SPECIAL:
            return None
        else:
            found.append(_ANY if character == "." else character)
    return tuple(found)


def _ends_with(path: str, characters: tuple[str | None, ...], is_whole: bool) -> bool:
    start = len(path) - len(characters)
    if start < 0 or (start and (is_whole or path[start - 1] != ".")):
        return False
    return all(wanted is _ANY or wanted == found for wanted, found in zip(characters, path[start:], strict=True))
