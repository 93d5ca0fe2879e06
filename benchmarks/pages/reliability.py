"""Writes the tables of docs/reliability.md from benchmarks/results/reliability-*.json, which ``make test-slow`` leaves.

    python3 tools/host.py run benchmarks/pages/reliability.py

tests/tools/test_reliability.py fails when the page is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACK = Path(__file__).absolute().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from benchmarks.command import RESULTS  # noqa: E402

DOCUMENT = PACK / "docs" / "reliability.md"
BEGIN, END = "<!-- reliability -->", "<!-- /reliability -->"
PARTS = {
    "hostile": "Files and texts from strangers",
    "kills": "Killed at any moment",
    "disk": "Disks that are full, read-only or shared",
    "load": "Many prompts, adapters and trainings",
    "isolation": "What a node leaves behind",
    "attacks": "Requests to the routes",
    "audit": "Code, processes and connections",
}
"""The parts of the proof in the page's order, by their names in words."""


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """What was found, one value for each machine."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("reliability-*.json"))]


def make(text: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with its tables made anew.

    Raises:
        ValueError: The page has no place for them.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"docs/reliability.md has no {BEGIN} … {END}.")
    tables = "\n\n".join(_of_machine(result) for result in results) or "Nothing has been tried yet: `make test-slow`."
    return f"{before}{begin}\n\n{tables}\n\n{end}{after}"


def _of_machine(result: Mapping[str, Any]) -> str:
    rows = result["drivers"]
    cases, violated = sum(row["cases"] for row in rows), sum(row["violated"] for row in rows)
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(c for row in rows for c in row["commits"]))
    lines = [
        f"**{cases:,} cases, {_violations(violated)}.** Machine: {result['machine']}; Python {result['python']}, torch {result['versions']['torch']}; "
        f"commit {commits}; {_dates(rows)}; {_hours(sum(row['seconds'] for row in rows))}.",
        f"Command: `{result['command']}`. A case is repeated with `python3 tools/host.py run -m proof --only DRIVER --seed SEED --case NUMBER`.",
    ]
    for part, words in PARTS.items():
        if of_part := [row for row in rows if row["part"] == part]:
            lines.append(f"### {words}")
            lines += [_of_driver(row) for row in of_part]
    return "\n\n".join(lines)


def _of_driver(row: Mapping[str, Any]) -> str:
    share = "" if row["cases"] >= row["of"] else f" of {row['of']:,}"
    head = f"**{row['driver']}** (`proof --only {row['driver']} --seed {row['seed']}`): {row['claim']} {row['cases']:,}{share} cases, {_violations(row['violated'])}."
    table = [
        "| done to the pack | cases |",
        "| --- | ---: |",
        *(f"| {_cell(fault)} | {count:,} |" for fault, count in row["faults"].items()),
    ]
    lines = [
        f"- Violated in case {v['number']} ({_cell(v['fault'])}): {_cell('; '.join(v['texts']))[:300]}"
        for v in row["violations"]
    ]
    return "\n".join([head, "", *table, *(["", *lines] if lines else [])])


def _violations(count: int) -> str:
    return f"{count:,} violation{'' if count == 1 else 's'}"


def _dates(rows: Sequence[Mapping[str, Any]]) -> str:
    first, last = min(row["dates"][0] for row in rows)[:10], max(row["dates"][1] for row in rows)[:10]
    return first if first == last else f"{first} to {last}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def main() -> None:
    """Write the page."""
    text = DOCUMENT.read_text(encoding="utf-8")
    made = make(text, read_results())
    DOCUMENT.write_text(made, encoding="utf-8")
    print(f"{DOCUMENT.relative_to(PACK)}: {'as it was' if made == text else 'written'}")


if __name__ == "__main__":
    main()
