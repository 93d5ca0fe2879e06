"""Values and names from strangers in words for people: short, and without a sign that a terminal,
a log or a page would obey."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import islice

SHORT = 80
"""Characters of a foreign value that a message shows; enough for the name of a layer."""
_ITEMS = 4
_DEEPEST = 2
_LONGEST_NUMBER = 128
"""Bits; from here on the number of digits says more than the digits."""


def printable(text: str, keep: str = "") -> str:
    r"""The text with control characters, escape codes, signs without a width and lone surrogates spelled out.

    Args:
        keep: Characters that stay nevertheless, such as the line breaks of a table.

    >>> print(printable("a\x1b[2J\ud800\n"))
    a\x1b[2J\ud800\n
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object, most: int = SHORT, keep: str = "") -> str:
    """Any foreign value for a message: printable, of at most ``most`` characters,
    and made in no time whatever its size.

    >>> shown("a" * 50 + "b" * 50, 11)
    'aaaaa…bbbbb'
    >>> shown([1, {"a": [[["deep"]]]}, 3, 4, 5])
    '[1, {"a": […]}, 3, 4, …]'
    """
    text = value if isinstance(value, str) else _words(value, most)
    return _cut(printable(_cut(text, most), keep), most)


def _cut(text: str, most: int) -> str:
    """At most ``most`` characters of a text: its beginning and its end, where names of layers differ."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def _words(value: object, most: int, depth: int = 0) -> str:
    if isinstance(value, str):
        return f'"{_cut(value, most)}"'
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _LONGEST_NUMBER:
        return f"a number of {int(value.bit_length() * 0.30103)} digits"
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value[:most]))
    if isinstance(value, Mapping):
        inner = (f"{_words(key, most, _DEEPEST)}: {_words(item, most, depth + 1)}" for key, item in value.items())
        return _some(inner, len(value), "{}", depth)
    if isinstance(value, Sequence | Set):
        ends = "()" if isinstance(value, tuple) else "{}" if isinstance(value, Set) else "[]"
        return _some((_words(item, most, depth + 1) for item in value), len(value), ends, depth)
    return repr(value)


def _some(words: Iterable[str], count: int, ends: str, depth: int) -> str:
    if depth >= _DEEPEST:
        return f"{ends[0]}{'…' if count else ''}{ends[1]}"
    first = ", ".join(islice(words, _ITEMS))
    return f"{ends[0]}{first}{', …' if count > _ITEMS else ''}{ends[1]}"
