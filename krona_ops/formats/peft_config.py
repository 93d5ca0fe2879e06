"""What PEFT's settings say about a file: its scales, and whether its tensors mean
something else than an update of a weight.

They are in ``adapter_config.json`` beside the file (then `krona_ops.formats.sidecar` first asks whether they are about
it), or in the metadata: whole as ``adapter_config``, or as diffusers keeps them, ``lora_adapter_metadata``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ..border import Border, finite
from ..errors import AdapterFileError, FormatError
from ..shown import shown
from .patterns import Patterns

PEFT_PREFIX = "base_model.model."
"""PEFT puts this before every name that it saves."""
METHOD_OF = {"LORA": "lora", "LOKR": "lokr", "LOHA": "hada"}
"""PEFT's kinds whose update of a weight is in the tensors, and how the names of their parts begin."""
_CHANGES_THE_BASE = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "lora_ga": "LoRA-GA", "loftq": "LoftQ"}
"""Values of ``init_lora_weights`` with which PEFT takes the first factors out of the base
weights (`lora/layer.py`, 0.21.2)."""
_SETTINGS = {
    "use_qalora": "a QA-LoRA adapter, whose lora_A works on groups of a quantised layer's inputs",
    "use_bdlora": "a BD-LoRA adapter, whose factors are the blocks of a diagonal",
    "alora_invocation_tokens": "an Activated LoRA, which acts on some of the tokens only",
    "arrow_config": "a router of several LoRAs (Arrow)",
    "kasa_config": "a KaSA adapter, which cuts the base model's weights down first",
    "target_parameters": "a LoRA of single parameters (target_parameters), whose layers have no names in the file",
    "layer_replication": "a LoRA for a model whose layers were repeated (layer_replication)",
    "megatron_config": "a LoRA of Megatron's parallel layers, of which a file may hold one part",
    "fan_in_fan_out": "a LoRA of layers that store their weight transposed (fan_in_fan_out)",
}
"""Settings that change what a LoRA's tensors mean, where they are neither false nor empty."""


@dataclass(frozen=True)
class PeftConfig:
    """What PEFT's settings say about scales."""

    kind: str
    """``LOKR``, ``LOHA`` or ``LORA``; another kind's tensors are not read."""
    r: float
    alpha: float
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    has_scale: bool = True
    """PEFT before 0.14 never multiplied LoKr by ``alpha / r``; its settings have no ``rank_dropout_scale`` yet."""
    bias: str = "none"
    """Which biases of the base model were trained too: ``none``, ``all`` or ``lora_only``."""

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> PeftConfig | None:
        """The settings in an ``adapter_config.json``; ``None`` where they make no sense."""
        kind = kind_of(values)
        r = finite(values.get("r"))
        alpha = finite(values.get("alpha" if kind in ("LOKR", "LOHA") else "lora_alpha"))
        ranks, alphas = _numbers(values.get("rank_pattern")), _numbers(values.get("alpha_pattern"))
        if r is None or alpha is None or ranks is None or alphas is None:
            return None
        has_scale = kind != "LOKR" or "rank_dropout_scale" in values
        bias = values.get("bias")
        return cls(
            kind,
            r,
            alpha,
            ranks,
            alphas,
            bool(values.get("use_rslora", False)),
            has_scale,
            bias if isinstance(bias, str) else "none",
        )

    def rank_of(self, path: str) -> float:
        """The ``r`` of a layer; `FormatError` where only an expression would tell."""
        rank = self._ranks.value_of(path)
        return self.r if rank is None else rank

    def alpha_of(self, path: str) -> float:
        """The ``alpha`` of a layer; `FormatError` where only an expression would tell."""
        alpha = self._alphas.value_of(path)
        return self.alpha if alpha is None else alpha

    @cached_property
    def _ranks(self) -> Patterns:
        return Patterns(self.rank_pattern, "rank_pattern")

    @cached_property
    def _alphas(self) -> Patterns:
        return Patterns(self.alpha_pattern, "alpha_pattern")


def _numbers(value: object) -> dict[str, float] | None:
    """The value as a mapping from keys to finite numbers; ``None`` where it is anything else."""
    if value is not None and not isinstance(value, Mapping):
        return None
    numbers: dict[str, float] = {}
    for key, entry in (value or {}).items():
        number = finite(entry)
        if number is None:
            return None
        numbers[str(key)] = number
    return numbers


def kind_of(values: Mapping[str, object]) -> str:
    """``peft_type`` in capitals, also where an enumeration's name was written."""
    kind = values.get("peft_type", "")
    return kind[-100:].rpartition(".")[2].upper() if isinstance(kind, str) else ""


_MOST_COMPONENTS = 16
"""A pipeline has three or four."""


def by_component(flat: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """The settings that diffusers keeps in one dictionary:
    ``{"unet.r": 4, …}`` by prefix, ``{"r": 4, …}`` as the only ones."""
    if "r" in flat and "lora_alpha" in flat:
        return {"": {"peft_type": "LORA", **flat}}
    prefixes = sorted({key.rpartition(".")[0] for key in flat if key.endswith((".r", ".lora_alpha"))})
    if len(prefixes) > _MOST_COMPONENTS:
        return {}
    return {
        f"{prefix}.": {
            "peft_type": "LORA",
            **{key.removeprefix(f"{prefix}."): value for key, value in flat.items() if key.startswith(f"{prefix}.")},
        }
        for prefix in prefixes
    }


def require_update(values: Mapping[str, object]) -> None:
    """Refuse by name what PEFT's settings make of the tensors, where that is no update of the weights of a plain model.

    Raises:
        FormatError: Such settings.
    """
    kind, start = kind_of(values), shown(values.get("init_lora_weights", "")).lower()
    if kind and kind not in METHOD_OF:
        raise _refused(f"a PEFT adapter of the kind {shown(kind)}", kind, "Merge it into the model with PEFT.")
    changed = next((name for word, name in _CHANGES_THE_BASE.items() if start.startswith(word)), None)
    if kind == "LORA" and changed is not None:
        raise _refused(
            f"a LoRA that began with {changed}: PEFT has taken its first factors out of the base model's weights, "
            "and without those the update is wrong",
            start,
            "Merge it with PEFT into the quantised model that it was trained on."
            if changed == "LoftQ"
            else "Save it again with PEFT's save_pretrained(path_initial_model_for_weight_conversion=…), which makes a plain LoRA of it.",
        )
    setting = next((key for key in _SETTINGS if kind == "LORA" and _is_on(values.get(key))), None)
    if setting is not None:
        raise _refused(_SETTINGS[setting], setting, "Merge it into the model with PEFT.")


def _is_on(value: object) -> bool:
    return value not in (None, False, 0, "", "false", "False") and value != [] and value != {}


def _refused(what: str, found: object, remedy: str) -> FormatError:
    return FormatError(f"It is {what}.", found=found, expected="updates of the weights of a plain model", remedy=remedy)


def parsed(text: str | None) -> Mapping[str, object]:
    """A JSON object in metadata; empty where it is none. Nothing there is trusted to be well-formed."""
    try:
        value = Border().json(text, allow_nan=True) if text else {}
    except AdapterFileError:
        return {}
    return value if isinstance(value, dict) else {}
