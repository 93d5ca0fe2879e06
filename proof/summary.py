"""All result lines of a seed as one small file, which is committed: what docs/reliability.md is made of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS
from benchmarks.contest import circumstances, keep, machine

from .ledger import Ledger
from .table import DRIVERS


def of(ledger: Ledger, seed: int) -> list[dict[str, Any]]:
    """One row for each driver that has tried something."""
    return [
        row for driver in DRIVERS if (row := _row(driver.part, driver.name, driver.claim, driver.cases, ledger, seed))
    ]


def _row(part: str, name: str, claim: str, whole: int, ledger: Ledger, seed: int) -> dict[str, Any] | None:
    batches = ledger.batches(name, seed)
    if not batches:
        return None
    faults: Counter[str] = Counter()
    for batch in batches:
        faults.update(batch.faults)
    return {
        "part": part,
        "driver": name,
        "claim": claim,
        "seed": seed,
        "cases": sum(batch.count for batch in batches),
        "of": whole,
        "faults": dict(sorted(faults.items())),
        "violated": sum(batch.violated for batch in batches),
        "violations": [violation for batch in batches for violation in batch.violations][:20],
        "commits": list(dict.fromkeys(batch.commit for batch in batches)),
        "dates": [min(batch.date for batch in batches), max(batch.date for batch in batches)],
        "seconds": round(sum(batch.seconds for batch in batches), 1),
    }


def write(ledger: Ledger, seed: int, command: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Write ``reliability-<machine>.json``; returns what is in it."""
    values = {**circumstances("reliability"), "command": command, "drivers": of(ledger, seed)}
    keep(folder / f"reliability-{machine()}.json", values)
    return values


def in_words(summary: dict[str, Any]) -> str:
    """For the end of a run."""
    lines = [
        f"{row['part'] + '/' + row['driver']:28} {row['cases']:>7} of {row['of']:>7} cases  {row['violated']} violated"
        for row in summary["drivers"]
    ]
    return "\n".join(lines)
