"""What the markers are given to, so that `make check` runs what it can and `make test` loses nothing."""

import ast
from pathlib import Path

import pytest
from conftest import LONG, marks_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("place", "fixtures", "marks"),
    [
        ("tests/ops/test_kron.py", (), []),
        ("tests/ops/formats/test_writing.py", ("comfy",), ["host"]),
        ("tests/host/test_patch.py", (), ["host"]),
        ("tests/web/test_page.py", ("chromium",), ["host", "browser"]),
        ("tests/train/test_loop.py", ("tmp_path",), []),
        ("tests/train/test_processes.py", ("two",), ["long"]),
        ("tests/train/test_loop.py", ("two",), []),
    ],
)
def test_markers_follow_from_the_place_and_the_fixtures(place, fixtures, marks):
    assert list(marks_of(place, "test_of_nothing", fixtures)) == marks


@pytest.mark.parametrize("line", sorted(LONG))
def test_what_is_listed_as_long_exists(line):
    place, name = line.split("::")
    tree = ast.parse((ROOT / place).read_text("utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
