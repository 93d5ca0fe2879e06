"""Runs as their folders tell of them, while they train and afterwards. Nothing in a damaged folder raises."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from krona_ops.errors import KronaError

from ..config import to_dict
from .job import load_job
from .layout import METRICS, RESULT, SETTINGS
from .metrics import BUFFER, lines, parsed, read
from .row import Row

MOST_BYTES_OF_SETTINGS = 1_000_000
_NAME_SURROGATE = 0x2000_0000
"""In the tag of a reparse point on Windows: it stands for something elsewhere, as junctions do and files in a cloud do
not."""
End = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Standing:
    """Where a run is."""

    step: int = 0
    steps: int = 0
    loss: float | None = None
    """Of the last step."""
    validation: float | None = None
    """The last one."""
    end: End = "stopped"
    """How its last part ended, if nothing trains it now."""


def standing_of(rows: Sequence[Row], *, has_result: bool) -> Standing:
    """What the rows come to.

    Args:
        has_result: Whether there is an ``adapter.safetensors``: rows of earlier versions do not say how a run ended.
    """
    step = steps = 0
    loss = validation = None
    end: End = "finished" if has_result else "stopped"
    for row in rows:
        kind = row["event"]
        if isinstance(row.get("steps"), int):
            steps = row["steps"]
        if kind in ("started", "step", "ended"):
            step = row["step"]
        if kind == "step":
            loss = row["loss"]
        elif kind == "validation":
            validation = row["validation"]
        elif kind == "started":  # without an end, the process that trained has gone
            end = "stopped"
        elif kind == "ended":
            end = "stopped" if row.get("stopped") else "failed" if row.get("error") else "finished"
    return Standing(step, steps, finite(loss), finite(validation), end)


def run_folders(parent: Path) -> list[Path]:
    """The runs below a folder; what lies elsewhere and is only linked there is none."""
    try:
        inside = [path for path in parent.iterdir() if own(parent, path.name) is not None and path.is_dir()]
    except OSError:
        return []
    return [folder for folder in inside if is_run(folder)]


def run_named(parent: Path, name: str) -> Path | None:
    """The run of exactly this name, which is looked for among those that there are and never part of a path before it
    is found."""
    try:
        is_there = name in os.listdir(parent)
    except OSError:
        return None
    folder = own(parent, name) if is_there else None
    return folder if folder is not None and folder.is_dir() and is_run(folder) else None


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a run: it has its settings or its rows."""
    return any(own_file(folder, name) for name in (METRICS, SETTINGS))


def own(folder: Path, name: str) -> Path | None:
    """What is under this name in the folder itself; ``None`` where nothing is, or a link."""
    return folder / name if _status(folder, name) is not None else None


def own_file(folder: Path, name: str) -> Path | None:
    """The same for a regular file."""
    status = _status(folder, name)
    return folder / name if status is not None and stat.S_ISREG(status.st_mode) else None


def _status(folder: Path, name: str) -> os.stat_result | None:
    if os.path.basename(name) != name or name in (os.curdir, os.pardir):  # a way to somewhere else, or through a link
        return None
    try:
        status = os.lstat(os.path.join(folder, name))
    except (OSError, ValueError):  # such as a zero in the name
        return None
    return None if leads_away(status) else status


def leads_away(status: os.stat_result) -> bool:
    """Whether it is a link, or what Windows has for one; told by ``lstat``."""
    return stat.S_ISLNK(status.st_mode) or bool(getattr(status, "st_reparse_tag", 0) & _NAME_SURROGATE)


def rows_of(folder: Path) -> list[Row]:
    """The run's rows, as a browser can read them; none where they cannot be read."""
    path = own_file(folder, METRICS)
    try:
        return [finite(row) for row in read(path)] if path is not None else []
    except OSError:
        return []


def standing(folder: Path) -> Standing:
    """Where the run is; its metrics are read again only when they have changed."""
    path, has_result = own_file(folder, METRICS), own_file(folder, RESULT) is not None
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        stat = None
    if stat is None:
        return Standing(end="finished" if has_result else "stopped")
    return _standing(folder, stat.st_mtime_ns, stat.st_size, has_result)


@lru_cache(maxsize=1024)
def _standing(folder: Path, modified: int, size: int, has_result: bool) -> Standing:
    return standing_of(rows_of(folder), has_result=has_result)


def settings_of(folder: Path) -> dict[str, object]:
    """The training part of the run's settings, those left out included; empty where they cannot be read."""
    path = own_file(folder, SETTINGS)
    try:
        if path is None or path.stat().st_size > MOST_BYTES_OF_SETTINGS:
            return {}
        return finite(to_dict(load_job(path).training))
    except (KronaError, OSError):
        return {}


class Tail:
    """What is new in a metrics file since it was looked at last; its rows are numbered as `read` has them."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.count = 0
        """Rows so far."""

    def read(self) -> list[Row]:
        """The rows that have come; half a line waits for its other half.

        Raises:
            OSError: The file cannot be read.
        """
        rows = []
        with self._path.open("rb", BUFFER) as file:
            file.seek(self._offset)
            for line, end in lines(file):
                if not line.endswith(b"\n"):
                    continue
                self._offset = end
                if (row := parsed(line)) is not None:
                    rows.append(finite(row))
        self.count += len(rows)
        return rows


def finite(value: Any) -> Any:
    """The same without NaN and infinities, which a browser's JSON does not know: ``None`` stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
