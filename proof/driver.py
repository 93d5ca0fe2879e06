"""What a driver is, and what it tells of a case."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

Part = Literal["hostile", "kills", "disk", "load", "isolation", "attacks", "audit"]
Process = Literal["plain", "host", "audited"]


@dataclass(frozen=True)
class Outcome:
    """What came of one case."""

    number: int
    fault: str
    """What was done, in a few words that many cases share: they are counted by it."""
    violations: tuple[str, ...] = ()
    """What must not have happened; empty where all is well."""


@dataclass(frozen=True)
class Bench:
    """Where a driver works."""

    folder: Path
    """Of this batch alone, empty, removed afterwards."""
    seed: int
    driver: str

    def rng(self, number: int) -> random.Random:
        """The dice of one case: the same for the same driver, seed and number."""
        return random.Random(f"{self.driver} {self.seed} {number}")

    def place(self, number: int) -> Path:
        """A folder for one case alone."""
        folder = self.folder / f"{number}"
        folder.mkdir()
        return folder


Run = Callable[[Bench, Iterable[int]], Iterator[Outcome]]
"""Tries the cases of these numbers in their order, and yields what came of each as soon as it is known."""


@dataclass(frozen=True)
class Driver:
    """One line of the table."""

    part: Part
    name: str
    """Unique; the module below `proof` is named by `module`."""
    module: str
    claim: str
    """What must hold in every case, for docs/reliability.md: one sentence."""
    cases: int
    """Of the slow run."""
    draw: int
    """Of the short draw in ``make test``; 0 where another driver of the part stands for it there,
    because this one starts servers."""
    batch: int
    """Cases between two lines of results; a run that was stopped goes on at the next batch."""
    process: Process = "plain"
    """Where it runs: a plain Python, one that has ComfyUI and the pack loaded, or such a one of its own with an audit
    hook, which cannot be taken off again."""
    seconds: float = 60.0
    """A case that takes longer hangs: its process is killed, and that is a violation."""
    gigabytes: float | None = None
    """Address space that a batch may take beyond what its process has;
    more is refused by the system, as on a machine that has no more."""

    def load(self) -> Run:
        """Its function."""
        return import_module(f"proof.{self.module}").run
