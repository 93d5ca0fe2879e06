"""A short draw of the hostile adapter files, the cases that once were violations,
and proof that the driver sees one."""

import pytest
from hostile_adapters import Case, case, cases, run, run_all

from krona_ops import formats

DRAW = 150


def test_a_case_is_a_function_of_its_seed_and_number():
    assert case(3, 17) == case(3, 17) != case(3, 18)
    more = cases(3, 17)
    assert [next(more), next(more)] == [case(3, 17), case(3, 18)]


def test_hostile_files_end_in_a_value_or_in_an_error_of_the_pack():
    outcomes = run_all(20_261_129, 0, DRAW)
    assert outcomes.violations == []
    assert outcomes.counts.total() == DRAW
    assert outcomes.counts["ok"] > DRAW / 20  # so that not everything ends at the first check


@pytest.mark.parametrize(("seed", "number"), [(1, 177), (1, 828), (2, 398), (2, 1976), (2, 2004), (2, 2240)])
def test_what_was_a_violation_is_none(seed, number, tmp_path):
    assert run(case(seed, number), tmp_path).kind != "violation"


def test_the_driver_sees_foreign_exceptions_and_what_a_terminal_would_obey(tmp_path, monkeypatch):
    def fails(*_: object) -> bool:
        raise OverflowError("int too large")

    monkeypatch.setattr(formats.lokr, "sniff", fails)
    one = next(one for one in cases(1) if run(one, tmp_path).kind == "violation")
    assert run(one, tmp_path).what.startswith("inspect: OverflowError")


def test_the_driver_sees_a_process_that_dies_and_goes_on_behind_it(tmp_path, monkeypatch):
    monkeypatch.setattr("hostile_adapters.SECONDS", 0.0)  # the first case that is waited for has taken too long
    outcomes = run_all(1, 0, 2)
    assert outcomes.counts.total() == 2
    assert all("processor time" in what for _, what in outcomes.violations)


def test_a_file_is_not_left_behind(tmp_path):
    run(Case(0, 0, b"", b"{}"), tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
