"""One training's folder on disk: settings, metrics, result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from krona_ops import save
from krona_ops.files import write_atomically

from .config import TrainConfig, to_yaml
from .events import Ended, Event, Stepped


class Run:
    """Writes what happens into a folder of its own; a sink for `krona_train.loop.fit`.

    ``run.yaml`` holds the settings, ``metrics.jsonl`` one line per step, ``adapter.safetensors`` the result. A training
    that ended early leaves ``adapter-stopped-at-<step>.safetensors`` instead.

    Args:
        folder: Created; must not hold a run already.
        metadata: Goes into the adapter's file.
    """

    def __init__(self, folder: Path, config: TrainConfig, metadata: Mapping[str, str]) -> None:
        self.folder = folder
        self.losses: list[float] = []
        self.adapter_file: Path | None = None
        self._metadata = dict(metadata)
        folder.mkdir(parents=True)
        write_atomically(folder / "run.yaml", lambda file: file.write(to_yaml(config).encode()))

    def __call__(self, event: Event) -> None:
        """Take note of one event."""
        if isinstance(event, Stepped):
            self.losses.append(event.loss)
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(event)) + "\n")
        elif isinstance(event, Ended) and event.step > 0:
            complete = event.step == event.steps
            name = "adapter.safetensors" if complete else f"adapter-stopped-at-{event.step:06}.safetensors"
            adapter = event.adapter.with_metadata(**self._metadata, ss_steps=str(event.step))
            self.adapter_file = save(adapter, self.folder / name)
