"""One training's folder on disk: settings, metrics, states to go on from, result."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from krona_ops import Adapter, save
from krona_ops.files import write_atomically

from .config import TrainConfig, to_yaml
from .events import Ended, Event, Noted, Previewed, Saved, Started, Stepped, Validated
from .state import TrainState, states

METRICS = "metrics.jsonl"
log = logging.getLogger(__name__)


class Run:
    """Writes what happens into a folder of its own; a sink for `krona_train.loop.fit`.

    ``run.yaml`` holds the settings, ``metrics.jsonl`` one line per event, ``state-<step>.safetensors`` the newest states,
    ``previews/`` the pictures, ``adapter-best.safetensors`` the adapter of the lowest validation loss, and
    ``adapter.safetensors`` the result. A training that ended early leaves ``adapter-stopped-at-<step>.safetensors`` instead.

    Args:
        folder: Created; a folder that is there already must hold a run that goes on.
        metadata: Goes into the adapters' files.
        settings: The text of ``run.yaml``; those of the training alone when not given.
    """

    def __init__(self, folder: Path, config: TrainConfig, metadata: Mapping[str, str], settings: str | None = None) -> None:
        self.folder = folder
        self.losses: list[float] = []
        self.steps: list[int] = []
        """The step of each of the ``losses``; some are missing where metrics were lost in a crash."""
        self.learning_rates: list[float] = []
        self.validations: list[tuple[int, float]] = []
        """Step and loss."""
        self.previews: list[tuple[int, tuple[Path, ...]]] = []
        """Step and picture files, one per prompt."""
        self.adapter_file: Path | None = None
        self._config, self._metadata = config, dict(metadata)
        self._settings = to_yaml(config) if settings is None else settings

    def __call__(self, event: Event) -> None:
        """Take note of one event."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Stepped):
            self._note("step", dataclasses.asdict(event))
        elif isinstance(event, Noted):
            self._note("note", {"step": event.step, "text": event.text})
        elif isinstance(event, Validated):
            self._note("validation", {"step": event.step, "validation": event.loss, "best": event.is_best})
            if event.is_best and event.adapter is not None:
                self._save(event.adapter, "adapter-best.safetensors", event.step)
        elif isinstance(event, Previewed):
            self._keep_pictures(event)
        elif isinstance(event, Saved):
            self._keep(event.state)
        elif isinstance(event, Ended) and event.step > 0 and event.adapter is not None and event.state is not None:
            self._end(event.step, event.adapter, event.state, is_whole=event.error is None)

    @classmethod
    def recall(cls, folder: Path, config: TrainConfig) -> Run:
        """A run as its folder tells of it, for one that another process has made."""
        run = cls(folder, config, {})
        for row in _rows(folder / METRICS):
            run._recall(row)
        found = [folder / "adapter.safetensors", *sorted(folder.glob("adapter-stopped-at-*.safetensors"), reverse=True)]
        run.adapter_file = next((path for path in found if path.is_file()), None)
        return run

    def _start(self, event: Started) -> None:
        # A process of its own finds its folder made; another run's, which has metrics, is left alone.
        self.folder.mkdir(parents=True, exist_ok=event.done > 0 or not (self.folder / METRICS).exists())
        write_atomically(self.folder / "run.yaml", lambda file: file.write(self._settings.encode()))
        if event.done:  # what came after the state was lost with whatever ended the run; it is done again
            rows = history(self.folder / METRICS, event.done)
            for row in rows:
                self._recall(row)
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            write_atomically(self.folder / METRICS, lambda file: file.write(text.encode()))

    def _note(self, kind: str, row: Mapping[str, Any]) -> None:
        whole = {"event": kind, **row}
        self._recall(whole)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole) + "\n")

    def _recall(self, row: Mapping[str, Any]) -> None:
        if row["event"] == "step":
            self.steps.append(row["step"])
            self.losses.append(row["loss"])
            self.learning_rates.append(row["learning_rate"])
        elif row["event"] == "validation":
            self.validations = [v for v in self.validations if v[0] != row["step"]] + [(row["step"], row["validation"])]
        elif row["event"] == "preview":
            files = tuple(self.folder / "previews" / name for name in row["pictures"])
            self.previews = [p for p in self.previews if p[0] != row["step"]] + [(row["step"], files)]

    def _keep_pictures(self, event: Previewed) -> None:
        folder = self.folder / "previews"
        folder.mkdir(exist_ok=True)
        names = [f"step-{event.step:06}-{number}.png" for number in range(1, len(event.pictures) + 1)]
        for name, picture in zip(names, event.pictures, strict=True):
            write_atomically(folder / name, lambda file, picture=picture: picture.save(file, "PNG"))
        self._note("preview", {"step": event.step, "pictures": names})

    def _keep(self, state: TrainState) -> None:
        state.save(self.folder / f"state-{state.step:08}.safetensors")
        for old in states(self.folder)[: -self._config.keep_states]:
            old.unlink()

    def _save(self, adapter: Adapter, name: str, step: int) -> Path:
        lora = self._config.adapter.kind == "lora"
        options = {"format": "lora", "rank": self._config.adapter.rank} if lora else {}
        return save(adapter.with_metadata(**self._metadata, ss_steps=str(step)), self.folder / name, **options)

    def _end(self, step: int, adapter: Adapter, state: TrainState, *, is_whole: bool) -> None:
        self._keep(state)
        name = "adapter.safetensors" if is_whole else f"adapter-stopped-at-{step:06}.safetensors"
        self.adapter_file = self._save(adapter, name, step)
        if is_whole:
            for stopped in self.folder.glob("adapter-stopped-at-*.safetensors"):
                stopped.unlink()


def history(metrics: Path, done: int) -> list[dict[str, Any]]:
    """What happened up to step ``done``, as far as they can be read.

    Unlike states, metrics are not forced to the disk: after a power cut the last lines may be missing or damaged, which
    must not keep the training itself from going on.
    """
    rows = [row for row in _rows(metrics) if row["step"] <= done]
    steps = {row["step"] for row in rows if row["event"] == "step"}
    if len(steps) != done:
        log.warning(
            "KronA: the metrics of %d of %d steps are lost; the training goes on from its state all the same.",
            done - len(steps),
            done,
        )
    return rows


def _rows(metrics: Path) -> list[dict[str, Any]]:
    """Every line that can be read."""
    rows = []
    for line in metrics.read_bytes().splitlines() if metrics.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and is_whole(row):
            rows.append(row)
    return rows


def is_whole(row: Mapping[str, Any]) -> bool:
    """Whether a line of the metrics has all that its kind of event has."""
    wanted = {
        "step": {"loss": float, "learning_rate": float},
        "validation": {"validation": float},
        "preview": {"pictures": list},
        "note": {"text": str},
    }.get(row.get("event", ""))
    fields = {"step": int, **wanted} if wanted is not None else {"": int}
    return all(isinstance(row.get(name), kind) for name, kind in fields.items())
