"""The slow run: every driver of the table, as many cases as it says, going on where the last run was stopped.

    python3 tools/host.py run -m proof                                  everything (hours)
    python3 tools/host.py run -m proof --parts kills,disk --cases 50    some parts, so many cases of each driver
    python3 tools/host.py run -m proof --only adapters --seed 7 --case 4711    one case again

Results are lines in proof-work; a whole or partial run ends with benchmarks/results/reliability-<machine>.json and,
made from it by benchmarks/pages/reliability.py, docs/reliability.md. The part ``hosts`` is tests/slow/test_hosts.py:
other ComfyUIs, installed and started.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.contest import commit, machine
from benchmarks.pages import reliability

from . import summary, table
from .driver import Driver, Outcome
from .ledger import TEXTS_KEPT, Ledger, batch_of
from .watch import ROOT, Worker

HOSTS = "hosts"
WORK = ROOT / "proof-work"


def main(argv: list[str]) -> int:
    """The command line; 1 where something was violated."""
    chosen = options(argv)
    parts = chosen.parts.split(",") if chosen.parts else None
    try:
        drivers = table.of([p for p in parts or () if p != HOSTS], chosen.only.split(",") if chosen.only else None)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if parts == [HOSTS]:
        drivers = []
    if chosen.case is not None:
        return again(drivers, chosen.seed, chosen.case, chosen.results)
    ledger = Ledger(chosen.results)
    if chosen.anew:
        ledger.forget(drivers)
    deadline = time.monotonic() + 60 * chosen.minutes if chosen.minutes else None
    for driver in drivers:
        slow(driver, ledger, chosen.seed, chosen.cases or driver.cases, deadline)
    command = " ".join(["make test-slow", *([f'ARGS="{" ".join(argv)}"'] if argv else [])])
    results = summary.write(ledger, chosen.seed, command, summary.RESULTS if chosen.results == WORK else chosen.results)
    print(summary.in_words(results), flush=True)
    if chosen.results == WORK:
        reliability.main()
    failed = any(row["violated"] for row in results["drivers"])
    if HOSTS in (parts or ([] if chosen.only else [HOSTS])) and not (deadline and time.monotonic() > deadline):
        pytest = [sys.executable, "-m", "pytest", "-m", "slow", str(ROOT / "tests")]
        failed |= subprocess.run(pytest, cwd=ROOT, check=False).returncode != 0
    return int(failed)


def options(argv: list[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="proof", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", help=f"some of {', '.join((*table.PARTS, HOSTS))}, with commas; all without it")
    parser.add_argument("--only", help="some drivers by name, with commas")
    parser.add_argument("--cases", type=int, help="of each driver; as the table says without it")
    parser.add_argument("--seed", type=int, default=1, help="another seed is another set of cases")
    parser.add_argument("--case", type=int, help="try one case of one driver, and print what came of it")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    parser.add_argument("--results", type=Path, default=WORK, help="folder of the result lines")
    parser.add_argument("--anew", action="store_true", help="forget what these drivers have tried")
    return parser.parse_args(argv)


def slow(driver: Driver, ledger: Ledger, seed: int, cases: int, deadline: float | None) -> None:
    """Try what is missing of one driver; a line for each batch."""
    by = commit()
    missing = ledger.missing(driver, seed, cases, by)
    name = f"[{driver.part}/{driver.name}]"
    print(f"{name} {sum(map(len, missing))} of {cases} cases to try, seed {seed}: {driver.claim}", flush=True)
    with Worker(driver.process, log_of(ledger, driver)) as worker:
        for numbers in missing:
            if deadline and time.monotonic() > deadline:
                print(f"{name} stopped; the same command goes on here", flush=True)
                return
            start = time.monotonic()
            outcomes = []
            for outcome in worker.run(driver, seed, numbers):
                outcomes.append(outcome)
                show(driver, seed, outcome)
            summary = {
                "commit": by,
                "machine": machine(),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
            batch = batch_of(driver.name, seed, outcomes, **summary, seconds=round(time.monotonic() - start, 1))
            ledger.add(batch)
            print(f"{name} {numbers.stop} of {cases}: {batch.violated} violated, {batch.seconds:.0f} s", flush=True)


def again(drivers: list[Driver], seed: int, number: int, results: Path) -> int:
    """One case of one driver, with its own words on the screen."""
    if len(drivers) != 1:
        sys.exit("error: --case wants one driver, named with --only")
    log = log_of(Ledger(results), drivers[0])
    log.unlink(missing_ok=True)
    with Worker(drivers[0].process, log) as worker:
        [outcome] = worker.run(drivers[0], seed, [number])
    print(log.read_text(encoding="utf-8", errors="replace"))
    print(f"{outcome.fault}: {'; '.join(outcome.violations) or 'ok'}")
    return int(bool(outcome.violations))


def show(driver: Driver, seed: int, outcome: Outcome) -> None:
    """A violation, and how to see it again."""
    for text in outcome.violations[:TEXTS_KEPT]:
        print(
            f"VIOLATED [{driver.part}/{driver.name}] {outcome.fault}: {text[:1000]}\n    again: {repeat(driver, seed, outcome.number)}",
            flush=True,
        )


def repeat(driver: Driver, seed: int, number: int) -> str:
    """The command that tries one case again."""
    return f"python3 tools/host.py run -m proof --only {driver.name} --seed {seed} --case {number}"


def log_of(ledger: Ledger, driver: Driver) -> Path:
    """Where the driver's process writes."""
    ledger.folder.mkdir(parents=True, exist_ok=True)
    return ledger.folder / f"{driver.name}.log"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
