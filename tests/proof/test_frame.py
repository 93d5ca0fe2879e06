"""The frame of the standing proof can see what it is there to see: violations, hangs and deaths; and it goes on where it was stopped."""

import json
import sys
from dataclasses import replace

import pytest

from proof import ledger as ledgers
from proof import summary, table
from proof.driver import Driver, Outcome
from proof.ledger import Ledger, batch_of
from proof.watch import Worker

FAULTY = Driver("hostile", "faulty", "faulty", "nothing", cases=6, draw=6, batch=3, seconds=10, gigabytes=1)
CODE = """
import os, sys, time, types
from proof import driver, table, worker

def run(bench, numbers):
    for number in numbers:
        how = bench.place(number).parent.joinpath("x") and HOW[number]
        if how == "hangs":
            while True: time.sleep(0.1)
        if how == "dies":
            os.abort()
        if how == "raises":
            raise KeyError("no such thing")
        if how == "eats":
            bytearray(4 << 30)
        yield driver.Outcome(number, how, ("it is bad",) if how == "violates" else ())

HOW = ["fine", "hangs", "violates", "dies", "raises", "eats", "fine"]
sys.modules["proof.faulty"] = types.SimpleNamespace(run=run)
table.DRIVERS = (driver.Driver("hostile", "faulty", "faulty", "nothing", 6, 6, 3, gigabytes=1),)
worker.prepare = lambda process: None
worker.main(int(sys.argv[1]), sys.argv[2])
"""
CIRCUMSTANCES = {"commit": "c0ffee", "machine": "m", "date": "2026-01-01"}


@pytest.fixture
def worker(tmp_path):
    with Worker("plain", tmp_path / "log", python=("-c", CODE)) as running:
        yield running


def test_whoever_hangs_dies_or_raises_has_lost_and_the_cases_after_are_tried(worker):
    outcomes = list(worker.run(replace(FAULTY, seconds=3), 1, range(7)))
    assert [o.number for o in outcomes] == list(range(7))
    told = {o.number: "; ".join(o.violations) for o in outcomes}
    assert told[0] == told[6] == ""
    assert told[1] == "it hangs: nothing came for 3 s; its own words are in log"
    assert told[2] == "it is bad"
    assert told[3].startswith("the process died with code -6")
    assert "the driver could not go on: KeyError: \"'no such thing'\"" in told[4]
    if sys.platform == "linux":
        assert "MemoryError" in told[5]


def test_a_run_goes_on_at_the_batch_where_it_was_stopped(tmp_path):
    book = Ledger(tmp_path)
    driver = replace(FAULTY, cases=7)
    assert book.missing(driver, 1, 7, "c0ffee") == [range(0, 3), range(3, 6), range(6, 7)]
    book.add(batch_of("faulty", 1, [Outcome(n, "fine") for n in range(3)], **CIRCUMSTANCES))
    with (tmp_path / "faulty.jsonl").open("a") as file:
        file.write('{"driver": "faul')  # killed while it wrote
    assert book.missing(driver, 1, 7, "c0ffee") == [range(3, 6), range(6, 7)]
    assert book.missing(driver, 2, 7, "c0ffee") == [range(0, 3), range(3, 6), range(6, 7)]
    book.forget([driver])
    assert len(book.missing(driver, 1, 7, "c0ffee")) == 3


def test_what_was_violated_is_tried_again_by_another_commit_and_its_last_word_counts(tmp_path, monkeypatch):
    book = Ledger(tmp_path)
    bad = [Outcome(0, "a"), Outcome(1, "b", ("wrong", "again")), Outcome(2, "b")]
    book.add(batch_of("faulty", 1, bad, **CIRCUMSTANCES))
    assert book.missing(FAULTY, 1, 3, "c0ffee") == []
    assert book.missing(FAULTY, 1, 3, "decade") == [range(0, 3)]
    monkeypatch.setattr(summary, "DRIVERS", (FAULTY,))
    [row] = summary.of(book, 1)
    assert (row["cases"], row["violated"], row["faults"]) == (3, 1, {"a": 1, "b": 2})
    assert row["violations"] == [{"number": 1, "fault": "b", "texts": ["wrong", "again"]}]
    book.add(batch_of("faulty", 1, [Outcome(n, "a") for n in range(3)], **{**CIRCUMSTANCES, "commit": "decade"}))
    [row] = summary.of(book, 1)
    assert (row["cases"], row["violated"], row["commits"]) == (3, 0, ["decade"])


def test_of_many_violations_all_are_counted_and_some_kept(tmp_path):
    batch = batch_of("faulty", 1, [Outcome(n, "a", ("bad",)) for n in range(500)], **CIRCUMSTANCES)
    assert batch.violated == 500
    assert len(batch.violations) == ledgers.VIOLATIONS_KEPT
    Ledger(tmp_path).add(batch)
    assert json.loads((tmp_path / "faulty.jsonl").read_text())["count"] == 500


def test_each_driver_of_the_table_is_a_file_with_a_name_of_its_own_and_a_known_part():
    names = [driver.name for driver in table.DRIVERS]
    assert len(set(names)) == len(names)
    for driver in table.DRIVERS:
        assert callable(driver.load())
        assert driver.part in table.PARTS
        assert 0 <= driver.draw <= driver.cases
        assert driver.claim.endswith(".")


def test_each_part_that_is_tried_has_a_short_draw():
    for part in {driver.part for driver in table.DRIVERS}:
        assert any(driver.draw for driver in table.of([part])), part


def test_parts_and_drivers_are_chosen_by_name():
    assert table.of() == list(table.DRIVERS)
    for part in {driver.part for driver in table.DRIVERS}:
        assert {driver.part for driver in table.of([part])} == {part}
    with pytest.raises(ValueError, match="there is no part dreams; there are attacks, audit"):
        table.of(["dreams"])
