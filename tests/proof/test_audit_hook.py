"""The audit hook sees what it is there to see, wherever it is hidden, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOOK = Path(__file__).resolve().parents[2] / "proof" / "audit" / "hook"
MARK = "the_mark"
HARMLESS = """
import dataclasses, json, typing
@dataclasses.dataclass
class Value:
    number: int = 1
def act():
    json.loads("{}")
    typing.get_type_hints(Value)
    import decimal
"""


def told(tmp_path, pack, outside="from krona_ops import thing; thing.act()"):
    """What is written down while a module of a pack acts."""
    (tmp_path / "krona_ops").mkdir()
    (tmp_path / "krona_ops" / "thing.py").write_text("from __future__ import annotations\n" + pack)
    log = tmp_path / "log"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HOOK}{os.pathsep}{tmp_path}",
        "KRONA_AUDIT_PACK": str(tmp_path),
        "KRONA_AUDIT_MARK": MARK,
    }
    subprocess.run([sys.executable, "-c", outside], cwd=tmp_path, env={**environment, "KRONA_AUDIT_LOG": str(log)}, check=True)
    return [(line["event"], line["by"].partition(":")[0]) for line in map(json.loads, log.read_text().splitlines())]


def acting(*lines):
    return "def act():\n" + "".join(f"    {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("lines", "event"),
    [
        (("import pickle", "pickle.loads(b'\\x80\\x04cbuiltins\\nlen\\n.')"), "pickle.find_class"),
        (("exec('1 + 1')",), "exec"),
        (("eval('1 + 1')",), "compile"),
        (("import collections", "collections.namedtuple('Pair', 'a b')"), "exec"),
        (("import subprocess", "subprocess.run(['true'])"), "subprocess.Popen"),
        (("import os", "os.system('true')"), "os.system"),
    ],
)
def test_what_the_pack_must_not_do_is_written_down_with_its_place(tmp_path, lines, event):
    assert (event, "krona_ops/thing.py") in told(tmp_path, acting(*lines))


def test_another_machine_is_written_down_whoever_speaks_to_it(tmp_path):
    speak = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.connect(('203.0.113.7', 9))"
    try:
        assert told(tmp_path, "", speak) == [("socket.connect", "")]
    except subprocess.CalledProcessError:
        assert (tmp_path / "log").read_text().count("203.0.113.7") == 1  # a machine without a network


def test_the_code_of_a_stranger_is_written_down_wherever_it_runs(tmp_path):
    assert ("exec", "") in told(tmp_path, "", f"exec(\"print('{MARK}')\")")


def test_imports_classes_annotations_and_what_others_make_are_not(tmp_path):
    assert (
        told(
            tmp_path,
            HARMLESS,
            "from krona_ops import thing; thing.act(); exec('1 + 1'); import subprocess; subprocess.run(['true'])",
        )
        == []
    )
