"""Metrics of a run with rows from a stranger: what is whole is shown, as JSON that a browser reads,
and nothing else raises."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from krona_train.config import TrainConfig
from krona_train.run.folder import Run
from krona_train.run.layout import METRICS
from krona_train.run.metrics import history
from krona_train.run.reading import Tail, rows_of, standing
from krona_train.run.row import Row

from ..driver import Bench, Outcome
from ..judge import foreign
from .dice import json_with_a_hole, mutated

ROWS = (
    {"event": "started", "step": 0, "steps": 9, "layers": 3, "parameters": 10, "notes": ["a", "b"], "time": 1.5},
    {
        "event": "step",
        "step": 1,
        "loss": 0.5,
        "grad_norm": 1.0,
        "learning_rate": 1e-4,
        "seconds": 0.1,
        "memory": 5,
        "time": 2.5,
    },
    {"event": "validation", "step": 1, "validation": 0.5, "best": True, "time": 2.5},
    {"event": "preview", "step": 1, "pictures": ["step-000001-1.png"], "time": 2.5},
    {"event": "note", "step": 1, "text": "smaller", "time": 2.5},
    {"event": "saved", "step": 1, "adapter": False, "time": 2.5},
    {"event": "ended", "step": 2, "steps": 9, "error": None, "stopped": True, "time": 2.5},
)


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """One row replaced, or bytes changed, among whole ones."""
    for number in numbers:
        rng, folder = bench.rng(number), bench.place(number)
        lines = [json.dumps(row).encode() for row in ROWS]
        at = rng.randrange(len(lines))
        if rng.random() < 0.7:
            fault, lines[at] = (
                f"a row of {ROWS[at]['event']}",
                json_with_a_hole(ROWS[at], rng).encode("utf-8", "surrogatepass"),
            )
        else:
            fault, lines[at] = "bytes changed", mutated(lines[at], rng)
        path = folder / METRICS
        path.write_bytes(b"\n".join(lines) + rng.choice((b"\n", b"", b"\r\n")))
        yield Outcome(number, fault, tuple(_wrong(folder, path, at)))
        path.unlink()
        folder.rmdir()


def _wrong(folder: Path, path: Path, at: int) -> Iterator[str]:
    rows: list[Row] = []
    runs: list[Run] = []
    for what in (
        lambda: rows.extend(rows_of(folder)),
        lambda: json.dumps(Tail(path).read(), allow_nan=False),
        lambda: standing(folder),
        lambda: runs.append(Run.recall(folder, TrainConfig())),
        lambda: history(path, 2),
    ):
        if wrong := foreign(what):
            yield wrong
    kept = [row["event"] for row in rows]
    whole = [row["event"] for number, row in enumerate(ROWS) if number != at]
    if not all(event in kept for event in whole):
        yield f"of the whole rows only {kept} are shown"
    files = [file for run in runs for _, files in run.previews for file in files]
    if any(file.parent != folder / "previews" for file in files):
        yield "a preview lies elsewhere"
