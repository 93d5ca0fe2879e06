"""What has been tried: one line of JSON for each batch, in one file for each driver,
so that a run goes on where it was stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .driver import Driver, Outcome

VIOLATIONS_KEPT = 100
"""Of one batch; all are counted."""
TEXTS_KEPT = 5
"""Of one case."""


@dataclass(frozen=True)
class Batch:
    """Cases that were tried one after the other."""

    driver: str
    seed: int
    first: int
    count: int
    faults: dict[str, int]
    """How many cases each fault was in."""
    violated: int
    """Cases with a violation."""
    violations: list[dict[str, Any]]
    """``number``, ``fault`` and ``texts`` of the first of them."""
    commit: str
    machine: str
    date: str
    seconds: float = field(default=0.0)


def batch_of(driver: str, seed: int, outcomes: Sequence[Outcome], **circumstances: Any) -> Batch:
    """The line of some outcomes."""
    bad = [outcome for outcome in outcomes if outcome.violations]
    return Batch(
        driver=driver,
        seed=seed,
        first=min(outcome.number for outcome in outcomes),
        count=len(outcomes),
        faults=dict(sorted(Counter(outcome.fault for outcome in outcomes).items())),
        violated=len(bad),
        violations=[
            {"number": o.number, "fault": o.fault, "texts": [text[:500] for text in o.violations[:TEXTS_KEPT]]}
            for o in bad[:VIOLATIONS_KEPT]
        ],
        **circumstances,
    )


class Ledger:
    """A folder of result lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, batch: Batch) -> None:
        """One line more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file(batch.driver).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(batch), ensure_ascii=False) + "\n")

    def batches(self, driver: str, seed: int) -> list[Batch]:
        """The last word on each batch, in the order of the cases. A line that was cut short by a kill is none."""
        last: dict[int, Batch] = {}
        path = self._file(driver)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                batch = Batch(**json.loads(line))
            except (ValueError, TypeError):
                continue
            if batch.seed == seed:
                last[batch.first] = batch
        return [last[first] for first in sorted(last)]

    def missing(self, driver: Driver, seed: int, cases: int, commit: str) -> list[range]:
        """What is still to be tried: batches that were not, and those in which another commit did something wrong."""
        done = {b.first: b for b in self.batches(driver.name, seed)}
        wanted = (range(first, min(first + driver.batch, cases)) for first in range(0, cases, driver.batch))
        return [numbers for numbers in wanted if not _is_done(done.get(numbers.start), len(numbers), commit)]

    def forget(self, drivers: Iterable[Driver]) -> None:
        """Begin these anew."""
        for driver in drivers:
            self._file(driver.name).unlink(missing_ok=True)

    def _file(self, driver: str) -> Path:
        return self.folder / f"{driver}.jsonl"


def _is_done(batch: Batch | None, count: int, commit: str) -> bool:
    return batch is not None and batch.count >= count and (not batch.violated or batch.commit == commit)
