"""The rows of a run's metrics: what can be read of them is read alike at once, in parts, and while they are written."""

import json
import math
import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import config, examples

from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.run.folder import Run
from krona_train.run.layout import METRICS
from krona_train.run.metrics import is_whole, parsed, read
from krona_train.run.reading import Tail, finite, own_file, rows_of, run_folders, settings_of, standing

STEP = {"event": "step", "step": 3, "loss": 0.5, "learning_rate": 1e-4}
LINES = [
    json.dumps(STEP).encode(), b'{"event": "note", "step": 1, "text": "\xc3\xa4"}', b"\xff\x00", b"", b"{", b"[]", b"[" * 9999, b"3",
    b'{"event": "note", "step": 1, "text": "\\ud800"}', b'{"event": "started", "step": 0, "steps": 4}\r', b'{"event": "unknown", "step": 1}',
    b'{"event": "step", "step": 4, "loss": NaN, "learning_rate": 1.0, "grad_norm": Infinity}',
]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=12), st.data())
def test_rows_that_come_piece_by_piece_are_the_rows_of_the_whole(tmp_path_factory, lines, data):
    path = tmp_path_factory.mktemp("metrics") / METRICS
    path.write_bytes(b"")
    tail, found, text = Tail(path), [], b"".join(line + b"\n" for line in lines)
    while text:
        cut = data.draw(st.integers(1, len(text)))
        with path.open("ab") as file:
            file.write(text[:cut])
        text = text[cut:]
        first = tail.count
        new = tail.read()
        assert (first, tail.count) == (len(found), len(found) + len(new))
        found += new
    assert found == [finite(row) for row in read(path)] == rows_of(path.parent)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_line_of_gigabytes_is_passed_over_and_never_held(tmp_path):
    path = tmp_path / METRICS
    row = json.dumps(STEP).encode() + b"\n"
    with path.open("wb") as file:
        file.write(row)
        file.seek(2**28, os.SEEK_CUR)  # zeros that take no disk
        file.write(b"\n" + row)
        file.seek(2**31)
        file.write(b"\n" + row)
    tail = Tail(path)
    tracemalloc.start()
    try:
        found, new = read(path), tail.read()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == new == [STEP, STEP]  # what is behind the bound is not read
    assert tail.read() == []
    assert most < 2**26


@pytest.mark.parametrize(
    "change",
    [
        {"event": "other"}, {"event": None}, {"event": []}, {"step": "3"}, {"step": True}, {"step": None}, {"step": 3.0},
        {"loss": "1"}, {"loss": None}, {"learning_rate": []},
    ],
)  # fmt: skip
def test_a_row_that_lacks_what_its_kind_has_is_none(change):
    assert is_whole(STEP)
    assert not is_whole({**STEP, **change})
    assert parsed(json.dumps({**STEP, **change}).encode()) is None


PREVIEW = {"event": "preview", "step": 1, "pictures": ["step-000001-1.png"]}


@pytest.mark.parametrize(
    "change",
    [
        {"pictures": [1]}, {"pictures": ["../../../secret.png"]}, {"pictures": ["/secret.png"]}, {"pictures": ["a\\b.png"]},
        {"pictures": [""]}, {"pictures": [[]]}, {"pictures": {}}, {"pictures": ["x" * 300]}, {"pictures": ["\x1b[2J.png"]},
        {"step": -1}, {"step": 10**20}, {"steps": "9"}, {"steps": True}, {"notes": "x"}, {"layers": []},
    ],
)  # fmt: skip
def test_a_row_whose_values_lead_elsewhere_or_are_of_another_type_is_none(change, tmp_path):
    line = json.dumps(PREVIEW | change)
    assert parsed(json.dumps(PREVIEW).encode()) == PREVIEW
    assert parsed(line.encode()) is None
    folder = write(tmp_path / "run", STEP)
    with (folder / METRICS).open("a") as file:
        file.write(f"{line}\n{json.dumps(STEP | {'step': 4})}\n")
    run = Run.recall(folder, config())
    assert run.steps == [3, 4]
    assert run.previews == []


@pytest.mark.parametrize("depth", [5, 900, 1100, 100_000])
def test_a_row_of_rows_is_none(depth, tmp_path):
    (tmp_path / METRICS).write_bytes(
        b'{"event":"note","step":1,"text":"a","x":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}\n"
    )
    assert read(tmp_path / METRICS) == rows_of(tmp_path) == []
    assert standing(tmp_path).step == 0


def test_rows_of_earlier_versions_are_rows():
    for row in (
        {"event": "step", "step": 1, "steps": 5, "loss": 1.0, "grad_norm": 1.0, "learning_rate": 1.0, "seconds": 1.0},
        {"event": "validation", "step": 1, "validation": 1.0, "best": True},
        {"event": "preview", "step": 1, "pictures": []},
        {"event": "note", "step": 1, "text": ""},
    ):
        assert parsed(json.dumps(row).encode()) == row


def test_numbers_that_no_browser_can_read_are_left_open():
    assert finite({"a": [math.nan, 1.0, {"b": -math.inf}], "c": (True, None, "x", 3)}) == {
        "a": [None, 1.0, {"b": None}],
        "c": [True, None, "x", 3],
    }


def write(folder, *rows):
    folder.mkdir(exist_ok=True)
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


START, END = {"event": "started", "step": 0, "steps": 9}, {"event": "ended", "step": 3, "steps": 9}


@pytest.mark.parametrize(
    ("rows", "has_result", "end"),
    [
        ([], False, "stopped"),
        ([], True, "finished"),
        ([STEP], False, "stopped"),
        ([STEP], True, "finished"),
        ([START, STEP], False, "stopped"),
        ([START, STEP], True, "stopped"),
        ([START, STEP, {**END, "error": None, "stopped": False}], True, "finished"),
        ([START, STEP, {**END, "error": None, "stopped": True}], True, "stopped"),
        ([START, STEP, {**END, "error": "the reason", "stopped": False}], False, "failed"),
        ([START, STEP, {**END, "error": "the reason", "stopped": False}, {**START, "step": 3}], False, "stopped"),
    ],
)
def test_how_a_run_ended_is_told_by_its_last_part(tmp_path, rows, has_result, end):
    folder = write(tmp_path / "run", *rows)
    if has_result:
        (folder / "adapter.safetensors").write_bytes(b"")
    found = standing(folder)
    assert found.end == end
    assert (found.step, found.loss) == ((3, 0.5) if STEP in rows else (0, None))
    assert found.steps == (9 if START in rows else 0)


def test_a_run_that_has_gone_on_is_read_again(tmp_path):
    folder = write(tmp_path / "run", START, STEP)
    assert standing(folder).step == 3
    write(folder, START, STEP, {**STEP, "step": 4})
    assert standing(folder).step == 4


def test_a_real_run_is_listed_with_its_settings(tmp_path):
    made = config(steps=3)
    fit(ToyBackbone(), examples(), made, Run(tmp_path / "real", made, {}))
    (tmp_path / "empty").mkdir()
    assert run_folders(tmp_path) == [tmp_path / "real"]
    assert run_folders(tmp_path / "nowhere") == []
    found = standing(tmp_path / "real")
    assert (found.step, found.steps, found.end) == (3, 3, "finished")
    assert settings_of(tmp_path / "real") == {}  # its run.yaml holds no whole job, only the training


def test_links_that_lead_out_of_a_folder_are_not_there(tmp_path):
    outside, folder = write(tmp_path / "outside", START), tmp_path / "runs"
    folder.mkdir()
    (folder / "linked").symlink_to(outside, target_is_directory=True)
    inside = write(folder / "inside", START)
    (inside / "adapter.safetensors").symlink_to(outside / METRICS)
    (inside / "loop").symlink_to(inside / "loop")
    assert run_folders(folder) == [inside]
    for name in ("adapter.safetensors", "loop", "nowhere", "..", f"../inside/{METRICS}", "a\0b"):
        assert own_file(inside, name) is None
    assert own_file(inside, METRICS) == inside / METRICS
