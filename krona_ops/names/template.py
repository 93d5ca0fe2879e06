"""A layer's name without its block's numbers, so that one entry of a table stands for every block of a model."""

from __future__ import annotations

import re
from functools import lru_cache

_NUMBER = re.compile(
    r"((?:^|[._])[a-z0-9_]*?(?:(?<!\bt_)blocks?|(?<!in_)(?<!out_)(?<!emb_)layers?|refiner|attentions|resnets|stages|injector|adapter)[._])(\d+)(?=[._]|$)"
)
_JOINED = re.compile(r"((?:^|[._])block)(\d+)(?=[._]|$)")


@lru_cache(maxsize=20_000)
def template(name: str) -> tuple[str, tuple[str, ...]]:
    """The name with ``#`` for each number that counts blocks, and these numbers in order; dotted and flat names alike.

    >>> template("double_blocks.3.img_mlp.0")
    ('double_blocks.#.img_mlp.0', ('3',))
    """
    numbers: list[tuple[int, str]] = []

    def hide(match: re.Match[str]) -> str:
        numbers.append((match.start(2), match[2]))
        return f"{match[1]}{'#' * len(match[2])}"

    hidden = _JOINED.sub(hide, _NUMBER.sub(hide, name))
    return re.sub("#+", "#", hidden), tuple(number for _, number in sorted(numbers))


def filled(pattern: str, numbers: tuple[str, ...]) -> str:
    """The name that a template stands for; the opposite of `template`."""
    first, *rest = pattern.split("#")
    return first + "".join(number + part for number, part in zip(numbers, rest, strict=True))
