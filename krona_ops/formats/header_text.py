"""The text of a safetensors header, read entry by entry:
what is too long, too deep or no header ends at the first sign of it.

The format says little:
``{"__metadata__": {text: text}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}``.
A reader of any JSON first builds whatever a stranger has nested there, and says afterwards that it is no header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NoReturn

import torch

from ..border import Border, Limits
from ..errors import AdapterFileError
from ..shown import shown
from .json_string import scan

MOST_TENSORS = 2**17
"""The largest adapters have some thousands."""
MOST_ENTRIES = 10_000
"""Of metadata; kohya's scripts write a hundred."""
LONGEST_NAME = 1_000
"""Characters of a tensor's name; the longest that any trainer writes have 150."""
MOST_AXES = 32
_LARGEST = 2**48
"""Elements of a tensor without any of its empty axes: PyTorch multiplies what it is given, and its integers end."""
_TOO_MANY = f"it speaks of more than {MOST_TENSORS:,} tensors"
_ENTRY = re.compile(
    r'[ \t\r\n]*"([^"\\\x00-\x1f]{0,4000})"[ \t\r\n]*:[ \t\r\n]*\{[ \t\r\n]*"dtype"[ \t\r\n]*:[ \t\r\n]*"(\w{1,16})"[ \t\r\n]*,'
    r'[ \t\r\n]*"shape"[ \t\r\n]*:[ \t\r\n]*\[([\d, \t\r\n]*)\][ \t\r\n]*,'
    r'[ \t\r\n]*"data_offsets"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*(\d{1,18})[ \t\r\n]*,[ \t\r\n]*(\d{1,18})[ \t\r\n]*\][ \t\r\n]*\}[ \t\r\n]*([,}])',
    re.ASCII,
)
"""A tensor as the library and Python's json write it. No part can match in two ways,
so it is as fast where it does not match."""
_SPACE = re.compile(r"[ \t\r\n]*")
_OBJECT = re.compile(r"\{[^{}]{0,4000}\}")
"""A tensor as anybody else may write it."""
_BORDER = Border(limits=Limits(size=4_002, depth=3, values=500, digits=19))


class HeaderError(ValueError):
    """What is wrong with a header, as the end of a sentence."""


@dataclass
class HeaderText:
    """The contents of a header, checked."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    end: int = 0
    """Bytes of all tensors."""


def read(raw: bytes, dtypes: Mapping[str, torch.dtype]) -> HeaderText:
    """Parse and check the JSON of a safetensors header.

    Args:
        raw: As it stands in the file.
        dtypes: The element types whose size is known, by their names there.

    Raises:
        ValueError: It is none (`HeaderError`, with the reason, where there is more to say than that it is no JSON).
    """
    if raw.count(b'"data_offsets"') > MOST_TENSORS:
        _refuse(_TOO_MANY)
    return _Reader(raw, dtypes).read()


def _refuse(reason: str) -> NoReturn:
    raise HeaderError(reason)


class _Reader:
    """Reads one header from its first character to its last.

    The text has one character for each byte, which costs no more memory than the bytes;
    what is not ASCII is decoded string by string.
    """

    def __init__(self, raw: bytes, dtypes: Mapping[str, torch.dtype]) -> None:
        self._raw, self._text, self._dtypes = raw, raw.decode("latin-1"), dtypes
        self._header = HeaderText()
        self._spans: list[tuple[int, int]] = []
        self._kinds: dict[tuple[str, str], tuple[tuple[int, ...], int | None, str]] = {}
        """By type and shape as written: the sizes, the bytes, and the type as it was written first."""
        self._has_metadata = False

    def read(self) -> HeaderText:
        text, header, kinds, spans = self._text, self._header, self._kinds, self._spans
        match, shapes, dtypes = _ENTRY.match, header.shapes, header.dtypes
        if text[:1] != "{":
            _refuse("it does not begin as one")
        at = self._space(1)
        more = text[at : at + 1] != "}"
        at += not more
        while more:
            entry = match(text, at)
            if entry is None:
                at, more = self._unusual(self._space(at))
                continue
            name, dtype, shape, start, end, then = entry.groups()
            at, more = entry.end(), then == ","
            if not name.isascii():
                name = self._raw[entry.start(1) : entry.end(1)].decode()
            span = int(start), int(end)
            kind = kinds.get((dtype, shape))
            if kind is None or kind[1] != span[1] - span[0] or name in shapes or len(name) > LONGEST_NAME:
                self._add(name, dtype, shape, *span)
                continue
            shapes[name], dtypes[name] = kind[0], kind[2]  # as `_add` does; of 100,000 tensors nearly all are seen here
            spans.append(span)
        if self._space(at) != len(text):
            _refuse("something follows it")
        if len(spans) > MOST_TENSORS:
            _refuse(_TOO_MANY)
        header.end = self._end()
        return header

    def _space(self, at: int) -> int:
        space = _SPACE.match(self._text, at)
        assert space is not None  # it matches nothing too
        return space.end()

    def _sign(self, at: int, signs: str) -> tuple[str, int]:
        """One of these signs, and where what follows begins."""
        at = self._space(at)
        sign = self._text[at : at + 1]
        if not sign or sign not in signs:
            _refuse(f"{shown(sign) or 'its end'} stands where {' or '.join(signs)} should be")
        return sign, at + 1

    def _string(self, at: int) -> tuple[str, int]:
        """A text, and where what follows it begins."""
        _, begin = self._sign(at, '"')
        text, end = scan(self._text, begin)
        if not text.isascii():
            text, _ = scan(self._raw[begin:end].decode(), 0)
            text.encode()  # a lone surrogate is no text
        return text, end

    def _unusual(self, at: int) -> tuple[int, bool]:
        """Metadata, or a tensor written in another way."""
        name, at = self._string(at)
        _, at = self._sign(at, ":")
        at = self._space(at)
        if name == "__metadata__":
            at = self._metadata(at)
        else:
            at = self._object(name, at)
        then, at = self._sign(at, ",}")
        return at, then == ","

    def _metadata(self, at: int) -> int:
        if self._has_metadata:
            _refuse("it has metadata twice")
        self._has_metadata = True
        if self._text.startswith("null", at):
            return at + 4
        _, at = self._sign(at, "{")
        at = self._space(at)
        if self._text[at : at + 1] == "}":
            return at + 1
        metadata, then = self._header.metadata, ","
        while then == ",":
            key, at = self._string(at)
            _, at = self._sign(at, ":")
            metadata[key], at = self._string(at)
            then, at = self._sign(at, ",}")
            if len(metadata) > MOST_ENTRIES:
                _refuse(f"it has more than {MOST_ENTRIES:,} entries of metadata")
        return at

    def _object(self, name: str, at: int) -> int:
        entry = _OBJECT.match(self._text, at)
        if entry is None:
            _refuse(f"{shown(name)} is no tensor")
        try:
            values = _BORDER.mapping(_BORDER.json(self._raw[at : entry.end()]), "it")
            dtype = _BORDER.text(values.get("dtype"), "its type", 16)
            shape = [_BORDER.integer(n, "a size", 0) for n in _BORDER.sequence(values.get("shape"), "its shape")]
            start, end, *rest = (
                _BORDER.integer(n, "an offset", 0) for n in _BORDER.sequence(values.get("data_offsets"), "its place")
            )
        except (AdapterFileError, ValueError):
            rest = [True]
        if rest:
            _refuse(f"{shown(name)} is no tensor")
        self._add(name, dtype, ",".join(map(str, shape)), start, end)
        return entry.end()

    def _add(self, name: str, dtype: str, shape: str, start: int, end: int) -> None:
        header = self._header
        if len(name) > LONGEST_NAME:
            _refuse(f"a tensor has a name of {len(name):,} characters, {LONGEST_NAME:,} are read")
        if name in header.shapes:
            _refuse(f"two tensors are called {shown(name)}")
        kind = self._kinds.get((dtype, shape))
        if kind is None:
            kind = self._kinds[dtype, shape] = (*self._kind(name, dtype, shape), dtype)
        if end < start or (end - start != kind[1] if kind[1] is not None else prod(kind[0]) > 8 * (end - start)):
            _refuse(f"{shown(name)} has a shape that does not fill its bytes")
        header.shapes[name], header.dtypes[name] = kind[0], dtype
        self._spans.append((start, end))
        if len(self._spans) > MOST_TENSORS:
            _refuse(_TOO_MANY)

    def _kind(self, name: str, dtype: str, shape: str) -> tuple[tuple[int, ...], int | None]:
        """The sizes, and how many bytes they fill; ``None`` where several numbers are packed into one byte."""
        if shape.count(",") >= MOST_AXES:
            _refuse(f"{shown(name)} has {shape.count(',') + 1:,} axes")
        sizes = tuple(map(int, shape.split(","))) if shape.strip() else ()
        if prod(max(n, 1) for n in sizes) > _LARGEST:
            _refuse(f"{shown(name)} has an impossible shape")
        element = self._dtypes.get(dtype)
        return sizes, None if element is None else prod(sizes) * element.itemsize

    def _end(self) -> int:
        """Where the last tensor ends; they follow one another without a gap, as the format wants it."""
        reached = 0
        for start, end in sorted(self._spans):
            if start != reached:
                _refuse("tensors overlap, or there is a gap between them")
            reached = end
        return reached
