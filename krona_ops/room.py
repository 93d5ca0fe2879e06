"""How large an update may be formed: a file of some kilobytes can speak of a matrix that no memory holds.

A LoRA of 60000 × 60000 at rank 1 has 0.5 MB and an update of 14 GB. Whatever keeps the structure (loading, an exact
sum, applying to a weight, most measures) needs no bound.
What forms ``ΔW`` of one layer asks here first, also for what comes up on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from .errors import KronaError, SizeError

MOST_NUMBERS = 2**28
"""1 GiB in float32, four times the largest layer of Flux.1; the methods that form updates hold several at a time."""
VARIABLE = "KRONA_MOST_NUMBERS"
"""The environment variable that sets another bound, for models with larger layers and
machines with the memory for them."""
LARGEST_SIDE = 8192
"""Of a matrix that is decomposed: the time grows with its cube, and this one takes minutes."""


def most_numbers() -> int:
    """How many numbers may be formed at once."""
    text = os.environ.get(VARIABLE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else MOST_NUMBERS


def require_room(shape: tuple[int, ...], what: str = "The update") -> None:
    """Refuse to form a tensor of more numbers than `most_numbers`.

    Args:
        what: What it would be, for the error.

    Raises:
        SizeError: A tensor of this shape is larger than what may be formed.
    """
    numbers, most = prod(shape), most_numbers()
    if numbers > most:
        raise SizeError(
            f"{what} is {' × '.join(map(str, shape))}, {numbers:,} numbers when it is formed; {most:,} are allowed.",
            found=numbers,
            expected=f"{most:,} numbers at most",
            remedy=f"Leave this layer out; or set the environment variable {VARIABLE} if the machine has the memory.",
        )


@contextmanager
def layer_by_layer(name: str) -> Iterator[None]:
    """Name the layer in errors that are raised inside; too little memory becomes such an error.

    Raises:
        KronaError: What was raised, with the layer's name.
        SizeError: There is not enough memory.
    """
    try:
        yield
    except KronaError as error:
        if error.layer is not None or error.where is not None:
            raise
        raise type(error)(error.reason, layer=name, found=error.found, expected=error.expected) from error
    except (MemoryError, RuntimeError) as error:
        if not (
            isinstance(error, MemoryError) or "alloc" in str(error).lower() or "out of memory" in str(error).lower()
        ):
            raise
        raise SizeError(
            "There is not enough memory to form its update.",
            layer=name,
            found=type(error).__name__,
            expected="memory for some copies of the layer's weight",
            remedy="Close other programs, or leave this layer out.",
        ) from error
