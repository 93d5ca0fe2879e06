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

from krona_ops.checksum import checksum
from krona_ops.errors import AdapterFileError, ConfigError, KronaError
from krona_ops.files import load_tensors, save_tensors
from krona_ops.formats.header import read_header
from krona_ops.shown import printable

from ..config import TrainConfig, to_dict
from . import layout
from .state_metadata import AS_THEN as AS_THEN
from .state_metadata import KIND, SCHEMA, read_metadata

log = logging.getLogger(__name__)
_CHECKSUM = "krona.crc32"
"""Of the tensors; states of earlier versions have none."""
MAY_CHANGE = ("steps", "save_every", "keep_states", "memory", "preview")
"""Settings of a run that may differ when it goes on; all others decide what the next step would have been."""


@dataclass(frozen=True)
class TrainState:
    """A training after some step. Order, noise and noise levels need no state: see `krona_train.randomness`."""

    step: int
    """Optimizer steps done."""
    tensors: Mapping[str, Tensor]
    """``factors.<layer>.<factor>``, ``optimizer.<index>.<name>`` in the order of the factors,
    ``ema.<layer>.<factor>``."""
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
            ConfigError: The settings, the base model or the pictures are others, or the run has done more steps.
        """
        different = self.difference(config, base, data, processes, start)
        if different is not None:
            raise different
        if config.steps < self.step:
            raise ConfigError(
                f"The saved training has done {self.step} steps already.",
                found=config.steps,
                expected=f"{self.step} steps or more",
                remedy="Set as many to get its result, or more to train on.",
            )

    def adopted(self, config: TrainConfig) -> TrainConfig:
        """The settings with which this training goes on: those that did not exist when it began stay as trainings were
        then.

        A graph or file of that time does not name them, and their defaults would make another training of it. A value
        other than the default was set on purpose and stays: `difference` will tell of it.
        """
        for place in self.numbers.get(AS_THEN, ()):
            section, name = place.split(".")
            mine, theirs = getattr(self.config, section), getattr(config, section)
            if type(mine) is not type(theirs):
                continue
            if getattr(theirs, name) == getattr(type(theirs)(), name) != getattr(mine, name):
                log.info(
                    "KronA: this run is older than the setting %s, and goes on without it (%s).",
                    place,
                    getattr(mine, name),
                )
                config = replace(config, **{section: replace(theirs, **{name: getattr(mine, name)})})
        return config

    def difference(
        self, config: TrainConfig, base: str, data: str, processes: int = 1, start: str = ""
    ) -> ConfigError | None:
        """What keeps this training from being that one, as the error to raise; ``None`` where nothing does.

        Args:
            start: The fingerprint of the adapter that it began at.
        """
        before, now = to_dict(self.config), to_dict(config)
        changed = next((key for key in before if key not in MAY_CHANGE and before[key] != now[key]), None)
        if changed is not None:
            was, is_now = before[changed], now[changed]
            if isinstance(was, dict) and isinstance(is_now, dict):  # name the one setting inside
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
        """The fingerprint of what it began at; empty where that was nothing, as in states from before there was a
        choice."""
        return str(self.numbers.get("start", ""))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the state; the whole file appears under its name, or nothing changes.

        Raises:
            AdapterFileError: The folder cannot be written, or the disk is full.
        """
        metadata = {
            "krona.kind": KIND, "krona.schema": SCHEMA, "krona.step": str(self.step),
            "krona.config": json.dumps(to_dict(self.config)), "krona.base": self.base, "krona.data": self.data,
            "krona.numbers": json.dumps(self.numbers), _CHECKSUM: checksum(self.tensors),
        }  # fmt: skip
        return save_tensors(self.tensors, path, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainState:
        """Read a state.

        Raises:
            AdapterFileError: The file is missing, damaged, or no state.
            ConfigError: It was written by a version with other settings.
        """
        metadata = read_header(path).metadata
        state, tensors = cls._of(metadata, path), load_tensors(path)
        if metadata.get(_CHECKSUM, computed := checksum(tensors)) != computed:
            raise AdapterFileError(
                "The state is damaged: its numbers are not those that were written.",
                where=str(path),
                found=computed,
                expected=printable(metadata[_CHECKSUM][:20]),
                remedy="Go on from an older one.",
            )
        return replace(state, tensors=tensors)

    @classmethod
    def peek(cls, path: str | os.PathLike[str]) -> TrainState:
        """A state without its tensors, which takes no time.

        Raises:
            AdapterFileError: The file is missing, damaged, or no state.
            ConfigError: It was written by a version with other settings.
        """
        return cls._of(read_header(path).metadata, path)

    @classmethod
    def _of(cls, metadata: Mapping[str, str], path: str | os.PathLike[str]) -> TrainState:
        read = read_metadata(metadata, str(path))
        return cls(read.step, {}, read.numbers, read.config, read.base, read.data)


def states(folder: Path) -> Sequence[Path]:
    """The saved states of a run, oldest first."""
    return sorted(folder.glob(layout.STATES))


def newest(folder: Path) -> Path | None:
    """The newest state of a run, whole or not; ``None`` where it has none."""
    return states(folder)[-1] if states(folder) else None


def newest_whole(folder: Path, *, peek: bool = False) -> TrainState | None:
    """The newest state of a run that is whole, ``None`` where it has none; the log names those that are damaged.

    Args:
        peek: Without its tensors, whose damages are not seen then.

    Raises:
        AdapterFileError: It has states, and none of them is whole.
    """
    damaged = []
    for path in reversed(states(folder)):
        try:
            state = TrainState.peek(path) if peek else TrainState.load(path)
        except KronaError as error:
            log.warning("KronA: %s cannot be used, an older state is taken where there is one: %s", path.name, error)
            damaged.append(path.name)
        else:
            return state
    if damaged:
        raise AdapterFileError(
            f"None of the run's saved states can be read: {', '.join(map(printable, damaged[:5]))}.",
            where=str(folder),
            found=f"{len(damaged)} damaged states",
            expected="a state that is whole",
            remedy="Put one of them back from a copy, or begin a new run.",
        )
    return None


def same_run(
    folders: Iterable[Path], config: TrainConfig, base: str, data: str, processes: int = 1, start: str = ""
) -> tuple[Path, TrainState] | None:
    """The first run that is this training, as far as it has come: its folder, and its newest whole state without
    tensors.

    Runs that went further than is asked for, and folders whose states cannot be read, are passed over.
    """
    for folder in folders:
        try:
            state = newest_whole(folder, peek=True)
        except KronaError as error:
            log.warning("KronA: a run is passed over: %s", error)
            continue
        if state is None or state.step > config.steps:
            continue
        if state.difference(state.adopted(config), base, data, processes, start) is None:
            return folder, state
    return None
