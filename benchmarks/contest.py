"""What all benchmarks share: runs that take turns, medians, and one file per benchmark and machine.
What is claimed of them says `benchmarks.claims`.

Machines are noisy and their speed drifts, so what is compared is measured in turns (A B C A B C ...) within one
process, and a claim about speed is a ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.claims import Claim, judge
from benchmarks.command import ROOT, parsed, parser_of

VERSIONS = ("torch", "numpy", "safetensors", "lycoris-lora", "peft", "diffusers")


@dataclass(frozen=True)
class Times:
    """Seconds of one contestant, in the order they were measured."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def low(self) -> float:
        return min(self.seconds)

    @property
    def high(self) -> float:
        return max(self.seconds)

    def as_row(self) -> dict[str, float]:
        """For the results' file."""
        return {"median": self.median, "low": self.low, "high": self.high, "runs": len(self.seconds)}


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    *,
    warm_up: int = 1,
    prepare: Callable[[str], object] | None = None,
    wait: Callable[[], object] | None = None,
) -> dict[str, Times]:
    """Measure everybody in turns.

    Args:
        contestants: Name to one run of the work.
        warm_up: Rounds that do not count.
        prepare: Called with the name before each run, outside of its time.
        wait: Called at the end of each run, inside of its time; for devices that work on by themselves.
    """
    durations: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(warm_up + rounds):
        for name, run in contestants.items():
            if prepare is not None:
                prepare(name)
            began = time.perf_counter()
            run()
            if wait is not None:
                wait()
            if number >= warm_up:
                durations[name].append(time.perf_counter() - began)
    return {name: Times(tuple(seconds)) for name, seconds in durations.items()}


def require_close(name: str, result: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """A fast wrong answer is no answer.

    Args:
        tolerance: Of the relative difference, in norms.

    Raises:
        SystemExit: It is further away.
    """
    difference = (result.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
    if not difference <= tolerance:
        raise SystemExit(f"{name} is wrong: relative difference {difference:.2e}, at most {tolerance:.0e} is rounding.")


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Text in columns: the first to the left, the others to the right."""
    lines = [[str(cell) for cell in line] for line in (tuple(head), *(tuple(row) for row in rows))]
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def arguments(description: str, **more: Any) -> argparse.Namespace:
    """The command line of a benchmark: ``--results``, ``--rehearse``, ``--threads``, ``--rounds`` and its own,
    as name to default. A rehearsal takes one round on one thread."""
    parser = parser_of(description)
    for name, default in {"threads": 2, "rounds": 7, **more}.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=type(default), default=default)
    chosen = parsed(parser)
    if chosen.rehearse:
        chosen.threads = chosen.rounds = 1
    torch.set_num_threads(chosen.threads)
    return chosen


def machine() -> str:
    """The processor's or the accelerator's name, fit for a file name."""
    if torch.cuda.is_available():
        return _plain(torch.cuda.get_device_name())
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (model := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        name = model[1]
    return f"{_plain(name)}-{os.cpu_count()}cpu"


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def commit() -> str:
    """The commit that is checked out, with a plus where files differ from it; results do not count."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    changed = [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results", ":!README.md", ":!docs"]
    dirty = subprocess.run(changed, capture_output=True, text=True, check=False).stdout.strip()
    return head + ("+" if dirty else "")


def finish(name: str, results: Mapping[str, Any], options: argparse.Namespace, **context: Any) -> None:
    """Write ``<name>-<machine>.json``; print what is claimed and what is measured beside its limit,
    and last one JSON line with all of it.

    Args:
        results: Everything that was measured.
        options: ``results``, the folder to write to, and whether to ``rehearse``, which the file says.
        context: What else belongs to the machine or the command: threads, sizes.
    """
    if options.rehearse:
        context = {"rehearsal": True, **context}
    rows = judge(name, results)
    claims = [row for row in rows if isinstance(row, Claim)]
    judged = {
        "bars": [{**asdict(claim), "holds": claim.holds} for claim in claims],
        "measured": [asdict(row) for row in rows if not isinstance(row, Claim)],
    }
    path = options.results / f"{name}-{machine()}.json"
    keep(path, {**circumstances(name), **context, **judged, "results": results})
    if claims:
        verdicts = ("rehearsed",) * 2 if options.rehearse else ("MISSED", "holds")
        lines = (
            (claim.name, f"{claim.value:.3f}", f"{claim.wanted} {claim.bar:g}", verdicts[claim.holds])
            for claim in claims
        )
        print("\n" + table(("claim", "value", "wanted", ""), lines))
    if judged["measured"]:
        beside = ((m["name"], f"{m['value']:.3f}", f"{m['limit']:.3f}", m["limited_by"]) for m in judged["measured"])
        print("\n" + table(("measured", "value", "limit", "limited by"), beside))
    print(f"written to {path}")
    print(json.dumps({"benchmark": name, **judged}, ensure_ascii=False))


def circumstances(name: str) -> dict[str, Any]:
    """What every results' file begins with: when, where and with what it was measured."""
    return {
        "benchmark": name,
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "load average at end": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {package: version for package in VERSIONS if (version := _version(package))},
    }


def keep(path: Path, values: Mapping[str, Any], rows: Iterable[Mapping[str, Any]] | None = None) -> None:
    """Write a results' file; it is there whole or as it was.

    Args:
        rows: Many small results, a line each, as "trials".
    """
    text = json.dumps(values, indent=1, ensure_ascii=False)
    if rows is not None:
        lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        text = f'{text.removesuffix("}").rstrip()},\n "trials": [\n  {lines}\n ]\n}}'
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_suffix(".part")
    waiting.write_text(text + "\n", encoding="utf-8")
    os.replace(waiting, path)


def keep_among(
    path: Path,
    values: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    same: Sequence[str],
    place: Callable[[Mapping[str, Any]], Any],
) -> None:
    """Write rows into a results' file, in the place of those that were there of the ``same`` values.

    Args:
        place: Where a row stands among the others.
    """

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in same)

    before = json.loads(path.read_text(encoding="utf-8"))["trials"] if path.exists() else []
    anew = list(rows)
    replaced = {key(row) for row in anew}
    keep(path, values, sorted([*(row for row in before if key(row) not in replaced), *anew], key=place))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
