"""What strangers hand in, as plain typed values: decided once, where it comes in.

A file, a request or a process's output is turned into ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool`` and
``None`` under `Limits`, and each value that is used is asked for by its type. What does not fit ends in the border's
own error, which says what was found, shortened and safe to show, and what was expected. So nothing behind the border
meets a number of 400 digits, a list where a name should be, or nesting that no call stack holds.

>>> border = Border("rows.json")
>>> border.integer(border.mapping(border.json('{"steps": 3}'), "the row")["steps"], "steps", 1)
3
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from json import JSONDecoder

from .errors import AdapterFileError, KronaError
from .shown import shown

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
"""What JSON can say."""
_NOT_A_BRACKET = {n: None for n in range(128) if chr(n) not in "[]{}"}


@dataclass(frozen=True)
class Limits:
    """How large, how deep and how many values a text from outside may be."""

    size: int = 4_000_000
    """Bytes of text."""
    depth: int = 32
    """Lists and mappings inside one another."""
    values: int = 200_000
    """Values in all, each time that one is reached: YAML's aliases make many of few."""
    digits: int = 40
    """Of a number."""


@dataclass(frozen=True)
class Border:
    """Where values come in, and which error tells of those that do not fit."""

    where: str | None = None
    """The file, or the place in it, that errors name."""
    error: type[KronaError] = AdapterFileError
    remedy: str | None = None
    """What the user can do about a value that does not fit."""
    limits: Limits = field(default_factory=Limits)

    def refused(self, what: str, found: object, expected: str) -> KronaError:
        """The error for a value that does not fit."""
        return self.error(
            f"{what} is {shown(found)}, not {expected}.",
            where=self.where,
            found=shown(found),
            expected=expected,
            remedy=self.remedy,
        )

    def json(self, text: str | bytes, what: str = "the text", *, allow_nan: bool = False) -> Value:
        """The value that a JSON text speaks of; nothing is built for one that is too large or too deep.

        Args:
            what: What the text is, for the error.
            allow_nan: Whether ``NaN`` and ``Infinity``, and numbers too large for a float, are numbers too.

        Raises:
            KronaError: Of the border's kind: it is no JSON, or more than the limits allow.
        """
        if len(text) > self.limits.size:
            raise self._no_json(what, f"it has {len(text):,} bytes, {self.limits.size:,} are allowed")
        try:
            words = text.removeprefix(codecs.BOM_UTF8).decode() if isinstance(text, bytes | bytearray) else text
            self._require_flat(words)
            words = words.strip(" \t\r\n")
            value, end = (self._lenient if allow_nan else self._strict).raw_decode(words)
            if end != len(words):
                raise ValueError(f"something follows it: {shown(words[end:], 20)}")
            return value
        except (ValueError, RecursionError) as error:
            raise self._no_json(what, str(error) if isinstance(error, ValueError) else "it is too deep") from error

    @cached_property
    def _strict(self) -> JSONDecoder:
        return JSONDecoder(parse_int=self._integer, parse_float=self._float, parse_constant=_no_number)

    @cached_property
    def _lenient(self) -> JSONDecoder:
        return JSONDecoder(parse_int=self._integer)

    def _no_json(self, what: str, reason: str) -> KronaError:
        return self.error(
            f"{what} cannot be read as JSON: {shown(reason, 160)}.",
            where=self.where,
            found=shown(reason, 160),
            expected="JSON of a usual size",
            remedy=self.remedy,
        )

    def _require_flat(self, text: str) -> None:
        """Refuse by counting brackets and commas, which is much less work than building what they stand for."""
        opened = text.count("[") + text.count("{")
        if opened <= self.limits.depth and opened + text.count(",") < self.limits.values:
            return
        # Without what is in quotation marks.
        bare = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
        count = bare.count("[") + bare.count("{") + bare.count(",")
        if count >= self.limits.values:
            raise ValueError(f"it has {count:,} values, {self.limits.values:,} are allowed")
        brackets = bare.translate(_NOT_A_BRACKET)
        deepest = max(accumulate(1 if c in "[{" else -1 for c in brackets if c in "[]{}"), default=0)
        if deepest > self.limits.depth:
            raise ValueError(f"its lists and mappings are {deepest:,} deep, {self.limits.depth} are allowed")

    def _integer(self, digits: str) -> int:
        if len(digits) > self.limits.digits:
            raise ValueError(f"it has a number of {len(digits):,} digits")
        return int(digits)

    def _float(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise ValueError(f"{shown(digits, 20)} is too large for a number")
        return value

    def tree(self, value: object, what: str = "the text") -> object:
        """The same value, from another reader than `json`, if it is within the limits; aliases count each time.

        Raises:
            KronaError: Of the border's kind: it is too deep, or holds too many values or a number that is too long.
        """
        reached, level, depth = 0, [value], 0
        while level:
            reached += len(level)
            if reached > self.limits.values or depth > self.limits.depth:
                raise self.error(
                    f"{what} is too large: more than {self.limits.values:,} values, or more than {self.limits.depth} deep.",
                    where=self.where,
                    found=shown(value),
                    expected=f"{self.limits.values:,} values at most, {self.limits.depth} deep at most",
                    remedy=self.remedy,
                )
            below: list[object] = []
            for item in level:
                if isinstance(item, int) and item.bit_length() > 4 * self.limits.digits:
                    raise self.refused(what, item, f"a number of {self.limits.digits} digits at most")
                if isinstance(item, dict | list | tuple | set) and len(below) <= self.limits.values:
                    below += [*item, *item.values()] if isinstance(item, dict) else item
            level, depth = below, depth + 1
        return value

    # ----------------------------------------------------------------------------------------------------- typed values

    def integer(self, value: object, what: str, least: int = -(2**63), most: int = 2**63 - 1) -> int:
        """A whole number in a range; also one that was written as ``3.0``."""
        whole = int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value
        if not isinstance(whole, int) or isinstance(whole, bool) or not least <= whole <= most:
            span = (f" from {least}" if least > -(2**63) else "") + (f" to {most}" if most < 2**63 - 1 else "")
            raise self.refused(what, value, f"a whole number{span}")
        return whole

    def number(self, value: object, what: str, least: float = -math.inf, most: float = math.inf) -> float:
        """The value as a finite number from ``least`` to ``most``."""
        number = finite(value)
        if number is None or not least <= number <= most:
            span = (f" from {least:g}" if least > -math.inf else "") + (f" to {most:g}" if most < math.inf else "")
            raise self.refused(what, value, f"a number{span}")
        return number

    def text(self, value: object, what: str, most: int = 100_000) -> str:
        """A text of so many characters at most, which can be written as UTF-8."""
        if not isinstance(value, str) or len(value) > most or not _is_unicode(value):
            raise self.refused(what, value, f"a text of {most:,} characters at most")
        return value

    def choice(self, value: object, what: str, choices: Iterable[str]) -> str:
        """The value, which must be one of ``choices``."""
        allowed = list(choices)
        if not isinstance(value, str) or value not in allowed:
            raise self.refused(what, value, " or ".join(allowed))
        return value

    def truth(self, value: object, what: str) -> bool:
        """The value, which must be ``True`` or ``False``."""
        if not isinstance(value, bool):
            raise self.refused(what, value, "true or false")
        return value

    def mapping(self, value: object, what: str, most: int | None = None) -> dict[str, object]:
        """The value, which must be a mapping whose keys are texts."""
        most = self.limits.values if most is None else most
        if not isinstance(value, Mapping) or len(value) > most or not all(isinstance(key, str) for key in value):
            raise self.refused(what, value, "a mapping with names as its keys")
        return dict(value)

    def sequence(self, value: object, what: str, most: int | None = None) -> list[object]:
        """The value as a list, which it must be, of at most ``most`` items."""
        most = self.limits.values if most is None else most
        if not isinstance(value, list | tuple) or len(value) > most:
            raise self.refused(what, value, f"a list of {most:,} values at most")
        return list(value)


def finite(value: object) -> float | None:
    """A finite number as a float; ``None`` for anything else, texts,
    truths and numbers too large for a float included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which neither files nor terminals take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
