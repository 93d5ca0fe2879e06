"""Dataclasses of settings as YAML or JSON, and back: types and bounds are checked, errors name the place of the
setting."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from krona_ops.bounds import require, shown
from krona_ops.errors import ConfigError

from . import plain_yaml

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
_WORDS: dict[object, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
KIND = "kind"
T = TypeVar("T")


class Settings(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]


class OfKind(Settings, Protocol):
    """A dataclass of settings that are told apart from others by their kind, which is no field of theirs."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class OneOf:
    """Beside a field's type: the classes of which it holds one, told apart by ``kind``.

    Args:
        choices: Gives them; the first one is meant where no kind is named. Called when settings are read or described.
    """

    choices: Callable[[], Sequence[type[OfKind]]]

    def chosen(self, values: Mapping[str, object], where: str) -> type[OfKind]:
        """The class that the ``kind`` among some values names; the first where there is none.

        Raises:
            ConfigError: There is no such kind.
        """
        kinds = {choice.kind: choice for choice in self.choices()}
        kind = values.get(KIND, next(iter(kinds)))
        if not isinstance(kind, str) or kind not in kinds:
            raise ConfigError(
                f"{where}.{KIND} is {shown(kind)}; it must be one of {', '.join(kinds)}.",
                found=kind,
                expected=", ".join(kinds),
                remedy="Choose one of these, or leave the line out.",
            )
        return kinds[kind]


def to_dict(config: Settings) -> dict[str, object]:
    """A config as plain numbers, texts, lists and dicts, ready for YAML or JSON; its kind first, where it has one."""
    fields = {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    kind = getattr(type(config), KIND, None)
    return fields if KIND in fields or kind is None else {KIND: kind, **fields}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_dict(kind: type[T], values: Mapping[str, object], where: str = "") -> T:
    """A config from what `to_dict` wrote; settings that are not named keep their defaults.

    Args:
        kind: The dataclass.
        where: The place of the values in a file, such as ``training.``: what errors put before a setting's name.

    Raises:
        ConfigError: A setting is unknown, has a value of the wrong type or out of its bounds, or fails the config's own
            checks.
    """
    hints = field_types(kind)
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
    make: Callable[..., T] = kind
    return make(**converted)


def field_types(kind: type) -> dict[str, object]:
    """The type of each field of a dataclass; ``Annotated`` with `OneOf` where the field holds one of several
    classes."""
    with_extras = get_type_hints(kind, include_extras=True)
    plain = get_type_hints(kind)
    return {
        field.name: with_extras[field.name] if one_of(with_extras[field.name]) is not None else plain[field.name]
        for field in dataclasses.fields(kind)
    }


def one_of(hint: object) -> OneOf | None:
    """The `OneOf` beside a field's type; ``None`` where there is none."""
    beside = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((each for each in beside if isinstance(each, OneOf)), None)


def _convert(hint: object, value: object, where: str) -> object:
    """A value from YAML or JSON as a field's type has it.

    Raises:
        ConfigError: It is of another type.
    """
    choice = one_of(hint)
    if choice is not None:
        hint = choice.chosen(value if isinstance(value, Mapping) else {}, where)
        value = {k: v for k, v in value.items() if k != KIND} if isinstance(value, Mapping) else value
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, f"{where}.")
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin in (Union, types.UnionType):
        fitting = next((kind for kind in arguments if kind is type(value) or _takes(kind, value)), None)
        if fitting is not None:
            return _convert(fitting, value, where)
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


def _takes(hint: object, value: object) -> bool:
    """Whether a value may be one of a list or of a closed choice; what is in the list is not looked at."""
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple)
    return get_origin(hint) is Literal and isinstance(value, Hashable) and value in get_args(hint)


def _to_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number of more than 308 digits
        return float("inf") if number > 0 else float("-inf")


def _in_words(hint: object) -> str:
    """What values of a type are called in messages: ``a whole number``, ``a list, each a text``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        many = "a list" if arguments[-1] is Ellipsis else f"a list of {len(arguments)}"
        return f"{many}, each {_in_words(arguments[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_in_words, arguments))
    if dataclasses.is_dataclass(hint):
        return f"a group of settings ({', '.join(field.name for field in dataclasses.fields(hint))})"
    return _WORDS.get(hint, str(hint))


def to_yaml(config: Settings) -> str:
    """The config as YAML, in the order of its fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def from_yaml(text: str, kind: type[T]) -> T:
    """A config from YAML (JSON is YAML too).

    Raises:
        ConfigError: The text is no YAML mapping, names a setting twice, holds one that is unknown or wrong, or is more
            than settings can be.
    """
    return from_dict(kind, plain_yaml.read(text))
