"""One training's folder on disk: settings, metrics, states to go on from, result."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from krona_ops import save
from krona_ops.files import write_atomically

from .config import TrainConfig, to_yaml
from .events import Ended, Event, Saved, Started, Stepped
from .state import TrainState, states

METRICS = "metrics.jsonl"
log = logging.getLogger(__name__)


class Run:
    """Writes what happens into a folder of its own; a sink for `krona_train.loop.fit`.

    ``run.yaml`` holds the settings, ``metrics.jsonl`` one line per step, ``state-<step>.safetensors`` the newest states,
    ``adapter.safetensors`` the result. A training that ended early leaves ``adapter-stopped-at-<step>.safetensors`` instead.

    Args:
        folder: Created; a folder that is there already must hold a run that goes on.
        metadata: Goes into the adapter's file.
    """

    def __init__(self, folder: Path, config: TrainConfig, metadata: Mapping[str, str]) -> None:
        self.folder = folder
        self.losses: list[float] = []
        self.adapter_file: Path | None = None
        self._config, self._metadata = config, dict(metadata)

    def __call__(self, event: Event) -> None:
        """Take note of one event."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Stepped):
            self.losses.append(event.loss)
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(event)) + "\n")
        elif isinstance(event, Saved):
            self._keep(event.state)
        elif isinstance(event, Ended) and event.step > 0:
            self._end(event)

    def _start(self, event: Started) -> None:
        self.folder.mkdir(parents=True, exist_ok=event.done > 0)
        write_atomically(self.folder / "run.yaml", lambda file: file.write(to_yaml(self._config).encode()))
        if event.done:  # steps after the state were lost with whatever ended the run; they are done again
            rows = history(self.folder / METRICS, event.done)
            self.losses = [row["loss"] for row in rows]
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            write_atomically(self.folder / METRICS, lambda file: file.write(text.encode()))

    def _keep(self, state: TrainState) -> None:
        state.save(self.folder / f"state-{state.step:08}.safetensors")
        for old in states(self.folder)[: -self._config.keep_states]:
            old.unlink()

    def _end(self, event: Ended) -> None:
        self._keep(event.state)
        complete = event.step == event.steps
        name = "adapter.safetensors" if complete else f"adapter-stopped-at-{event.step:06}.safetensors"
        adapter = event.adapter.with_metadata(**self._metadata, ss_steps=str(event.step))
        self.adapter_file = save(adapter, self.folder / name)
        if complete:
            for stopped in self.folder.glob("adapter-stopped-at-*.safetensors"):
                stopped.unlink()


def history(metrics: Path, done: int) -> list[dict[str, Any]]:
    """The metrics of the first ``done`` steps, as far as they can be read.

    Unlike states, metrics are not forced to the disk: after a power cut the last lines may be missing or damaged, which
    must not keep the training itself from going on.
    """
    rows = []
    lines = metrics.read_bytes().splitlines() if metrics.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if (
            isinstance(row, dict)
            and isinstance(row.get("step"), int)
            and row["step"] <= done
            and isinstance(row.get("loss"), float)
        ):
            rows.append(row)
    if len(rows) != done:
        log.warning(
            "KronA: the metrics of %d of %d steps are lost; the training goes on from its state all the same.",
            done - len(rows),
            done,
        )
    return rows
