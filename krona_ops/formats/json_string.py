"""A string of JSON, scanned in pieces: a long one must not keep other threads waiting."""

from __future__ import annotations

from json.decoder import scanstring  # type: ignore[attr-defined]  # its stub lacks it

_FIRST, _MOST = 2**12, 2**20
"""Characters of a piece, doubled from one to the next. The scanner of the library holds the interpreter's lock until a
string ends: for fifteen megabytes of escapes that is 40 ms and more, for a piece of one megabyte 3."""


def scan(text: str, begin: int) -> tuple[str, int]:
    """The value of a string and the position behind it, as the library's scanner gives them.

    Args:
        text: With the string somewhere in it.
        begin: Of its first character behind the quote.

    Raises:
        ValueError: It does not end, or holds a control character or an unknown escape.
    """
    pieces: list[str] = []
    size = _FIRST
    while begin + size < len(text):
        cut = _outside_of_escapes(text, begin, begin + size)
        piece, end = scanstring(text[begin:cut] + '"', 0, True)
        pieces.append(piece)
        if end <= cut - begin:  # at a quote of its own
            return _joined(pieces), begin + end
        begin, size = cut, min(2 * size, _MOST)
    piece, end = scanstring(text, begin, True)
    return _joined([*pieces, piece]), end


def _outside_of_escapes(text: str, begin: int, cut: int) -> int:
    """Where to cut instead of ``cut``, so that no escape is parted."""
    last = text.rfind("\\", cut - 6, cut)
    if last < 0:
        return cut
    before = text[begin : last + 1]
    backslashes = len(before) - len(before.rstrip("\\"))
    if backslashes % 2 == 0:  # the last one is escaped itself
        return cut
    length = 6 if text[last + 1 : last + 2] == "u" else 2
    return cut if last + length <= cut else last


def _joined(pieces: list[str]) -> str:
    """The pieces as one text; two halves of a character on both sides of a cut are joined again."""
    for n in range(1, len(pieces)):
        high, low = pieces[n - 1][-1:], pieces[n][:1]
        if "\ud800" <= high <= "\udbff" and "\udc00" <= low <= "\udfff":
            both = chr(0x10000 + ((ord(high) - 0xD800) << 10) + (ord(low) - 0xDC00))
            pieces[n - 1], pieces[n] = pieces[n - 1][:-1], both + pieces[n][1:]
    return "".join(pieces)
