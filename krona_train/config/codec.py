"""Dataclasses of settings as YAML or JSON, and back: types and bounds are checked, and what is wrong is named by its place."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Hashable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from krona_ops.bounds import require, shown
from krona_ops.errors import ConfigError

from . import plain_yaml

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def to_dict(config: object) -> dict[str, Any]:
    """A config as plain numbers, texts, lists and dicts, ready for YAML or JSON."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}  # type: ignore[arg-type]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_dict(kind: type, values: Mapping[str, Any], where: str = "") -> Any:
    """A config from what `to_dict` wrote; settings that are not named keep their defaults.

    Raises:
        ConfigError: A setting is unknown, has a value of the wrong type or out of its bounds, or fails the config's own checks.
    """
    hints = get_type_hints(kind)
    unknown = sorted(map(str, set(values) - set(hints)))
    if unknown:
        raise ConfigError(
            f"There is no setting {where}{plain_yaml.in_short(unknown[0])}.",
            found=plain_yaml.in_short(unknown[0]),
            expected=", ".join(sorted(hints)),
            remedy=f"Check its spelling; here are {', '.join(sorted(hints))}.",
        )
    converted = {name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()}
    for name, value in converted.items():
        require(kind, name, value, where)
    return kind(**converted)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, f"{where}.")
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin in (Union, types.UnionType):
        hint = next((kind for kind in arguments if kind is type(value)), hint)
    if origin is Literal and isinstance(value, Hashable) and value in arguments:
        return value
    if hint is float and isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-4 as text, because it has no point
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _to_float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    expected = _in_words(hint)
    raise ConfigError(
        f"{where} is {shown(value)}; it must be {expected}.",
        found=value,
        expected=expected,
        remedy="Correct it or leave the line out.",
    )


def _to_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number of more than 308 digits
        return float("inf") if number > 0 else float("-inf")


def _in_words(hint: Any) -> str:
    """What a type wants, for a person."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        many = "a list" if arguments[-1] is Ellipsis else f"a list of {len(arguments)}"
        return f"{many}, each {_in_words(arguments[0])}"
    if dataclasses.is_dataclass(hint):
        return f"a group of settings ({', '.join(field.name for field in dataclasses.fields(hint))})"
    return _WORDS.get(hint, str(hint))


def to_yaml(config: object) -> str:
    """The config as YAML, in the order of its fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def from_yaml(text: str, kind: type) -> Any:
    """A config from YAML (JSON is YAML too).

    Raises:
        ConfigError: The text is no YAML mapping, names a setting twice, holds one that is unknown or wrong, or is more than settings can be.
    """
    return from_dict(kind, plain_yaml.read(text))
