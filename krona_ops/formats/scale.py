"""How strong an update is: every trainer has its own rule, and few files say which. Decided once, here, with the reason.

========================  ==========================================  ============================
written by                both factors of a Kronecker product whole   a factor stored as a product
========================  ==========================================  ============================
LyCORIS, kohya, ComfyUI   1; ``alpha`` is ignored                     ``alpha / rank``
LyCORIS with rs_lora      ``√dim``; saved ``alpha`` is ``dim·√dim``   ``alpha / rank``
PEFT                      ``alpha / r``                               ``alpha / r``
sd-scripts KronA, CDKA    1, or ``alpha / √in_a``                     never
ai-toolkit                1; ``alpha`` is a placeholder, 9999999999   ``alpha / rank``
========================  ==========================================  ============================
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from ..errors import ConfigError, FormatError
from ..header import Header
from . import parts

ScaleRule = Literal["auto", "lycoris", "alpha/rank", "alpha/sqrt(in)", "alpha/sqrt(rank)", "1"]
"""How ``alpha`` becomes a scale; "auto" is LyCORIS's rule unless the file says that another trainer made it."""
RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)
PLACEHOLDER = 1e9
"""From here on alpha means "the rank": ai-toolkit writes 9999999999, which float16 turns into infinity."""
PEFT_PREFIX = "base_model.model."
"""PEFT puts this before every name that it saves."""
SOURCE = "krona.source."
"""Metadata that would scale a file again if it were read a second time is kept under this prefix."""


@dataclass(frozen=True)
class Resolved:
    """A scale and why it is that."""

    scale: float
    reason: str


@dataclass(frozen=True)
class Sizes:
    """What of one layer the rules look at."""

    name: str
    method: Literal["lokr", "loha", "lora", "cdka"]
    alpha: float | None
    """``None`` where the file has none."""
    rank: int | None
    """``None`` where both factors are whole."""
    in_a: int | None = None
    """Input width of the first factor of a Kronecker product."""
    block: int = 0
    """The larger side of the second factor: LyCORIS keeps both factors whole only from half of it on, or when told."""


@dataclass(frozen=True)
class PeftConfig:
    """What PEFT's settings say about scales."""

    kind: str
    """``LOKR``, ``LOHA`` or ``LORA``."""
    r: float
    alpha: float
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> PeftConfig | None:
        """The settings in an ``adapter_config.json``; ``None`` where they make no sense."""
        kind = str(values.get("peft_type", "")).rpartition(".")[2].upper()
        try:
            return cls(
                kind,
                float(values["r"]),  # type: ignore[arg-type]
                float(values["lora_alpha" if kind == "LORA" else "alpha"]),  # type: ignore[arg-type]
                {str(k): float(v) for k, v in dict(values.get("rank_pattern") or {}).items()},  # type: ignore[call-overload]
                {str(k): float(v) for k, v in dict(values.get("alpha_pattern") or {}).items()},  # type: ignore[call-overload]
                bool(values.get("use_rslora", False)),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def of(self, name: str) -> tuple[float, float]:
        """``(r, alpha)`` of a layer: patterns match the end of its path, the first one counts (``peft.utils.get_pattern_key``)."""
        name = name.removeprefix(PEFT_PREFIX)
        return _match(self.rank_pattern, name, self.r), _match(self.alpha_pattern, name, self.alpha)


def _match(patterns: Mapping[str, float], name: str, default: float) -> float:
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
        except (re.error, RecursionError) as error:
            raise FormatError(
                f'adapter_config.json has the pattern "{pattern[:100]}", which is no regular expression: {error}.',
                found=pattern,
                expected="a regular expression",
                remedy="Correct the file, or choose the scale rule yourself.",
            ) from error
    return default


@dataclass(frozen=True)
class Trainer:
    """What a file says about the program that made it, as far as it decides the scale."""

    dim: float | None = None
    conv_dim: float | None = None
    rs_lora: bool = False
    full_matrix: bool = False
    bypass: bool = False
    divides_by_root: bool = False
    """sd-scripts KronA or CDKA whose scale ``alpha / √in_a`` is not in the factors."""
    peft: Mapping[str, PeftConfig] = field(default_factory=dict)
    """By the prefix of the layers that it is about; diffusers keeps one per component."""

    @classmethod
    def of(cls, header: Header) -> Trainer:
        """Read what is known of the trainer from a file's metadata. Nothing here is trusted to be well-formed."""
        args = {**_object(header.metadata.get("lycoris_config")), **_object(header.metadata.get("ss_network_args"))}
        module = header.metadata.get("ss_network_module", "")
        return cls(
            dim=_positive(header.metadata.get("ss_network_dim")) or _positive(args.get("linear_dim")),
            conv_dim=_positive(args.get("conv_dim")),
            rs_lora=_is_true(args.get("rs_lora")),
            full_matrix=_is_true(args.get("full_matrix")),
            bypass=_is_true(args.get("bypass_mode")),
            divides_by_root=_divides_by_root(module, args),
            peft=_peft(header),
        )

    @property
    def decides(self) -> bool:
        """Whether the metadata changes a scale, so that reading a copy of the file would apply it twice."""
        return bool(self.rs_lora or self.bypass or self.divides_by_root or self.peft)

    def settings(self, name: str) -> PeftConfig | None:
        """PEFT's settings for a layer."""
        return next((config for prefix, config in self.peft.items() if name.startswith(prefix)), None)


DECIDING = ("ss_network_args", "ss_network_module", "lycoris_config", "adapter_config", "lora_adapter_metadata")


def neutral(metadata: Mapping[str, str], trainer: Trainer) -> dict[str, str]:
    """The metadata of an adapter whose scales are resolved: what decided them is kept under another name."""
    if not trainer.decides:
        return dict(metadata)
    return {(f"{SOURCE}{key}" if key in DECIDING else key): value for key, value in metadata.items()}


def _divides_by_root(module: str, args: Mapping[str, object]) -> bool:
    """sd-scripts PR #2370 as of 0c641ec. Later builds multiply the scale into ``lokr_w1`` and know more arguments."""
    later = {"cdka_factor_in", "dora_wd", "weight_decompose", "allora", "allora_eta"} & set(args)
    if re.search(r"networks\.krona$", module):
        return _positive(args.get("krona_alpha")) is not None and _is_true(args.get("use_cdka_scale"))
    return bool(re.search(r"networks\.cdka$", module)) and _positive(args.get("cdka_alpha")) is not None and not later


def _peft(header: Header) -> dict[str, PeftConfig]:
    inside = _object(header.metadata.get("adapter_config"))
    for values in (inside, header.config if _is_saved_by_peft(header) else {}):
        if values and (config := PeftConfig.parse(values)):
            return {"": config}
    flat = _object(header.metadata.get("lora_adapter_metadata"))  # diffusers: {"unet.r": 4, "unet.lora_alpha": 8, …}
    prefixes = {key.partition(".")[0] for key in flat if key.endswith((".r", ".lora_alpha"))}
    found = {}
    for prefix in sorted(prefixes):
        values = {key.removeprefix(f"{prefix}."): value for key, value in flat.items() if key.startswith(f"{prefix}.")}
        if config := PeftConfig.parse({"peft_type": "LORA", **values}):
            found[f"{prefix}."] = config
    return found


def _is_saved_by_peft(header: Header) -> bool:
    """Whether the settings beside a file can be about it: a folder of many files may hold those of another one."""
    layers = parts.updates(header.shapes)  # what else is in the file says nothing about who made it
    return all(name.startswith(PEFT_PREFIX) and f"{name}.alpha" not in header.shapes for name in layers)


def _object(text: str | None) -> dict[str, object]:
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _positive(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def _is_true(value: object) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes", "y", "on")


def resolve(rule: ScaleRule, sizes: Sizes, trainer: Trainer) -> Resolved:
    """The scale of one layer.

    Raises:
        FormatError: ``rule`` needs a number that the file does not have, or ``alpha`` is none.
    """
    if sizes.alpha is not None and math.isnan(sizes.alpha):
        raise FormatError(
            "Its alpha is no number.",
            layer=sizes.name,
            found=sizes.alpha,
            expected="a number",
            remedy='The file is damaged; with the scale rule "1" it may still be of use.',
        )
    if rule == "auto":
        return _automatic(sizes, trainer)
    if rule == "1":
        return Resolved(1.0, "scale 1, as chosen")
    if rule == "lycoris":
        return _lycoris(sizes, Trainer())
    return _chosen(rule, sizes, trainer)


def _automatic(sizes: Sizes, trainer: Trainer) -> Resolved:
    config = trainer.settings(sizes.name)
    if config is not None and config.kind.lower() == sizes.method:
        return _by_peft(sizes, config)
    if sizes.method == "cdka":
        return _by_root(sizes, "CDKA: alpha / √(r·in)")
    if sizes.method == "lokr" and trainer.divides_by_root and sizes.rank is None:
        return _by_root(
            sizes,
            "sd-scripts KronA/CDKA: alpha / √in_a. Later builds multiply that into lokr_w1 already; if the effect is "
            'far too strong, choose the scale rule "1"',
        )
    return _lycoris(sizes, trainer)


def _by_peft(sizes: Sizes, config: PeftConfig) -> Resolved:
    r, alpha = config.of(sizes.name)
    if not 0 < r < math.inf or not math.isfinite(alpha) or (sizes.rank is not None and sizes.rank != r):
        raise FormatError(
            f"adapter_config.json says rank {r:g} and alpha {alpha:g}, the file has rank {sizes.rank}.",
            layer=sizes.name,
            found=r,
            expected=sizes.rank,
            remedy="The two files do not belong together: take the config away, or choose the scale rule yourself.",
        )
    root = config.use_rslora and sizes.method == "lora"
    return Resolved(alpha / (math.sqrt(r) if root else r), f"PEFT: alpha {alpha:g} / {'√' if root else ''}r {r:g}")


def _lycoris(sizes: Sizes, trainer: Trainer) -> Resolved:
    if sizes.rank is None:
        return _whole(sizes, trainer)
    if sizes.alpha is None:
        return Resolved(1.0, "no alpha in the file: scale 1")
    if abs(sizes.alpha) >= PLACEHOLDER:
        return Resolved(1.0, "alpha is a placeholder: scale 1")
    if sizes.alpha == 0:
        return Resolved(1.0, "alpha 0 means alpha = rank: scale 1 (LyCORIS rule)")
    reason = f"alpha {sizes.alpha:g} / rank {sizes.rank}"
    if trainer.bypass and sizes.method == "lokr" and sizes.alpha != sizes.rank:
        effect = "weak" if sizes.alpha < sizes.rank else "strong"
        reason += (
            ". It was trained in bypass mode, where LyCORIS before version 4 used scale 1: if the effect is too "
            f'{effect}, choose the scale rule "1"'
        )
    return Resolved(sizes.alpha / sizes.rank, reason)


def _whole(sizes: Sizes, trainer: Trainer) -> Resolved:
    """Both factors are whole: LyCORIS and ComfyUI take 1, whatever alpha says."""
    alpha = sizes.alpha
    if alpha is None:
        return Resolved(1.0, "both factors whole: scale 1 (LyCORIS rule)")
    if abs(alpha) >= PLACEHOLDER:
        return Resolved(1.0, "both factors whole, alpha is a placeholder: scale 1")
    if trainer.rs_lora:
        # LyCORIS saves alpha = dim·√dim; a convolution may have a dimension of its own.
        said = trainer.dim is not None and math.isclose(alpha, trainer.dim**1.5, rel_tol=0.01)
        dim = trainer.dim if said and trainer.dim else max(alpha, 0.0) ** (2 / 3)
        return Resolved(math.sqrt(dim), f"both factors whole, rs_lora: scale √{dim:.4g}")
    if _is_unusual(alpha, sizes, trainer):
        offers = [f'"alpha/rank" ({alpha / trainer.dim:g})'] if trainer.dim else []
        if sizes.in_a:
            offers.append(f'"alpha/sqrt(in)" ({alpha / math.sqrt(sizes.in_a):g})')
        return Resolved(
            1.0,
            f"both factors whole: scale 1 (LyCORIS rule), alpha {alpha:g} is ignored. No known trainer of that rule saves this "
            f"alpha; if the effect is far too strong or too weak, choose the scale rule {' or '.join(offers) or '1'}",
        )
    return Resolved(1.0, f"both factors whole: scale 1 (LyCORIS rule), alpha {alpha:g} is ignored")


def _is_unusual(alpha: float, sizes: Sizes, trainer: Trainer) -> bool:
    """Whether a trainer with LyCORIS's rule would not have saved this alpha: it saves the dimension (ComfyUI #15114).

    ComfyUI's own trainer saves 1. Without a dimension in the metadata, one that LyCORIS would have decomposed is unusual.
    """
    if trainer.dim is not None:
        return alpha not in (trainer.dim, trainer.conv_dim)
    whole_from = 0 if trainer.full_matrix else sizes.block / 2
    return alpha != 1 and not (alpha > 0 and alpha == int(alpha) and alpha >= whole_from)


def _by_root(sizes: Sizes, reason: str) -> Resolved:
    if sizes.alpha is None or abs(sizes.alpha) >= PLACEHOLDER:
        return Resolved(1.0, "no alpha in the file: scale 1")
    width = (sizes.in_a or 1) * (sizes.rank if sizes.method == "cdka" and sizes.rank else 1)
    return Resolved(sizes.alpha / math.sqrt(width), reason)


def _chosen(rule: ScaleRule, sizes: Sizes, trainer: Trainer) -> Resolved:
    if rule == "alpha/sqrt(in)" and sizes.in_a is None:
        return _lycoris(sizes, Trainer())  # no Kronecker product: the rule says nothing about it
    number = sizes.in_a if rule == "alpha/sqrt(in)" else sizes.rank or trainer.dim or _config_rank(sizes, trainer)
    alpha = sizes.alpha if sizes.alpha is not None else _config_alpha(sizes, trainer)
    if number is None or alpha is None:
        what = "alpha" if alpha is None else "rank"
        raise FormatError(
            f'The scale rule "{rule}" needs {what}, and the file does not say it.',
            layer=sizes.name,
            found=f"no {what}",
            expected=rule,
            remedy='Choose "auto" or "1" and set the strength by hand.',
        )
    if abs(alpha) >= PLACEHOLDER:
        return Resolved(1.0, "alpha is a placeholder: scale 1")
    return Resolved(alpha / (number if rule == "alpha/rank" else math.sqrt(number)), f"{rule}, as chosen")


def _config_rank(sizes: Sizes, trainer: Trainer) -> float | None:
    config = trainer.settings(sizes.name)
    return _positive(config.of(sizes.name)[0]) if config else None


def _config_alpha(sizes: Sizes, trainer: Trainer) -> float | None:
    config = trainer.settings(sizes.name)
    return config.of(sizes.name)[1] if config else None


def check_rule(rule: str) -> ScaleRule:
    """The rule, if it is one.

    Raises:
        ConfigError: It is not.
    """
    if rule not in RULES:
        raise ConfigError(
            f'There is no scale rule "{rule}".', found=rule, expected=" or ".join(RULES), remedy='Take "auto" to start with.'
        )
    return rule  # type: ignore[return-value]
