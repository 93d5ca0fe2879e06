"""What a saved training's file has beside its tensors, as typed values: read once, here, whatever the file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from krona_ops.border import Border, Limits
from krona_ops.errors import AdapterFileError
from krona_ops.names.branches import READINGS
from krona_ops.shown import shown

from ..config import BranchConfig, Checkpointing, DenoisingConfig, TrainConfig, from_dict

KIND = "krona.train-state"
SCHEMA = "2"
AS_THEN = "as then"
"""Among the numbers: the settings that are younger than the run, which goes on without them."""
_YOUNGER = ("objective.embedded_guidance", "objective.reading")
_MOST_STEPS = 100_000_000
_LIMITS = Limits(size=20_000_000, values=2_000_000)
"""A group of numbers for each layer of a large model that has a rate of its own, and a handful for each factor."""


@dataclass(frozen=True)
class StateMetadata:
    """The metadata of a state."""

    step: int
    config: TrainConfig
    numbers: Mapping[str, object]
    base: str
    data: str


def read_metadata(metadata: Mapping[str, str], where: str) -> StateMetadata:
    """The metadata of a file, checked.

    Raises:
        AdapterFileError: The file is no state, or a damaged one.
        ConfigError: It was written by a version with other settings.
    """
    if metadata.get("krona.kind") != KIND or metadata.get("krona.schema") != SCHEMA:
        raise AdapterFileError(
            "This is no saved training of this version.",
            where=where,
            found=shown(metadata.get("krona.kind", "another file")),
            expected=f"{KIND} {SCHEMA}",
            remedy="Choose a file named state-….safetensors from a run's folder.",
        )
    border = Border(where, AdapterFileError, "The state is damaged; go on from an older one.", _LIMITS)
    missing = next(
        (key for key in ("step", "config", "numbers", "base", "data") if f"krona.{key}" not in metadata), None
    )
    if missing is not None:
        raise border.refused(f"krona.{missing}", "missing", "a text")
    digits = metadata["krona.step"]
    step = border.integer(
        int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else digits,
        "krona.step",
        0,
        _MOST_STEPS,
    )
    stored = border.mapping(border.json(metadata["krona.config"], "krona.config", allow_nan=True), "krona.config")
    config = from_dict(TrainConfig, _as_then(stored, border))
    numbers: dict[str, object] = {
        AS_THEN: _younger(stored, border),
        **border.mapping(border.json(metadata["krona.numbers"], "krona.numbers", allow_nan=True), "krona.numbers"),
    }
    _check(numbers, border)
    return StateMetadata(step, config, numbers, metadata["krona.base"], metadata["krona.data"])


def _as_then(config: Mapping[str, object], border: Border) -> dict[str, object]:
    """Settings of a file from before they existed, as trainings were then; defaults have changed since."""
    objective = border.mapping(config.get("objective", {}), "objective")
    if objective.get("kind", DenoisingConfig.kind) == DenoisingConfig.kind:
        objective = {"embedded_guidance": 0.0, **objective}
    if _looks_at_a_first_frame(objective):
        objective = {"reading": READINGS[0], **objective}
    optimizer = {"rate_by_width": 0.0, **border.mapping(config.get("optimizer", {}), "optimizer")}
    return {**config, "optimizer": optimizer, "objective": objective}


def _younger(config: Mapping[str, object], border: Border) -> list[str]:
    """Settings that a graph or a file of that time could not name, and that a saved training knows nothing of."""
    objective = border.mapping(config.get("objective", {}), "objective")
    is_denoising = objective.get("kind", DenoisingConfig.kind) == DenoisingConfig.kind
    could_not_name = {"embedded_guidance": is_denoising, "reading": _looks_at_a_first_frame(objective)}
    names = [name for name, is_its in could_not_name.items() if is_its and name not in objective]
    return [place for place in _YOUNGER if place.removeprefix("objective.") in names]


def _looks_at_a_first_frame(objective: Mapping[str, object]) -> bool:
    return objective.get("kind") == BranchConfig.kind and objective.get("mode") == "first"


def _check(numbers: Mapping[str, object], border: Border) -> None:
    """Whether all numbers that a training goes on from are there, each of its type.

    Raises:
        AdapterFileError: One is missing or of another type.
    """
    for place in border.sequence(numbers[AS_THEN], AS_THEN):
        border.choice(place, AS_THEN, _YOUNGER)
    border.text(numbers.get("start", ""), "start")
    border.integer(numbers.get("processes"), "processes", 1, 1_000_000)
    border.integer(numbers.get("looked"), "looked", -1, _MOST_STEPS)
    best = _exactly(numbers.get("best"), "best", {"loss", "misses"}, border)
    if best["loss"] is not None and not _is_number(best["loss"]):
        raise border.refused("best.loss", best["loss"], "a number or null")
    border.integer(best["misses"], "best.misses", 0, _MOST_STEPS)
    plan = _exactly(numbers.get("plan"), "plan", {"checkpointing", "pieces"}, border)
    border.choice(plan["checkpointing"], "plan.checkpointing", get_args(Checkpointing))
    border.integer(plan["pieces"], "plan.pieces", 1, 1_000_000)
    _check_adapter(numbers, border)
    for other in border.mapping(numbers.get("adapters", {}), "adapters").values():
        _check_adapter(border.mapping(other, "adapters"), border)
    border.mapping(numbers.get("objective", {}), "objective")


def _check_adapter(numbers: Mapping[str, object], border: Border) -> None:
    """Whether the numbers of one adapter's optimizer are there.

    Raises:
        AdapterFileError: One is missing or of another type.
    """
    border.mapping(numbers.get("scaler"), "scaler")
    for group in border.sequence(numbers.get("groups"), "groups"):
        border.mapping(group, "groups")
    for index, values in border.mapping(numbers.get("optimizer"), "optimizer").items():
        if not (index.isascii() and index.isdigit() and len(index) < 10):
            raise border.refused("optimizer", index, "the number of a factor")
        border.mapping(values, f"optimizer.{index}")


def _exactly(value: object, what: str, keys: set[str], border: Border) -> dict[str, object]:
    mapping = border.mapping(value, what)
    if mapping.keys() != keys:
        raise border.refused(what, mapping, " and ".join(sorted(keys)))
    return mapping


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
