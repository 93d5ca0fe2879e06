"""docs/reliability.md: its tables are those of the committed results, and nothing was violated."""

import pytest

from benchmarks.pages.reliability import BEGIN, DOCUMENT, END, PARTS, make, read_results
from proof import table

PAGE = DOCUMENT.read_text(encoding="utf-8")
ROW = {
    "part": "kills", "driver": "training", "claim": "It goes on.", "seed": 1, "cases": 50, "of": 200, "faults": {"while | it saved": 50}, "violated": 0,
    "violations": [], "commits": ["c0ffee"], "dates": ["2026-01-01T00:00:00", "2026-01-02T00:00:00"], "seconds": 7200.0,
}  # fmt: skip
TOLD = {"machine": "a-machine", "python": "3.12", "versions": {"torch": "2.9"}, "command": "make test-slow", "drivers": [ROW]}


def test_the_page_is_that_of_the_committed_results():
    assert make(PAGE, read_results()) == PAGE, "run: python3 tools/host.py run benchmarks/pages/reliability.py"


def test_nothing_was_violated_in_the_committed_results():
    assert [row["violations"] for told in read_results() for row in told["drivers"] if row["violated"]] == []


def test_other_results_make_another_page():
    made = make(PAGE, [TOLD])
    assert (
        "**50 cases, 0 violations.** Machine: a-machine; Python 3.12, torch 2.9; commit `c0ffee`; 2026-01-01 to 2026-01-02; 2.0 hours."
        in made
    )
    assert "### Killed at any moment" in made
    assert "It goes on. 50 of 200 cases, 0 violations." in made
    assert "| while \\| it saved | 50 |" in made
    bad = {**ROW, "violated": 1, "violations": [{"number": 7, "fault": "x", "texts": ["lost"]}]}
    assert "1 violation." in make(PAGE, [{**TOLD, "drivers": [bad]}])
    assert "- Violated in case 7 (x): lost" in make(PAGE, [{**TOLD, "drivers": [bad]}])


def test_the_page_names_every_part_and_needs_a_place_for_its_tables():
    assert tuple(PARTS) == table.PARTS
    assert "Nothing has been tried yet" in make(f"{BEGIN}{END}", [])
    with pytest.raises(ValueError, match="has no <!-- reliability -->"):
        make("nothing", [])
