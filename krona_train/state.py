"""Everything that a training needs to go on as if it had never stopped, in one safetensors file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from krona_ops.errors import AdapterFileError, ConfigError, KronaError
from krona_ops.files import load_tensors, save_tensors
from krona_ops.header import read_header

from .config import TrainConfig, from_dict, to_dict

log = logging.getLogger(__name__)
KIND = "krona.train-state"
SCHEMA = "2"
AS_THEN = "as then"
"""Among the numbers: the settings that are younger than the run, which goes on without them."""
MAY_CHANGE = ("steps", "save_every", "keep_states", "memory", "preview")
"""Settings of a run that may differ when it goes on; all others decide what the next step would have been."""


@dataclass(frozen=True)
class TrainState:
    """A training after some step. Order, noise and noise levels need no state: see `krona_train.randomness`."""

    step: int
    """Optimizer steps done."""
    tensors: Mapping[str, Tensor]
    """``factors.<layer>.<factor>``, ``optimizer.<index>.<name>`` in the order of the factors, ``ema.<layer>.<factor>``."""
    numbers: Mapping[str, Any]
    """Plain numbers of the optimizer, the average, and of the loop itself, as JSON holds them."""
    config: TrainConfig
    base: str
    """Fingerprint of the frozen model."""
    data: str
    """Fingerprint of the encoded pictures and captions."""

    def require_same(self, config: TrainConfig, base: str, data: str, processes: int = 1, start: str = "") -> None:
        """Refuse to go on with something else than what was begun.

        Raises:
            ConfigError: The settings, the base model or the pictures are others, or the run has no steps left.
        """
        different = self.difference(config, base, data, processes, start)
        if different is not None:
            raise different
        if config.steps <= self.step:
            raise ConfigError(
                f"The saved training has done {self.step} steps already.",
                found=config.steps,
                expected=f"more than {self.step} steps",
                remedy="Raise the number of steps to train on.",
            )

    def adopted(self, config: TrainConfig) -> TrainConfig:
        """The settings with which this training goes on: those that did not exist when it began stay as trainings were then.

        A graph or file of that time does not name them, and their defaults would make another training of it. A value other
        than the default was set on purpose and stays: `difference` will tell of it.
        """
        for place in self.numbers.get(AS_THEN, ()):
            section, name = place.split(".")
            mine, theirs = getattr(self.config, section), getattr(config, section)
            if getattr(theirs, name) == getattr(type(theirs)(), name) != getattr(mine, name):
                log.info(
                    "KronA: this run is older than the setting %s, and goes on without it (%s).", place, getattr(mine, name)
                )
                config = replace(config, **{section: replace(theirs, **{name: getattr(mine, name)})})
        return config

    def difference(self, config: TrainConfig, base: str, data: str, processes: int = 1, start: str = "") -> ConfigError | None:
        """What keeps this training from being that one, as the error to raise; ``None`` where nothing does.

        Args:
            start: The fingerprint of the adapter that it began at.
        """
        before, now = to_dict(self.config), to_dict(config)
        changed = next((key for key in before if key not in MAY_CHANGE and before[key] != now[key]), None)
        if changed is not None:
            was, is_now = before[changed], now[changed]
            if isinstance(was, dict):  # name the one setting inside
                inner = next(key for key in was if was[key] != is_now[key])
                changed, was, is_now = f"{changed}.{inner}", was[inner], is_now[inner]
            return ConfigError(
                f"The saved training has {changed} = {was}.",
                found=is_now,
                expected=was,
                remedy=f"Set {changed} back to go on, or start a new run.",
            )
        if processes != self.numbers["processes"]:
            return ConfigError(
                f"The saved training ran in {self.numbers['processes']} processes, which share out the batches.",
                found=processes,
                expected=self.numbers["processes"],
                remedy="Go on with as many, or start a new run.",
            )
        for what, was, is_now in (
            ("had another base model", self.base, base),
            ("had other pictures or captions", self.data, data),
            (f"began at {'another adapter' if self._start else 'no adapter'}", self._start, start),
        ):
            if was != is_now:
                return ConfigError(
                    f"The saved training {what}.",
                    found=is_now[:12] or "none",
                    expected=was[:12] or "none",
                    remedy="Connect what it began with, or start a new run.",
                )
        return None

    @property
    def _start(self) -> str:
        """The fingerprint of what it began at; empty where that was nothing, as in states from before there was a choice."""
        return str(self.numbers.get("start", ""))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the state; the whole file appears under its name, or nothing changes.

        Raises:
            AdapterFileError: The folder cannot be written, or the disk is full.
        """
        told = {
            "krona.kind": KIND, "krona.schema": SCHEMA, "krona.step": str(self.step),
            "krona.config": json.dumps(to_dict(self.config)), "krona.base": self.base, "krona.data": self.data,
            "krona.numbers": json.dumps(self.numbers),
        }  # fmt: skip
        return save_tensors(self.tensors, path, told)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainState:
        """Read a state.

        Raises:
            AdapterFileError: The file is missing, damaged, or no state.
            ConfigError: It was written by a version with other settings.
        """
        return replace(cls.peek(path), tensors=load_tensors(path))

    @classmethod
    def peek(cls, path: str | os.PathLike[str]) -> TrainState:
        """A state without its tensors, which takes no time.

        Raises:
            AdapterFileError: The file is missing, damaged, or no state.
            ConfigError: It was written by a version with other settings.
        """
        told = read_header(path).metadata
        if told.get("krona.kind") != KIND or told.get("krona.schema") != SCHEMA:
            raise AdapterFileError(
                "This is no saved training of this version.",
                layer=str(path),
                found=told.get("krona.kind", "another file"),
                expected=f"{KIND} {SCHEMA}",
                remedy="Choose a file named state-….safetensors from a run's folder.",
            )
        stored = json.loads(told["krona.config"])
        config = from_dict(TrainConfig, _as_then(stored))
        numbers = {AS_THEN: _younger(stored), **json.loads(told["krona.numbers"])}
        return cls(int(told["krona.step"]), {}, numbers, config, told["krona.base"], told["krona.data"])


def _as_then(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of a file from before they existed, as trainings were then; defaults have changed since."""
    objective = {"embedded_guidance": 0.0, **config.get("objective", {})}
    return {**config, "optimizer": {"rate_by_width": 0.0, **config.get("optimizer", {})}, "objective": objective}


def _younger(config: Mapping[str, Any]) -> list[str]:
    """Settings that a graph or a file of that time could not name, and that a saved training knows nothing of."""
    return [] if "embedded_guidance" in config.get("objective", {}) else ["objective.embedded_guidance"]


def states(folder: Path) -> Sequence[Path]:
    """The saved states of a run, oldest first."""
    return sorted(folder.glob("state-*.safetensors"))


def newest(folder: Path) -> Path | None:
    """The newest state of a run, ``None`` where it has none."""
    return states(folder)[-1] if states(folder) else None


def same_run(
    folders: Iterable[Path], config: TrainConfig, base: str, data: str, processes: int = 1, start: str = ""
) -> tuple[Path, TrainState] | None:
    """The first run that is this training, as far as it has come: its folder, and its newest state without tensors.

    Runs that went further than is asked for, and folders whose states cannot be read, are passed over.
    """
    for folder in folders:
        path = newest(folder)
        if path is None:
            continue
        try:
            state = TrainState.peek(path)
        except KronaError as error:
            log.info("KronA: %s is passed over: %s", path, error)
            continue
        if state.step <= config.steps and state.difference(state.adopted(config), base, data, processes, start) is None:
            return folder, state
    return None
