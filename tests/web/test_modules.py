"""The browser's modules that need no browser, under node."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "js"
WEB = Path(__file__).resolve().parents[2] / "web"


def test_the_modules_pass_their_own_tests():
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    files = sorted(str(path) for path in HERE.glob("*.test.mjs"))
    done = subprocess.run([node, "--test", "--test-reporter=tap", *files], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nodes_are_made_in_one_place():
    makers = {path.relative_to(WEB).as_posix() for path in WEB.rglob("*.mjs") if "createNode(" in path.read_text("utf-8")}
    assert makers == {"graph.mjs"}
