"""Every setting of a training, with its default; nodes, YAML files, docs and tests read them from here."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from krona_ops.errors import ConfigError
from krona_ops.kron import Layout
from krona_ops.targets import TargetRule

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained."""

    targets: tuple[TargetRule, ...] = (TargetRule(),)
    """Which layers, with which factors; the first rule that matches a layer counts. Default: every attention's q, k, v and
    out at 64 × 4, the paper's best (DiffuseKronA, Table 2)."""
    layout: Layout = "kron"
    """``kron`` is the Kronecker product of the paper, which every LoKr loader reads. ``shuffled`` is what the released
    DiffuseKronA code computes."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError(
                "There is no target rule.", found=0, expected="at least one", remedy="Leave the targets at their default."
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """How the factors move: AdamW, as in the released DiffuseKronA recipe."""

    learning_rate: float = 5e-4
    """Paper: 5e-4; favourable from 1e-4 to 1e-3 (DiffuseKronA, Fig. 16)."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: float = 1.0
    """The gradient of all factors together is scaled down to this norm; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        _require_positive(self, "learning_rate", "eps")
        _require_not_negative(self, "weight_decay", "max_grad_norm")


@dataclass(frozen=True)
class TrainConfig:
    """One training."""

    steps: int = 500
    """Optimizer steps. Paper: 500 are enough for a simple subject, 1000 and more for a complex one or long prompts."""
    batch_size: int = 1
    """Pictures per step, each with its own caption, noise and noise level."""
    accumulate: int = 1
    """Batches per step: their gradients are averaged. The effect of a larger batch without its memory."""
    seed: int = 0
    """Everything random comes from it: the factors' start, the order of the pictures, the noise and its levels."""
    save_every: int = 100
    """Steps between saved states; a run can go on from the newest one, bit for bit. 0 saves at the end only."""
    keep_states: int = 2
    """How many of the newest states are kept."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        _require_positive(self, "steps", "batch_size", "accumulate", "keep_states")
        _require_not_negative(self, "seed", "save_every")


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(
                f"{name} is {getattr(config, name)}.",
                found=getattr(config, name),
                expected="more than 0",
                remedy=f"Set {name} above 0.",
            )


def _require_not_negative(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= 0:
            raise ConfigError(
                f"{name} is {getattr(config, name)}.",
                found=getattr(config, name),
                expected="0 or more",
                remedy=f"Set {name} to 0 or more.",
            )


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
        ConfigError: A setting is unknown, has a value of the wrong type, or fails the config's own checks.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(
            f"There is no setting {where}{unknown[0]}.",
            found=unknown[0],
            expected=", ".join(sorted(hints)),
            remedy="Check its spelling.",
        )
    return kind(**{name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()})


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
    if origin is Literal and value in arguments:
        return value
    if hint is float and isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-4 as text, because it has no point
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ConfigError(
        f"{where} is {value!r}.",
        found=value,
        expected=getattr(hint, "__name__", str(hint)),
        remedy="Correct it or leave the line out.",
    )


def to_yaml(config: object) -> str:
    """The config as YAML, in the order of its fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def from_yaml(text: str) -> TrainConfig:
    """A training's config from YAML (JSON is YAML too).

    Raises:
        ConfigError: The text is no YAML mapping, or holds a setting that is unknown or wrong.
    """
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(
            f"The file is no YAML: {error}.", found="damaged YAML", expected="YAML or JSON", remedy="Correct that line."
        ) from error
    if not isinstance(values, Mapping):
        raise ConfigError(
            "The file holds no settings.",
            found=type(values).__name__,
            expected="name: value lines",
            remedy="See docs/training.md.",
        )
    return from_dict(TrainConfig, values)
