"""What a file's metadata, and PEFT's settings beside it, say about the program that made it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..border import finite
from ..shown import shown
from .header import Header
from .peft_config import PEFT_PREFIX, PeftConfig, by_component, parsed, require_update
from .sidecar import settings_beside

SOURCE = "krona.source."
"""Metadata that would scale a file again if it were read a second time is kept under this prefix."""
DECIDING = ("ss_network_args", "ss_network_module", "lycoris_config", "adapter_config", "lora_adapter_metadata")
LARGEST = 2.0**100
"""Of an alpha or a dimension; its powers are numbers too."""
_LONGEST_NUMBER = 100
_LATER = {"cdka_factor_in", "dora_wd", "weight_decompose", "wd_on_out", "allora", "allora_eta", "r1", "r2"}
"""Options that the first build of sd-scripts' CDKA did not have."""
_FIRST_BUILD = "0c641ec"
_BYPASSED_NORMS = (
    "LyCORIS was told both dora_wd and bypass_mode, and in bypass mode it trains without the DoRA norms, which stay those of the "
    "base model. They are applied here, as LyCORIS itself does when it merges the file; the pictures of the training had none."
)


@dataclass(frozen=True)
class Trainer:
    """What a file says about the program that made it, as far as it decides the scale."""

    dim: float | None = None
    conv_dim: float | None = None
    alpha: float | None = None
    """What the metadata says; a file's own may be too large for half precision."""
    rs_lora: Literal["", "kohya", "wrapper"] = ""
    """Which of LyCORIS's two ways of making a network was asked for it; its wrapper leaves the option out."""
    full_matrix: bool = False
    bypass: bool = False
    dora: bool = False
    sdscripts: bool = False
    """sd-scripts KronA or CDKA."""
    divides_by_root: bool = False
    """Their first build with its own scale, ``alpha / √in_a``, which is not in the factors."""
    is_reduced: bool = False
    """CDKA of several terms, brought into one product on saving:
    divided by ``alpha / dim``, which readers were to apply again."""
    may_divide_by_root: bool = False
    """It may be of either build."""
    peft: Mapping[str, PeftConfig] = field(default_factory=dict)
    """By the prefix of the layers that it is about; diffusers keeps one per component."""
    notes: tuple[str, ...] = ()
    """What the user should know about it as a whole."""

    @classmethod
    def of(cls, header: Header) -> Trainer:
        """The trainer of a file, by its metadata and by PEFT's settings beside it.

        Raises:
            FormatError: PEFT's settings make something else of the tensors than updates of weights.
        """
        wrapper, kohya = parsed(header.metadata.get("lycoris_config")), parsed(header.metadata.get("ss_network_args"))
        args, module = {**wrapper, **kohya}, header.metadata.get("ss_network_module", "")
        configs, note = _peft(header)
        bypass, dora = _is_true(args.get("bypass_mode")), _is_true(args.get("dora_wd"))
        is_cdka, is_krona = bool(re.search(r"networks\.cdka$", module)), bool(re.search(r"networks\.krona$", module))
        first = is_cdka and _is_first_build(header.metadata)
        asks_for_root = is_cdka and positive(args.get("cdka_alpha")) is not None and not _LATER & set(args)
        old_krona = positive(args.get("krona_alpha")) is not None and _is_true(args.get("use_cdka_scale"))
        rs_lora: Literal["", "kohya", "wrapper"] = "wrapper" if _is_true(wrapper.get("rs_lora")) else ""
        if _is_true(kohya.get("rs_lora")):
            rs_lora = "kohya"
        return cls(
            dim=positive(header.metadata.get("ss_network_dim")) or positive(args.get("linear_dim")),
            conv_dim=positive(args.get("conv_dim")),
            alpha=positive(header.metadata.get("ss_network_alpha")) or positive(args.get("linear_alpha")),
            rs_lora=rs_lora,
            full_matrix=_is_true(args.get("full_matrix")),
            bypass=bypass,
            dora=dora,
            sdscripts=is_cdka or is_krona,
            divides_by_root=(is_krona and old_krona) or (asks_for_root and first),
            is_reduced=is_cdka and (positive(args.get("r")) or 0) > 1,
            may_divide_by_root=asks_for_root and not first,
            peft=configs,
            notes=tuple(filter(None, (note, _BYPASSED_NORMS if bypass and dora and _has_norms(header) else ""))),
        )

    @property
    def decides(self) -> bool:
        """Whether the metadata changes a scale, so that reading a copy of the file would apply it twice."""
        return bool(self.rs_lora or self.bypass or self.divides_by_root or self.is_reduced or self.peft)

    def settings(self, name: str) -> PeftConfig | None:
        """PEFT's settings for the layer ``name``; ``None`` where the file has none for it."""
        return next((config for prefix, config in self.peft.items() if name.startswith(prefix)), None)

    def path(self, name: str) -> str:
        """A layer's path inside the model that PEFT's settings are about."""
        prefix = next((prefix for prefix in self.peft if name.startswith(prefix)), "")
        return name.removeprefix(prefix).removeprefix(PEFT_PREFIX)

    def dims(self, is_convolution: bool) -> tuple[float, ...]:
        """The dimensions that a layer may have been made with, the likeliest first:
        convolutions may have one of their own."""
        both = (self.conv_dim, self.dim) if is_convolution else (self.dim, self.conv_dim)
        return tuple(dict.fromkeys(dim for dim in both if dim))


def neutral(metadata: Mapping[str, str], trainer: Trainer) -> dict[str, str]:
    """The metadata of an adapter whose scales are resolved: what decided them is kept under another name."""
    if not trainer.decides:
        return dict(metadata)
    return {(f"{SOURCE}{key}" if key in DECIDING else key): value for key, value in metadata.items()}


def _is_first_build(metadata: Mapping[str, str]) -> bool:
    return metadata.get("ss_sd_scripts_commit_hash", "").startswith(_FIRST_BUILD)


def _has_norms(header: Header) -> bool:
    return any(key.endswith(".dora_scale") for key in header.shapes)


def _peft(header: Header) -> tuple[dict[str, PeftConfig], str]:
    """PEFT's settings by the prefix of the layers that they are about,
    and what the user is told about those beside the file."""
    inside = {"": parsed(header.metadata.get("adapter_config"))}
    for settings in (inside, by_component(parsed(header.metadata.get("lora_adapter_metadata")))):
        for values in settings.values():
            require_update(values)
        if configs := {prefix: config for prefix, values in settings.items() if (config := PeftConfig.parse(values))}:
            return configs, ""
    config, note = settings_beside(header)
    if config is None:
        return {}, note
    require_update(header.config)
    return {"": config}, note


def positive(value: object) -> float | None:
    """A positive number of a size that dimensions and alphas have, also where it is written as a text;
    ``None`` for anything else."""
    try:
        number = float(value) if isinstance(value, str) and len(value) < _LONGEST_NUMBER else finite(value)
    except ValueError:
        return None
    return number if number is not None and 0 < number <= LARGEST else None


def _is_true(value: object) -> bool:
    return isinstance(value, bool | int | str) and shown(value).strip().lower() in ("true", "1", "yes", "y", "on")
