"""Writes the README's table of speed from benchmarks/results/*.json, one row for each bar, the missed ones included.

    python3 benchmarks/pages/readme_table.py

Files without "bars" are of an older kind and are left out. tests/tools/test_benchmark_table.py fails when the README is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PACK = Path(__file__).absolute().parents[2]
DOCUMENT = PACK / "README.md"
RESULTS = PACK / "benchmarks" / "results"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
_BAR = "\\|"
"""A bar inside a cell."""


def read(folder: Path = RESULTS) -> list[Mapping[str, Any]]:
    """What the benchmarks wrote, in the order of the files' names."""
    told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [one for one in told if one.get("bars")]


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """One line that sums up, a row for each claim with a column for each machine, and the commits that were measured."""
    bars = [bar for told in results for bar in told["bars"]]
    if not bars:
        return "Speed: no benchmark with a bar has been run yet (`make bench`)."
    missed = sum(not bar["holds"] for bar in bars)
    verdict = f"{len(bars) - missed} of {len(bars)} measured claims hold" + (f", **{missed} missed**" if missed else "")
    machines = sorted({told["machine"] for told in results})
    head = ("benchmark", "claim", "wanted", *(f"`{machine}`" for machine in machines))
    lines = [head, ("---", "---", "---:", *["---:"] * len(machines)), *_rows(results, machines)]
    rows = "\n".join("| " + " | ".join(str(cell).replace("|", _BAR) for cell in line) + " |" for line in lines)
    return f"<details><summary>Speed, measured by <code>make bench</code>: {_html(verdict)}</summary>\n\n{rows}\n\n{_commits(results)}\n\n</details>"


def _rows(results: Iterable[Mapping[str, Any]], machines: Sequence[str]) -> Iterable[tuple[str, ...]]:
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for told in results:
        script = told["benchmark"].partition("-")[0]  # "step-sdxl" is the same file with an option
        for bar in told["bars"]:
            claim = f"[{told['benchmark']}](benchmarks/{script}.py)", bar["name"], f"{bar['wanted']} {_number(bar['bar'])}"
            measured = _number(bar["value"])
            found.setdefault(claim, {})[told["machine"]] = measured if bar["holds"] else f"**{measured} missed**"
    for claim, measured in sorted(found.items(), key=lambda item: item[0][0]):
        yield *claim, *(measured.get(machine, "") for machine in machines)


def _commits(results: Iterable[Mapping[str, Any]]) -> str:
    """Which benchmarks were measured at which commit, machine by machine."""
    found: dict[str, dict[str, list[str]]] = {}
    for told in results:
        found.setdefault(told["machine"], {}).setdefault(told["commit"], []).append(told["benchmark"])
    told = (
        f"`{machine}`: " + ", ".join(f"{', '.join(names)} at `{commit}`" for commit, names in commits.items())
        for machine, commits in sorted(found.items())
    )
    return "Measured on " + "; ".join(told) + "."


def _number(value: float) -> str:
    """Three digits that count; whole numbers that are large in full."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _html(text: str) -> str:
    """A summary is HTML, where two asterisks are two asterisks."""
    before, *rest = text.split("**")
    return before + "".join(f"<b>{part}</b>" if n % 2 == 0 else part for n, part in enumerate(rest))


def make(text: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The README with the table made anew.

    Raises:
        ValueError: It has no place for it.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md has no lines {BEGIN} and {END}.")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:start]}\n\n{table(results)}\n\n{text[end:]}"


def main() -> None:
    """Write the README anew."""
    DOCUMENT.write_text(make(DOCUMENT.read_text(encoding="utf-8"), read()), encoding="utf-8")
    print(f"wrote {DOCUMENT.relative_to(PACK)}")


if __name__ == "__main__":
    sys.exit(main())
