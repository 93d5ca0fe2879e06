"""One training's folder on disk: settings, metrics, states to go on from, result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from krona_ops import save
from krona_ops.files import write_atomically

from .config import TrainConfig, to_yaml
from .events import Ended, Event, Saved, Started, Stepped
from .state import TrainState, states

METRICS = "metrics.jsonl"


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
            lines = (self.folder / METRICS).read_text(encoding="utf-8").splitlines()[: event.done]
            self.losses = [json.loads(line)["loss"] for line in lines]
            write_atomically(self.folder / METRICS, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))

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
