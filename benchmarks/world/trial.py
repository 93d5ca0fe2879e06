"""One row of a table: train on a subject, draw what it is asked for, judge."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from krona_train import TrainConfig
from krona_train.config import DataConfig, OptimizerConfig, PriorConfig
from krona_train.data.pictures import Dataset, from_tensor

from .contenders import CONTENDERS, SETTINGS
from .draw import draw
from .grammar import Scene
from .losses import loss
from .measure import PROMPT, Judges
from .subjects import SCENES, Subject
from .training import Material, Trained

SEEDS = 4
"""Pictures of each prompt."""
DEFAULTS = TrainConfig()
_YOUNGER = ("kind", "terms", "part")
"""Settings of a target rule that did not exist when the first rows were measured."""
STEPS = 500
"""Of everybody who is compared; the paper's for a simple subject."""


@dataclass(frozen=True)
class Trial:
    """Everything that a row depends on, but the code."""

    contender: str
    """A name of `benchmarks.world.contenders.CONTENDERS`;
    ``base`` and ``real`` are what the others are compared with."""
    rate: float = DEFAULTS.optimizer.learning_rate
    """Of the layers themselves, but for `SETTINGS`, where their width counts."""
    subject: int = 0
    seed: int = 0
    """Of the training; what is drawn starts from the same noise in every trial."""
    pictures: int = 4
    prior: float = 0.0
    """Weight of the prior loss."""
    steps: int = STEPS

    def recipe(self) -> str:
        """A hash of all settings that are on: rows from before a default was changed are others, rows from before a
        setting existed that is off are not."""
        if self.contender not in CONTENDERS:
            return "none"
        settings = switched_on(asdict(self.config()))
        # What is off in a rule has always counted, but for what is younger than the rows
        for rule in settings["adapter"]["targets"]:
            for name in _YOUNGER:
                if not rule[name]:
                    del rule[name]
        if self.config().adapter.sparse.parts == 1:  # younger than the rows too, and off
            del settings["adapter"]["sparse"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def config(self) -> TrainConfig:
        """The trainer's settings."""
        contender = CONTENDERS[self.contender]
        optimizer = {"rate_by_width": 0.0, **dict(contender.optimizer)}
        return dataclasses.replace(
            DEFAULTS,
            steps=self.steps,
            seed=self.seed,
            save_every=0,
            # The small world's model takes none
            objective=dataclasses.replace(DEFAULTS.objective, embedded_guidance=0.0),
            adapter=contender.adapter,
            optimizer=OptimizerConfig(learning_rate=self.rate, **optimizer),
            prior=PriorConfig(weight=self.prior),
        )


def switched_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are 0, false or empty, at any depth."""
    plain = {name: switched_on(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    return {name: value for name, value in plain.items() if value}


def as_it_comes(subject: int) -> Trial:
    """A training with the pack's default settings, all of them."""
    return Trial(SETTINGS, subject=subject, steps=DEFAULTS.steps)


class Studio:
    """The world's model and its judges, loaded once for many trials.

    Args:
        seeds: Pictures of each prompt.
    """

    def __init__(self, seeds: int = SEEDS) -> None:
        from krona_host.model.small_world import load_world
        from krona_host.patching.apply import apply_adapter

        self.model, self.clip, self.vae = load_world()
        self.judges, self.apply, self.seeds = Judges(), apply_adapter, seeds

    def run(self, trial: Trial) -> dict[str, Any]:
        """The trial's scores, what it trained, and how long that took."""
        subject = Subject(trial.subject)
        if trial.contender == "real":
            return {
                **asdict(trial),
                **self._judge(subject, subject.real_pictures(self.seeds)),
                "parameters": 0,
                "seconds": 0.0,
            }
        with self._trained(trial) as (model, clip, parameters, seconds, losses):
            measures = self._judge(subject, self._drawn(subject, model, clip))
            others = draw(model, clip, self.vae, subject.class_prompts(), list(range(len(SCENES))))
        return {
            **asdict(trial), **measures, **self._judge_class(subject, others), **losses, "parameters": parameters,
            "seconds": round(seconds, 2),
        }  # fmt: skip

    def pictures(self, trial: Trial) -> np.ndarray:
        """What the trial's model draws, to look at: ``(12 * seeds, 64, 64, 3)``."""
        with self._trained(trial) as (model, clip, *_):
            return self._drawn(Subject(trial.subject), model, clip)

    @contextmanager
    def _trained(self, trial: Trial) -> Iterator[tuple[Any, Any, int, float, dict[str, float]]]:
        """Model and text encoder as the trial leaves them, how many parameters were trained, for how long, and the losses
        of those that tell them."""
        if trial.contender == "base":
            yield self.model, self.clip, 0, 0.0, {}
            return
        material = self.material(Subject(trial.subject), trial)
        began = time.perf_counter()
        trained = CONTENDERS[trial.contender].train(material)
        seconds = time.perf_counter() - began
        losses = self._losses(trial, material, trained) if CONTENDERS[trial.contender].tells_losses else {}
        applied = self.apply(trained.adapter, self.model, self.clip)
        yield applied.model, applied.clip, trained.parameters, seconds, losses

    def _losses(self, trial: Trial, material: Material, trained: Trained) -> dict[str, float]:
        subject = Subject(trial.subject)
        others = self.material(subject, trial, subject.real_pictures(1))
        items = {"train_loss": material.items, "held_out_loss": others.items}
        return _rounded(**{name: loss(replace(material, items=own), trained.adapter) for name, own in items.items()})

    def material(self, subject: Subject, trial: Trial, pictures: np.ndarray | None = None) -> Material:
        """The subject's pictures as the node encodes them.

        Args:
            pictures: Others than those to train on.
        """
        from krona_train.comfyui.model import ComfyBackbone
        from krona_train.session.material import Places, prepare

        config = trial.config()
        pictures = subject.training_pictures(trial.pictures) if pictures is None else pictures
        images = torch.from_numpy(pictures).float() / 255
        settings = DataConfig(cache=False)
        dataset = Dataset(from_tensor(images, subject.caption), class_prompt=f"a photo of a {subject.kind}", settings=settings)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            places = Places(Path(folder), Path(folder))
            made = prepare(self.model, self.clip, self.vae, dataset, config, places, lambda done, total, what: None)
        return Material(ComfyBackbone(self.model), made.items, config, made.class_items)

    def _drawn(self, subject: Subject, model: Any, clip: Any) -> np.ndarray:
        prompts = [prompt for prompt in subject.prompts() for _ in range(self.seeds)]
        return draw(model, clip, self.vae, prompts, list(range(len(prompts))))

    def _judge(self, subject: Subject, pictures: np.ndarray) -> dict[str, Any]:
        scenes = [Scene(*scene) for scene in SCENES for _ in range(self.seeds)]
        accuracy = self.judges.accuracy(pictures, scenes)
        return _rounded(
            likeness=self.judges.likeness(pictures, subject.training_pictures()),
            prompt=float(np.mean([accuracy[name] for name in PROMPT])),
            **accuracy,
            agreement=self.judges.agreement(pictures, [p for p in subject.class_prompts() for _ in range(self.seeds)]),
            diversity=self.judges.diversity(pictures, self.seeds),
        )

    def _judge_class(self, subject: Subject, pictures: np.ndarray) -> dict[str, Any]:
        """What has become of the rest of the class."""
        return _rounded(
            class_likeness=self.judges.likeness(pictures, subject.training_pictures()),
            class_kind=self.judges.is_kind(pictures, subject.kind),
            class_prompt=float(
                np.mean([self.judges.accuracy(pictures, [Scene(*s) for s in SCENES])[name] for name in PROMPT])
            ),
        )


def _rounded(**values: float) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def key(row: Mapping[str, Any] | Trial) -> tuple:
    """What makes two rows the same trial."""
    names = [field.name for field in dataclasses.fields(Trial)]
    return tuple(getattr(row, name) if isinstance(row, Trial) else row[name] for name in names)


def current(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that the same trial would have today."""
    return [row for row in rows if row["recipe"] == Trial(*key(row)).recipe()]
