"""Each command of `make bench` in a process of its own, as small as it can be: it starts, checks what it compares,
takes one turn and leaves the results that claims and pages are made of, in a folder of their own."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.claims import BENCHMARKS, judge
from benchmarks.command import RESULTS, parsed, parser_of
from benchmarks.memory import ROWS

ROOT = Path(__file__).resolve().parents[2]
RUN = "\t$(HOST) run "


def commands(makefile, target):
    """What a target runs, each with its arguments."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    lines = recipe.splitlines()
    assert [line for line in lines if not line.startswith(f"{RUN}benchmarks/")] == [], (
        "commands that are not understood"
    )
    return [line.removeprefix(RUN) for line in lines]


BENCH = commands((ROOT / "Makefile").read_text("utf-8"), "bench")
PAGES = [command for command in BENCH if command.startswith("benchmarks/pages/")]
MEASURING = [command for command in BENCH if command not in PAGES]


def arguments(command, folder):
    """What a command is called with to be rehearsed."""
    return [*command.split(), "--rehearse", "--results", str(folder)]


def rehearsed(command, folder):
    """The process of a command, when it has ended."""
    argv = [sys.executable, *arguments(command, folder)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


def rehearsed_together(commands, folders):
    """The processes of several commands, when they have ended: two at a time, forked from one that has imported torch."""
    outputs = [[str(folder.with_suffix(end)) for end in (".out", ".err")] for folder in folders]
    jobs = [[arguments(*pair), *files] for pair, files in zip(zip(commands, folders, strict=True), outputs, strict=True)]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "forked_scripts.py"],
        cwd=ROOT, input=json.dumps(jobs), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [
        subprocess.CompletedProcess(argv, status, Path(out).read_text("utf-8"), Path(err).read_text("utf-8"))
        for (argv, out, err), status in zip(jobs, json.loads(done.stdout), strict=True)
    ]


def dates():
    """Of all that a benchmark writes when it is no rehearsal."""
    written = (ROOT / "README.md", *(ROOT / "docs").rglob("*"), *RESULTS.glob("*"))
    return {path: path.stat().st_mtime_ns for path in written}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Command to its process and its folder: all that measure, and then the pages, of what those have left.

    One is started as a user starts it, and the pages are; the others are forked (forked_scripts.py says what that hides).
    """
    before, together = dates(), tmp_path_factory.mktemp("together")
    folders = [tmp_path_factory.mktemp("results") for _ in MEASURING]
    processes = [rehearsed(MEASURING[0], folders[0]), *rehearsed_together(MEASURING[1:], folders[1:])]
    for folder in folders:
        shutil.copytree(folder, together, dirs_exist_ok=True)
    folders += [together] * len(PAGES)
    processes += [rehearsed(command, together) for command in PAGES]
    assert dates() == before, "a rehearsal has written among what is measured"
    return dict(zip([*MEASURING, *PAGES], zip(processes, folders, strict=True), strict=True))


def timed(value):
    """All rows of times in some results, each with its name."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from [(name, inner)] if "median" in inner else timed(inner)


@pytest.mark.parametrize("command", MEASURING)
def test_a_benchmark_comes_to_its_end_and_leaves_its_rows(ends, command):
    done, folder = ends[command]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [file] = folder.glob("*.json")
    left = json.loads(file.read_text("utf-8"))
    script = Path(command.split()[0]).stem
    assert left["rehearsal"] is True
    assert left["benchmark"].partition("-")[0] == script
    if script == "memory":
        assert left["results"].keys() == set(ROWS)
        assert all(row["tensors"] > 0 and row["seconds"] > 0 for row in left["results"].values())
    else:
        rows = list(timed(left["results"]))
        assert rows
        # Of step.py it is a difference of two times, which one turn on a busy machine may well make negative.
        assert [name for name, row in rows if row["runs"] != 1 or not math.isfinite(row["median"])] == []
    assert bool(judge(left["benchmark"], left["results"])) is (script in BENCHMARKS)


@pytest.mark.parametrize("command", PAGES)
def test_a_page_is_made_of_what_the_benchmarks_leave(ends, command):
    done, folder = ends[command]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [machine] = {json.loads(file.read_text("utf-8"))["machine"] for file in folder.glob("*.json")}
    pages = [Path(line.removeprefix("wrote ")) for line in done.stdout.splitlines() if line.startswith("wrote ")]
    assert {page.parent for page in pages} == {folder}
    assert any(f"`{machine}`" in page.read_text("utf-8") for page in pages)


def test_no_two_commands_leave_the_same_file(ends):
    names = [file.name for command in MEASURING for file in ends[command][1].glob("*.json")]
    assert sorted(set(names)) == sorted(names)


def test_every_claim_is_measured_by_a_command():
    assert {Path(command.split()[0]).stem for command in MEASURING} >= set(BENCHMARKS)


def test_a_new_command_is_seen_and_one_that_is_not_understood_is_refused():
    makefile = "a: b\n\techo\n\nbench: setup ## all\n\t$(HOST) run benchmarks/a.py\n\t$(HOST) run benchmarks/b.py --x 1\n\nc:\n\techo\n"
    assert commands(makefile, "bench") == ["benchmarks/a.py", "benchmarks/b.py --x 1"]
    with pytest.raises(AssertionError, match="not understood"):
        commands(makefile, "c")


@pytest.mark.parametrize(
    "folder", [[], ["--results", "benchmarks/results"], ["--results", str(RESULTS / ".." / "results")]]
)
def test_a_rehearsal_may_not_lie_among_the_results(monkeypatch, capsys, folder):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["layer.py", "--rehearse", *folder])
    with pytest.raises(SystemExit):
        parsed(parser_of("x"))
    assert "give it --results FOLDER of its own" in capsys.readouterr().err
