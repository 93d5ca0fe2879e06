"""Does it learn? Personalisation in the small world, measured:
KronA, LoRA, LoKr and full fine-tuning, learning rates, factors, pictures.

    python3 tools/host.py run benchmarks/quality.py [--parts references,default,core,seeds] [--workers 2] [--minutes 0] [--results FOLDER]
    python3 tools/host.py run benchmarks/quality.py --again '{"contender": "lora 4", "rate": 0.001, "subject": 3}'    one row anew
    python3 tools/host.py run benchmarks/quality.py --report                                                          no trial, only the sums

Each trial is a row in ``results/quality-<machine>.json``, written after every ten; a run that was stopped goes on where
it was, also on another machine, and rows that another commit has measured with the same model, judges and settings
stay. ``--minutes`` stops by itself. ``--results`` takes and puts them elsewhere.
docs/quality.md says what the numbers mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if __name__ in ("__main__", "__mp_main__"):
    sys.path[0] = str(ROOT)  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.command import RESULTS  # noqa: E402
from benchmarks.contest import circumstances, commit, keep, machine  # noqa: E402
from benchmarks.world.command import say  # noqa: E402
from benchmarks.world.contenders import MOSA, PAPER, SETTINGS, WHOLE  # noqa: E402
from benchmarks.world.plan import CORE, KRONA, PARTS, missing, trials  # noqa: E402
from benchmarks.world.summary import (  # noqa: E402
    branch_headline,
    distilled_headline,
    headline,
    line,
    mosa_headline,
    resolution_headline,
)
from benchmarks.world.trial import Studio, Trial, current, key  # noqa: E402
from krona_ops.errors import KronaError  # noqa: E402

EVERY = 10
"""Trials between writings of the results."""
WORLD = ROOT / "samples" / "world"
WITH_TWO_LEVELS = ("world", "two-levels", "judges")
"""The files of what is measured with the second base."""
AGAIN = "python3 tools/host.py run benchmarks/quality.py --again '<the row>'"
Row = dict[str, Any]
_studio: Studio | None = None
"""Of a worker's process."""


def enter(threads: int) -> None:
    """Make a worker ready."""
    global _studio
    torch.set_num_threads(threads)
    host.start(cpu=not torch.cuda.is_available())
    _studio = Studio()


def run(trial: Trial) -> Row:
    """One row; of a training that fails, what it failed with."""
    assert _studio is not None
    try:
        row = _studio.run(trial)
    except KronaError as error:
        row = {**asdict(trial), "failed": str(error)}
    return {**row, "recipe": trial.recipe(), "threads": torch.get_num_threads()}


def judged_by(folder: Path = WORLD, names: Sequence[str] = ("world", "judges")) -> str:
    """A hash of the model and of the judges: rows of others are not comparable.

    Args:
        names: Of their files; `WITH_TWO_LEVELS` for what is measured with the second base.

    Raises:
        SystemExit: They are not there.
    """
    files = [folder / f"{name}.safetensors" for name in names]
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise SystemExit(f"Missing: {', '.join(absent)}. Make them with: make world")
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:12]


def of_all_machines(folder: Path, judges: str) -> list[Row]:
    """What has been measured with this model and these judges, each trial once:
    of the machine with most rows where several have it.

    Machines' rows are worth the same: 39 trials that an Intel Xeon and an AMD EPYC both ran differ by 3e-5 at most in a
    cosine (docs/LOG.md).
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("quality-*.json"))]
    rows: list[Row] = []
    for result in sorted(results, key=lambda result: len(result["trials"])):
        if result["judged by"] == judges:
            rows = joined([{"machine": result["machine"], **row} for row in result["trials"]], rows)
    return rows


def of_branches(folder: Path, judges: str) -> list[Row]:
    """What `benchmarks.world.judge_branches` has measured with this model and these judges."""
    return _newest(folder, "branches", judges, ("part", "subject", "adapter", "steps"))


def of_distilled(folder: Path, judges: str) -> list[Row]:
    """What `benchmarks.world.judge_distilled` has measured with this model and these judges."""
    return _newest(folder, "distilled", judges, ("part",))


def of_guidance(folder: Path, judges: str) -> list[Row]:
    """What `benchmarks.world.judge_guidance` has measured with this model and these judges."""
    return _newest(folder, "guidance", judges, ("part", "subject", "way"))


def of_resolutions(folder: Path, judges: str) -> list[Row]:
    """What `benchmarks.world.judge_resolutions` has measured with these models and these judges.

    Args:
        judges: `judged_by` of `WITH_TWO_LEVELS`.
    """
    return _newest(folder, "resolutions", judges, ("part", "side"))


def _newest(folder: Path, benchmark: str, judges: str, same: Sequence[str]) -> list[Row]:
    """The rows of a benchmark; of several machines, the newest of those that have the ``same`` values."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{benchmark}-*.json"))]
    rows: dict[tuple, Row] = {}
    for result in sorted(results, key=lambda result: result["date"]):
        if result["judged by"] == judges:
            rows |= {tuple(row.get(name) for name in same): row for row in result["trials"]}
    return list(rows.values())


def rows_so_far(file: Path, judges: str) -> list[Row]:
    """What is there already, from this machine and others; a file of another model or other judges is put aside."""
    before = json.loads(file.read_text(encoding="utf-8"))["judged by"] if file.exists() else judges
    if before != judges:
        aside = file.with_suffix(f".{before}.old")
        say(f"{file.name} was measured with another model or other judges; it is {aside.name} now")
        os.replace(file, aside)
    return of_all_machines(file.parent, judges)


def measured(wanted: Sequence[Trial], workers: int) -> Iterator[Row]:
    """Rows as they come."""
    threads, made_by = max(1, (os.cpu_count() or 1) // workers), commit()
    with multiprocessing.get_context("spawn").Pool(workers, enter, (threads,)) as pool:
        for row in pool.imap_unordered(run, wanted):
            yield {**row, "commit": made_by, "machine": machine()}


def joined(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """Rows of two sources, each trial once, in order."""
    by_recipe = {(key(row), row["recipe"]): row for row in (*others, *rows)}
    return sorted(by_recipe.values(), key=lambda row: (*map(str, key(row)), row["recipe"]))


def write(file: Path, judges: str, rows: Sequence[Row]) -> None:
    """All rows and what they say; rows that another process has written meanwhile stay."""
    rows = joined(rows, rows_so_far(file, judges))
    folder = file.parent
    resolutions = of_resolutions(folder, judged_by(names=WITH_TWO_LEVELS))
    summed = sums(rows, of_branches(folder, judges), of_distilled(folder, judges), resolutions)
    keep(file, {**circumstances("quality"), "judged by": judges, "again": AGAIN, **summed}, rows)


def sums(
    rows: Sequence[Row],
    branches: Sequence[Row] = (),
    distilled: Sequence[Row] = (),
    resolutions: Sequence[Row] = (),
) -> dict[str, Any]:
    """What the rows of today's settings, and those of branches, of distilled adapters and of adapters for other sizes,
    say together: ``headline``, ``done`` (trials run and wanted, by part) and ``lines`` (a contender each)."""
    now = current(rows)
    names = [
        name
        for name in dict.fromkeys([*CORE, *(row["contender"] for row in now)])
        if name not in ("base", "real", SETTINGS)
    ]
    loras = [name for name in names if name.startswith("lora")]
    return {
        "headline": {
            **headline(now, PAPER, KRONA, "lora 4", loras),
            **branch_headline(branches),
            **distilled_headline(distilled),
            **resolution_headline(resolutions),
            **mosa_headline(now, WHOLE, MOSA),
        },
        "done": {
            part: [len(wanted) - len(missing(wanted, now)), len(wanted)]
            for part in PARTS
            for wanted in [trials(part, now)]
        },
        "lines": [entry for name in names if (entry := line(now, name))],
    }


def again(text: str, rows: Sequence[Row]) -> int:
    """Measure one row anew and compare it with the one in the file; the exit status."""
    settings = json.loads(text)
    trial = Trial(**{field.name: settings[field.name] for field in dataclasses.fields(Trial) if field.name in settings})
    before = next((row for row in rows if key(row) == key(trial) and row["recipe"] == trial.recipe()), None)
    enter(before["threads"] if before else 1)
    row = run(trial)
    say(json.dumps(row, indent=1))
    if before is None:
        say("there was no such row")
        return 0
    differs = [name for name in row if name != "seconds" and row[name] != before.get(name)]
    say(
        f"differs: {', '.join(differs)}"
        if differs
        else f"the same to the last digit as {before['commit']} measured it on {before['machine']}"
    )
    return bool(differs)


def main() -> int:
    """Run what is missing, part by part; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--workers", type=int, default=os.cpu_count() if not torch.cuda.is_available() else 2)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    judges, file = judged_by(), options.results / f"quality-{machine()}.json"
    rows, began = rows_so_far(file, judges), time.monotonic()
    if options.again:
        return again(options.again, rows)
    # So that workers end, and what is measured is written
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        for part in options.parts.split(",") if not options.report else ():
            wanted = trials(part, current(rows))
            left, since = missing(wanted, rows), time.monotonic()
            say(f"{part}: {len(left)} of {len(wanted)} trials to run")
            for number, row in enumerate(measured(left, options.workers) if left else (), 1):
                rows.append(row)
                if number % EVERY == 0:
                    write(file, judges, rows)
                result = row.get("failed") or f"likeness {row['likeness']:.3f}, prompts {row['prompt']:.2f}"
                say(
                    f"{part} {number} of {len(left)}, {(time.monotonic() - since) / number:.0f} s each: {key(row)}: {result}"
                )
                if options.minutes and time.monotonic() - began > 60 * options.minutes:
                    say("the time is up; the same command goes on")
                    return 0
    finally:
        write(file, judges, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
