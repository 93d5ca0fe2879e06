"""proof/flakes.py sees a test that fails now and then, goes on where it was stopped, and ends what it has started."""

from contextlib import nullcontext

import pytest

from proof import flakes

SOMETIMES = """
from pathlib import Path
seen = Path(__file__).with_name("seen")

def test_sometimes():
    times = len(seen.read_text()) if seen.exists() else 0
    seen.write_text("x" * (times + 1))
    assert times != 1

def test_always():
    pass
"""


@pytest.fixture
def racing(tmp_path, monkeypatch):
    (tmp_path / "test_racing.py").write_text(SOMETIMES)
    monkeypatch.setattr(flakes, "WORK", tmp_path / "flakes.jsonl")
    monkeypatch.setattr(flakes, "TALLY", tmp_path / "tally.json")
    monkeypatch.setattr(flakes, "PACK", tmp_path)
    monkeypatch.setattr(flakes, "busy", lambda cores: nullcontext())  # other tests run beside this one
    return tmp_path


def test_what_fails_once_is_named_and_a_second_run_goes_on(racing, capsys):
    assert flakes.main(["--rounds", "2", "--only", "test_racing.py"]) == 1
    said = capsys.readouterr().out
    assert "round 1 of 2, test_racing.py: 2 tests" in said
    assert "4 tests in 2 rounds" in said
    assert "1 × test_racing::test_sometimes" in said
    assert flakes.main(["--rounds", "3", "--only", "test_racing.py"]) == 1
    assert capsys.readouterr().out.count("round ") == 1  # the third alone
    assert (racing / "seen").read_text() == "xxx"


def test_rounds_that_were_kept_count(racing, capsys):
    assert flakes.main(["--rounds", "2", "--only", "test_racing.py"]) == 1
    assert flakes.main(["--keep"]) == 0
    assert not flakes.WORK.exists()
    entry = flakes.tally()["test_racing.py"]
    assert (entry["rounds"], entry["tests"], entry["failed"]) == (2, 4, {"test_racing::test_sometimes": 1})
    capsys.readouterr()
    assert flakes.main(["--rounds", "3", "--only", "test_racing.py"]) == 1
    said = capsys.readouterr().out
    assert said.count("round 3 of 3") == 1
    assert "6 tests in 3 rounds" in said
    assert flakes.main(["--keep"]) == 0
    assert flakes.tally()["test_racing.py"]["rounds"] == 3


def test_files_of_a_folder_run_side_by_side_each_once_a_round(racing, capsys):
    for name in ("test_one.py", "test_two.py"):
        (racing / "some" / name).parent.mkdir(exist_ok=True)
        (racing / "some" / name).write_text("def test_it(): pass")
    assert flakes.main(["--rounds", "2", "--only", "some", "--lanes", "3"]) == 0
    said = capsys.readouterr().out
    assert sorted(line.split(":")[0] for line in said.splitlines() if line.startswith("round")) == [
        f"round {number} of 2, some/test_{name}.py" for number in (1, 2) for name in ("one", "two")
    ]


def test_a_file_that_cannot_be_run_has_failed(racing):
    assert flakes.once("nothing.py")["failed"] == ["nothing.py: pytest ended with code 4"]


def test_nobody_computes_on_when_the_block_ends():
    import psutil

    with flakes.busy(2):
        spinning = [child for child in psutil.Process().children() if "while True: pass" in " ".join(child.cmdline())]
        assert len(spinning) == 2
    assert not any(child.is_running() for child in spinning)
