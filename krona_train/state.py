"""Everything that a training needs to go on as if it had never stopped, in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from krona_ops.errors import AdapterFileError, ConfigError
from krona_ops.files import load_tensors, save_tensors
from krona_ops.header import read_header

from .config import TrainConfig, from_dict, to_dict

KIND = "krona.train-state"
SCHEMA = "1"
MAY_CHANGE = ("steps", "save_every", "keep_states")
"""Settings of a run that may differ when it goes on; all others decide what the next step would have been."""


@dataclass(frozen=True)
class TrainState:
    """A training after some step. Order, noise and noise levels need no state: see `krona_train.randomness`."""

    step: int
    """Optimizer steps done."""
    tensors: Mapping[str, Tensor]
    """``factors.<layer>.a``, ``factors.<layer>.b``, and ``optimizer.<index>.<name>`` in the order of the factors."""
    config: TrainConfig
    base: str
    """Fingerprint of the frozen model."""
    data: str
    """Fingerprint of the encoded pictures and captions."""

    @classmethod
    def capture(
        cls,
        step: int,
        layers: Mapping[str, torch.nn.Module],
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        base: str,
        data: str,
    ) -> TrainState:
        """A copy of what is there now; further training does not change it."""
        tensors = {
            f"factors.{name}.{which}": getattr(layer, which).detach().cpu().clone()
            for name, layer in layers.items()
            for which in ("a", "b")
        }
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value.detach().cpu().clone() for name, value in values.items()}
        return cls(step, tensors, config, base, data)

    def restore(self, layers: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> None:
        """Put everything back, bit for bit.

        Raises:
            ConfigError: The layers are not those of the state.
        """
        wanted = {f"factors.{name}.{which}": getattr(layer, which) for name, layer in layers.items() for which in ("a", "b")}
        stored = {key: value for key, value in self.tensors.items() if key.startswith("factors.")}
        different = next(
            (k for k in (*wanted, *stored) if k not in wanted or k not in stored or wanted[k].shape != stored[k].shape), None
        )
        if different is not None:
            raise ConfigError(
                "The saved training adapts other layers, or with other factors.",
                layer=different.removeprefix("factors."),
                found=tuple(stored[different].shape) if different in stored else "no such layer in the saved training",
                expected=tuple(wanted[different].shape) if different in wanted else "no such layer now",
                remedy="Go on with the targets and factors that it began with, or start a new run.",
            )
        with torch.no_grad():
            for key, parameter in wanted.items():
                parameter.copy_(stored[key])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in self.tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                moments.setdefault(int(index), {})[name] = value.clone()
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})

    def require_same(self, config: TrainConfig, base: str, data: str) -> None:
        """Refuse to go on with something else than what was begun.

        Raises:
            ConfigError: The settings, the base model or the pictures are others, or the run has no steps left.
        """
        before, now = to_dict(self.config), to_dict(config)
        changed = next((key for key in before if key not in MAY_CHANGE and before[key] != now[key]), None)
        if changed is not None:
            raise ConfigError(
                f"The saved training has {changed} = {before[changed]}.",
                found=now[changed],
                expected=before[changed],
                remedy=f"Set {changed} back to go on, or start a new run.",
            )
        for what, was, is_now in (("base model", self.base, base), ("pictures or captions", self.data, data)):
            if was != is_now:
                raise ConfigError(
                    f"The saved training had another {what}."
                    if what == "base model"
                    else f"The saved training had other {what}.",
                    found=is_now[:12],
                    expected=was[:12],
                    remedy="Connect what it began with, or start a new run.",
                )
        if config.steps <= self.step:
            raise ConfigError(
                f"The saved training has done {self.step} steps already.",
                found=config.steps,
                expected=f"more than {self.step} steps",
                remedy="Raise the number of steps to train on.",
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the state; the whole file appears under its name, or nothing changes.

        Raises:
            AdapterFileError: The folder cannot be written, or the disk is full.
        """
        told = {
            "krona.kind": KIND, "krona.schema": SCHEMA, "krona.step": str(self.step),
            "krona.config": json.dumps(to_dict(self.config)), "krona.base": self.base, "krona.data": self.data,
        }  # fmt: skip
        return save_tensors(self.tensors, path, told)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainState:
        """Read a state.

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
        tensors = load_tensors(path)
        config = from_dict(TrainConfig, json.loads(told["krona.config"]))
        return cls(int(told["krona.step"]), tensors, config, told["krona.base"], told["krona.data"])


def states(folder: Path) -> Sequence[Path]:
    """The saved states of a run, oldest first."""
    return sorted(folder.glob("state-*.safetensors"))


def newest(folder: Path) -> Path | None:
    """The newest state of a run, ``None`` where it has none."""
    return states(folder)[-1] if states(folder) else None
