"""What the markers are given to, so that `make check` runs what it can and `make test` loses nothing."""

import ast
from pathlib import Path

import pytest
from conftest import LONG, marks_of, scope_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("place", "fixtures", "marks"),
    [
        ("tests/ops/test_kron.py", (), []),
        ("tests/ops/formats/test_writing.py", ("comfy",), ["host"]),
        ("tests/host/test_patch.py", (), ["host"]),
        ("tests/web/test_page.py", ("chromium",), ["host", "browser"]),
        ("tests/train/test_loop.py", ("tmp_path",), []),
        ("tests/train/processes/test_processes.py", ("two",), ["long"]),
        ("tests/train/test_loop.py", ("two",), []),
    ],
)
def test_markers_follow_from_the_place_and_the_fixtures(place, fixtures, marks):
    assert list(marks_of(place, "test_of_nothing", fixtures)) == marks


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("tests/train/test_loop.py::test_a[canvas]", "tests/train/test_loop.py"),
        ("tests/web/test_drop.py::test_a[canvas]", "tests/web/test_drop.py@canvas"),
        ("tests/web/test_drop.py::test_a[settings0-vue]", "tests/web/test_drop.py@vue"),
        ("tests/web/test_examples.py::test_a[KronA 1 - train-canvas]", "tests/web/test_examples.py@canvas"),
        ("tests/web/test_help.py::test_a[KronaTrain]", "tests/web/test_help.py"),
        ("tests/web/test_modules.py::test_a", "tests/web/test_modules.py"),
        ("tests/web/test_newest_editor.py::test_a[vue]", "tests/web/test_newest_editor.py"),
    ],
)
def test_a_worker_takes_a_file_or_a_files_tests_in_one_way_of_drawing(nodeid, scope):
    assert scope_of(nodeid) == scope


@pytest.mark.parametrize("line", sorted(LONG))
def test_what_is_listed_as_long_exists(line):
    place, name = line.split("::")
    tree = ast.parse((ROOT / place).read_text("utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
