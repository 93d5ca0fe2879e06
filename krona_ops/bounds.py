"""What a setting may be, said once, in the annotation of its field: ``steps: Annotated[int, Within(1)] = 1000``.

Dataclasses check themselves with `require_fields`; files of settings are checked by the same words with the name of
each setting's place; the documentation's table and the nodes' inputs are compared with them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, final, get_args, get_origin, get_type_hints

from .errors import ConfigError


@final
@dataclass(frozen=True)
class Within:
    """A finite number from ``low`` to ``high``."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    """``low`` itself is too small."""
    open_high: bool = False
    """``high`` itself is too large."""
    remedy: str = ""
    """What is usual, a full sentence."""

    def allows(self, value: Any) -> bool:
        """Whether a number is one of these; not a number and infinity never are."""
        is_low = value <= self.low if self.open_low else value < self.low
        is_high = value >= self.high if self.open_high else value > self.high
        is_finite = isinstance(value, int) or math.isfinite(value)  # whole numbers may be too large for a float
        return is_finite and not is_low and not is_high

    def __str__(self) -> str:
        low = f"above {_plain(self.low)}" if self.open_low else f"from {_plain(self.low)}"
        high = f"below {_plain(self.high)}" if self.open_high else f"to {_plain(self.high)}"
        if math.isinf(self.high):
            return low if self.open_low else "finite" if math.isinf(self.low) else f"{_plain(self.low)} or more"
        if math.isinf(self.low):
            return high if self.open_high else f"at most {_plain(self.high)}"
        return f"{low}, {high}" if self.open_low or self.open_high else f"{low} {high}"


SHOWN = 60
"""Characters of a wrong value in a message."""
ABOVE_0 = Within(0, open_low=True)


@cache
def bounds(kind: type) -> dict[str, Within]:
    """The bounds of a dataclass's fields by name; of a tuple's items where the field is one.
    Fields without any are missing."""
    within = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        bound = next(_bounds_in(hint), None)
        if bound is not None:
            within[name] = bound
    return within


def require(kind: type, name: str, value: Any, where: str = "") -> None:
    """Whether a field may have a value of the right type.

    Args:
        where: The place of the dataclass in a file, ``training.optimizer.``; part of the message.

    Raises:
        ConfigError: The value is out of bounds; the message names the setting, the value and what is possible.
    """
    bound = bounds(kind).get(name)
    if bound is None or all(map(bound.allows, value if isinstance(value, tuple) else (value,))):
        return
    raise ConfigError(
        f"{where}{name} is {shown(value)}; it must be {bound}.",
        found=value,
        expected=str(bound),
        remedy=bound.remedy or None,
    )


def shown(value: Any) -> str:
    """A value for a message: its ``repr``, cut to `SHOWN` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write whole numbers of thousands of digits
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def require_fields(config: Any) -> None:
    """Whether all fields of a dataclass are within their bounds; for its ``__post_init__``.

    Raises:
        ConfigError: A field is out of its bounds.
    """
    for field in dataclasses.fields(config):
        require(type(config), field.name, getattr(config, field.name))


def _bounds_in(hint: Any) -> Iterator[Within]:
    if get_origin(hint) is Annotated:
        yield from (extra for extra in hint.__metadata__ if isinstance(extra, Within))
    for argument in get_args(hint):
        yield from _bounds_in(argument)


def _plain(number: float) -> str:
    """A number as one would write it: ``0.001``, ``1000000``."""
    return str(int(number)) if float(number).is_integer() else f"{number:.12g}"
