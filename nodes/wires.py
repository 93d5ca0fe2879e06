"""Inputs of a node that takes lists: the host then hands every input over as a list, those that are typed in too."""

from __future__ import annotations

from typing import TypeVar, overload

from krona_ops.errors import ConfigError

T = TypeVar("T")


@overload
def one(value: list[T], name: str, node: str) -> T: ...


@overload
def one(value: T, name: str, node: str) -> T: ...


def one(value: T | list[T], name: str, node: str) -> T:
    """The one value of an input, from the list that the host makes of it.

    Args:
        name: Of the input.
        node: The node's name, for the error.

    Raises:
        ConfigError: Several different values are connected, or an empty list.
    """
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values or any(other != values[0] for other in values[1:]):
        raise ConfigError(
            f"{len(values)} values are connected to '{name}', which takes one.",
            where=node,
            found=len(values),
            expected="one value",
            remedy="Only pictures, masks and texts are taken as lists. Choose one of the values before this node.",
        )
    return values[0]


def several(value: T | list[T] | None) -> list[T]:
    """All values of an input, without those that are missing."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [each for each in values if each is not None]
