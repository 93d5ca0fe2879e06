"""Writes docs/speed.md and its sentence in the README from benchmarks/results/*.json: a row for each claim, the missed
ones included, and for each measurement its limit.

    python3 benchmarks/pages/readme_table.py

What is claimed says benchmarks/claims.py, which judges the recorded results anew; files of which it claims nothing are
left out. tests/tools/test_benchmark_table.py fails when a page is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACK = Path(__file__).absolute().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of benchmarks/pages/, so that `benchmarks` is a package

from benchmarks.claims import Claim, Measurement, judge  # noqa: E402
from benchmarks.command import RESULTS, parsed, parser_of  # noqa: E402

DOCUMENT, README = PACK / "docs" / "speed.md", PACK / "README.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
NOTHING = "Speed: no benchmark with a claim has been run yet (`make bench`)."
_BAR = "\\|"
"""A bar inside a cell."""


@dataclass(frozen=True)
class Judged:
    """A results' file, and what is claimed of it today."""

    benchmark: str
    commit: str
    machine: str
    claims: tuple[Claim, ...]
    measured: tuple[Measurement, ...] = ()


def read(folder: Path = RESULTS) -> list[Judged]:
    """What the benchmarks wrote, in the order of the files' names;
    of blends, memory and quality nothing is claimed here."""
    judged = []
    for path in sorted(folder.glob("*.json")):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        rows = judge(recorded.get("benchmark", ""), recorded.get("results") or {})
        if rows:
            claims = tuple(row for row in rows if isinstance(row, Claim))
            measured = tuple(row for row in rows if isinstance(row, Measurement))
            judged.append(Judged(recorded["benchmark"], recorded["commit"], recorded["machine"], claims, measured))
    return judged


def verdict(results: Iterable[Judged]) -> str:
    """How many claims hold."""
    claims = [claim for judged in results for claim in judged.claims]
    missed = sum(not claim.holds for claim in claims)
    return f"{len(claims) - missed} of {len(claims)} measured claims hold" + (
        f", **{missed} missed**" if missed else ""
    )


def in_short(results: Sequence[Judged]) -> str:
    """What the README says."""
    if not any(judged.claims for judged in results):
        return NOTHING
    return f"[Speed](docs/speed.md), measured by `make bench` on two kinds of processors: {verdict(results)}."


def table(results: Sequence[Judged]) -> str:
    """One line that sums up, a row for each claim and each measurement with a column for each machine,
    and the commits that were measured."""
    if not any(judged.claims for judged in results):
        return NOTHING
    machines = sorted({judged.machine for judged in results})
    heads = [f"`{machine}`" for machine in machines]
    claims = _markdown(("benchmark", "claim", "wanted", *heads), _claims(results, machines), words=2)
    parts = [f"{verdict(results)}:", claims]
    if any(judged.measured for judged in results):
        parts += [
            "Measured and not claimed: what cannot be had, or is as much the machine's as ours. In brackets is the limit on the same machine:",
            _markdown(("benchmark", "what", "limit", *heads), _measurements(results, machines), words=3),
        ]
    return "\n\n".join([*parts, _commits(results)])


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    lines = [head, ["---" if number < words else "---:" for number in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", _BAR) for cell in line) + " |" for line in lines)


def _claims(results: Iterable[Judged], machines: Sequence[str]) -> Iterator[tuple[str, ...]]:
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for judged in results:
        for claim in judged.claims:
            key = _link(judged), claim.name, f"{claim.wanted} {_number(claim.bar)}"
            value = _number(claim.value, unlike=claim.bar)
            cells.setdefault(key, {})[judged.machine] = value if claim.holds else f"**{value} missed**"
    return _by_machine(cells, machines)


def _measurements(results: Iterable[Judged], machines: Sequence[str]) -> Iterator[tuple[str, ...]]:
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for judged in results:
        for one in judged.measured:
            value = f"{_number(one.value)} ({_number(one.limit)})"
            cells.setdefault((_link(judged), one.name, one.limited_by), {})[judged.machine] = value
    return _by_machine(cells, machines)


def _link(judged: Judged) -> str:
    script = judged.benchmark.partition("-")[0]  # "step-sdxl" is the same file with an option
    return f"[{judged.benchmark}](../benchmarks/{script}.py)"


def _by_machine(
    cells: Mapping[tuple[str, str, str], Mapping[str, str]], machines: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    for key, values in sorted(cells.items(), key=lambda item: item[0][0]):
        yield *key, *(values.get(machine, "") for machine in machines)


def _commits(results: Iterable[Judged]) -> str:
    """Which benchmarks were measured at which commit, machine by machine."""
    commits_of: dict[str, dict[str, list[str]]] = {}
    for judged in results:
        commits_of.setdefault(judged.machine, {}).setdefault(judged.commit, []).append(judged.benchmark)
    sentences = (
        f"`{machine}`: " + ", ".join(f"{', '.join(names)} at `{commit}`" for commit, names in commits.items())
        for machine, commits in sorted(commits_of.items())
    )
    return "Measured on " + "; ".join(sentences) + "."


def _number(value: float, unlike: float | None = None) -> str:
    """Three digits that count, or as many as tell it from another number; whole numbers that are large in full."""

    def of(number: float, digits: int) -> str:
        return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.{digits}g}"

    digits = 3
    while unlike is not None and value != unlike and digits < 8 and of(value, digits) == of(unlike, digits):
        digits += 1
    return of(value, digits)


def make(text: str, what: str) -> str:
    """A page with its part made anew.

    Raises:
        ValueError: It has no place for it.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"The page has no lines {BEGIN} and {END}.")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:start]}\n\n{what}\n\n{text[end:]}"


def main() -> None:
    """Write page and sentence anew; in a rehearsal, copies of them beside the results."""
    options = parsed(parser_of("Write docs/speed.md and the README's sentence from the results."))
    results = read(options.results)
    for document, what in ((DOCUMENT, table(results)), (README, in_short(results))):
        page = options.results / document.name if options.rehearse else document
        page.write_text(make(document.read_text(encoding="utf-8"), what), encoding="utf-8")
        sys.stdout.write(f"wrote {page}\n")


if __name__ == "__main__":
    main()
