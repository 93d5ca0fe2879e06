"""Runs at a glance: what the whole of their rows would say, seen anew when it has changed, and quickly enough for ten thousand."""

import json
import os
import shutil
import sys
import time
from collections import Counter

import pytest

from krona_train.run.overview import RunList
from krona_train.run.reading import run_folders, standing

STARTED = {"event": "started", "step": 0, "steps": 9, "layers": 1, "parameters": 2, "notes": []}
ENDED = {"event": "ended", "step": 9, "steps": 9, "error": None, "stopped": False}


def step(number, **more):
    return {"event": "step", "step": number, "loss": number / 7, "learning_rate": 1e-3, **more}


def validation(number):
    return {"event": "validation", "step": number, "validation": number / 3, "best": True}


def make(folder, rows=(), files=("run.yaml",), raw=b""):
    folder.mkdir(parents=True)
    if rows or raw:
        (folder / "metrics.jsonl").write_bytes("".join(f"{json.dumps(row)}\n" for row in rows).encode() + raw)
    for name in files:
        (folder / name).write_bytes(b"")
    old = time.time() - 60  # as if it had not been made just now
    for path in (*folder.iterdir(), folder):
        os.utime(path, (old, old))
    return folder


MANY = [step(number, note="x" * 100) for number in range(1, 400)]
RUNS = {
    "nothing yet": [],
    "finished": [STARTED, *map(step, range(1, 10)), ENDED],
    "killed": [STARTED, step(1), step(2)],
    "stopped": [STARTED, step(1), {**ENDED, "step": 1, "stopped": True}],
    "failed": [STARTED, step(1), {**ENDED, "step": 1, "error": "no memory"}],
    "goes on": [STARTED, step(1), {**ENDED, "step": 1}, {**STARTED, "step": 1, "steps": 20}, step(2)],
    "goes on, with nothing done": [STARTED, step(1), {**ENDED, "step": 1}, {**STARTED, "step": 1, "steps": 20}],
    "validated": [STARTED, step(1), validation(1), step(2), validation(2), step(3)],
    "long": [STARTED, *MANY, {**ENDED, "step": 399, "steps": 399}],
    "long and killed": [STARTED, *MANY],
    "long and gone on with": [STARTED, *MANY, {**ENDED, "step": 399}, {**STARTED, "step": 399, "steps": 5000}, *MANY],
    "long and validated": [STARTED, *MANY, validation(399)],
    "of an earlier version": [{"event": "step", "step": 1, "loss": 0.5, "learning_rate": 1.0}],
    "a note that says started": [STARTED, step(1), ENDED, {"event": "note", "step": 9, "text": 'it "started" late'}],
}


@pytest.mark.parametrize("has_result", [False, True])
@pytest.mark.parametrize("name", RUNS)
def test_a_glance_says_what_all_rows_say(tmp_path, name, has_result):
    folder = make(tmp_path / "a", RUNS[name], ("run.yaml", *(["adapter.safetensors"] if has_result else [])))
    [found] = RunList(tmp_path).look()
    assert found.standing == standing(folder)
    assert (found.name, found.is_run) == ("a", True)
    assert found.result == ("adapter.safetensors" if has_result else None)


DAMAGED = [
    b"\xff\xfe{",
    b'{"event": "step"}\n',
    b"[" * 5000,
    b'{"event": "ended"',
    b"\n\n\n",
    b'"ended"\n"step"\n',
    b"\0" * 50_000,
]


@pytest.mark.parametrize("raw", DAMAGED)
@pytest.mark.parametrize("name", ["nothing yet", "finished", "killed", "long"])
def test_damaged_lines_are_none_wherever_they_are(tmp_path, name, raw):
    folder = make(tmp_path / "a", RUNS[name], raw=raw)
    [found] = RunList(tmp_path).look()
    assert found.standing == standing(folder)


def test_what_is_a_run_and_what_is_only_linked_or_called_so(tmp_path):
    parent, outside = tmp_path / "runs", make(tmp_path / "outside", RUNS["finished"])
    make(parent / "a", RUNS["finished"])
    make(parent / "settings alone")
    make(parent / "no run", files=("adapter.safetensors",))
    make(parent / "a state alone", files=("state-00000003.safetensors",))
    make(parent / "rows elsewhere", files=())
    (parent / "rows elsewhere" / "metrics.jsonl").symlink_to(outside / "metrics.jsonl")
    (parent / "linked").symlink_to(outside, target_is_directory=True)
    (parent / "loop").symlink_to(parent / "loop")
    (parent / "nowhere").symlink_to(parent / "gone")
    (parent / "a file").write_text("")
    found = {glance.name: glance for glance in RunList(parent).look()}
    assert {name for name, glance in found.items() if glance.is_run} == {"a", "settings alone"}
    assert {folder.name for folder in run_folders(parent)} == {"a", "settings alone"}
    assert {name for name, glance in found.items() if glance.has_state} == {"a state alone"}
    assert RunList(tmp_path / "nowhere").look() == []


def test_changes_are_seen_at_the_next_look_and_what_is_unchanged_is_the_same_value(tmp_path):
    runs = RunList(tmp_path)
    folder = make(tmp_path / "a", RUNS["killed"])
    make(tmp_path / "b", RUNS["finished"])

    def look():
        return {glance.name: glance for glance in runs.look()}

    first = look()
    assert look()["a"] is first["a"]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(step(3)) + "\n")
    again = look()
    assert (again["a"].standing.step, again["b"] is first["b"]) == (3, True)
    (folder / "adapter.safetensors").write_bytes(b"")
    assert look()["a"].result == "adapter.safetensors"
    (folder / "adapter.safetensors").unlink()
    assert look()["a"].result is None
    (folder / "metrics.jsonl").unlink()
    assert (look()["a"].standing.step, look()["a"].is_run) == (0, True)
    shutil.rmtree(folder)
    assert look().keys() == {"b"}
    make(tmp_path / "a", RUNS["stopped"])
    assert look()["a"].standing == standing(tmp_path / "a")


def test_a_change_in_the_same_moment_as_a_look_is_not_missed(tmp_path):
    runs, folder = RunList(tmp_path), make(tmp_path / "a", RUNS["killed"])
    now = time.time_ns()
    os.utime(folder, ns=(now, now))
    runs.look()
    (folder / "adapter.safetensors").write_bytes(b"")
    os.utime(folder, ns=(now, now))  # a clock so coarse that nothing shows
    assert runs.look()[0].result == "adapter.safetensors"


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory):
    """Folders of runs; what is in them are links to the files of a few, for making each would take a minute."""
    parent = tmp_path_factory.mktemp("ten thousand")
    models = [
        make(parent.parent / "models of runs" / name.replace(" ", "-"), RUNS[name]) for name in ("finished", "killed", "long")
    ]
    for number in range(10_000):
        folder = parent / f"run-{number}"
        folder.mkdir()
        for name in ("metrics.jsonl", "run.yaml"):
            os.link(models[number % 3] / name, folder / name)
    time.sleep(0.11)  # what was made within a tenth of a second is looked at again
    return parent


class Asked:
    """Counts what this process asks of the file system; Python tells it to hooks, which stay for good, so this one can be quiet."""

    def __init__(self):
        self.counts = None
        sys.addaudithook(self)

    def __call__(self, event, _):
        if self.counts is not None and event in ("open", "os.scandir"):
            self.counts[event] += 1

    def during(self, act):
        self.counts = Counter()
        try:
            return act(), self.counts
        finally:
            self.counts = None


def test_each_of_ten_thousand_runs_is_read_once_and_not_again_while_nothing_changes(ten_thousand):
    """How long that takes is in benchmarks/limits.py."""
    runs, asked = RunList(ten_thousand), Asked()
    found, cold = asked.during(runs.look)
    again, warm = asked.during(runs.look)
    assert len(found) == len(again) == 10_000
    assert {glance.standing.end for glance in found} == {"finished", "stopped"}
    assert cold == {"os.scandir": 10_001, "open": 10_000}
    assert warm == {"os.scandir": 1}


def test_of_ten_thousand_a_row_is_seen_at_once_and_a_file_taken_away_within_eight_looks(ten_thousand):
    runs = RunList(ten_thousand)
    folder = ten_thousand / "run-0"
    (folder / "adapter.safetensors").write_bytes(b"")
    runs.look()
    runs.look()
    (folder / "adapter.safetensors").unlink()
    seen = [next(glance.result for glance in runs.look() if glance.name == "run-0") for _ in range(8)]
    assert seen[-1] is None
    rows = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").unlink()  # a file of its own: the others' is linked
    (folder / "metrics.jsonl").write_bytes(rows + json.dumps({**STARTED, "step": 9, "steps": 77}).encode() + b"\n")
    assert next(glance.standing.steps for glance in runs.look() if glance.name == "run-0") == 77
