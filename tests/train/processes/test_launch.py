"""A training in a process of its own: its events arrive in order, it is asked before it is ended, and nothing of it stays."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from krona_ops.errors import TrainingError
from krona_train.processes.launch import LOG, command, follow
from krona_train.run.events import Ended, Noted, Stepped
from krona_train.run.requests import Ask, ask, asked

GUARD = 60.0
"""Seconds that a stopped child has; only a failing test waits for them."""
HEAD = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def tell(kind, **fields):
    print(json.dumps({"krona.event": kind, **fields}), flush=True)
def note(step, text="note"):
    tell("note", step=step, text=text)
def until_asked():
    while not (folder / "stop").exists():
        time.sleep(0.01)
"""


class Interrupted(Exception):
    pass


@pytest.fixture
def run(tmp_path):
    """Follow a program as if it were a training; hands out the list that its events go to."""
    folder, events, threads = tmp_path / "run", [], set(threading.enumerate())

    def _run(program, poll=lambda: None, sink=events.append, **options):
        program = f'{HEAD}\nPath(sys.argv[1], "pid").write_text(str(os.getpid()))\n{program}'
        follow([sys.executable, "-c", program, str(folder)], folder, sink, poll, **options)

    _run.folder, _run.events = folder, events
    yield _run
    assert set(threading.enumerate()) <= threads
    assert asked(folder) is Ask.NOTHING
    for file in folder.glob("pid*"):
        with pytest.raises(ProcessLookupError):  # neither running nor a zombie
            os.kill(int(file.read_text()), 0)


def log(run):
    return (run.folder / LOG).read_text()


def when(claim):
    """A poll that interrupts as soon as something holds."""

    def poll():
        if claim():
            raise Interrupted

    return poll


def test_events_arrive_in_order_and_everything_else_is_in_the_log(run):
    run("""
print("loading", flush=True)
for step in range(300):
    note(step)
    if step % 100 == 0: print(f"at {step}", flush=True); print("warned", file=sys.stderr, flush=True)
sys.stdout.buffer.write(b"caf\\xe9 without an end of line")
""")
    assert run.events == [Noted(step, "note") for step in range(300)]
    lines = log(run).splitlines()
    assert [line for line in lines if line != "warned"] == [
        "loading",
        "at 0",
        "at 100",
        "at 200",
        "caf\ufffd without an end of line",
    ]
    assert lines.count("warned") == 3


def test_the_log_of_a_run_that_goes_on_is_kept(run):
    run("print('first')")
    run("print('second')")
    assert log(run).split() == ["first", "second"]


def test_the_child_finds_the_pack_and_reads_nothing_from_the_keyboard(run):
    run("""
import importlib.util
print(importlib.util.find_spec("krona_train") is not None, repr(sys.stdin.read()))
""")
    assert log(run) == "True ''\n"


@pytest.mark.parametrize("where", ["poll", "sink"])
def test_an_interrupt_asks_the_child_which_writes_its_own_last_words(where, run):
    def interrupt(event):
        run.events.append(event)
        if where == "sink":
            raise Interrupted

    with pytest.raises(Interrupted):
        run(
            """
note(1)
until_asked()
note(2)
(folder / "saved").write_text("all of it")
tell("ended", step=1, steps=9, error=None, stopped=True)
print("goodbye")
sys.exit(130)
""",
            when(lambda: where == "poll" and run.events),
            interrupt,
            seconds_to_stop=GUARD,
        )
    assert run.events == [Noted(1, "note")]  # who interrupts is told nothing more
    assert (run.folder / "saved").read_text() == "all of it"
    assert log(run) == "goodbye\n"


def test_a_wish_to_stop_that_an_earlier_run_has_left_is_not_obeyed(run):
    run.folder.mkdir()
    ask(run.folder, Ask.STOP)
    run("note(int((folder / 'stop').exists()))")
    assert run.events == [Noted(0, "note")]


def test_an_interrupt_before_the_first_word_stops_the_child_too(run):
    with pytest.raises(Interrupted):
        run("until_asked()", when(lambda: True), seconds_to_stop=GUARD)


DEAF = {
    "asks for more time": "while True: time.sleep(60)",
    "does not even let itself be ended": "signal.signal(signal.SIGTERM, signal.SIG_IGN); note(2)\nwhile True: time.sleep(60)",
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
@pytest.mark.parametrize("how", DEAF)
def test_a_child_that_does_not_answer_is_ended_after_the_limit(how, run):
    ready = 2 if "ended" in how else 1
    with pytest.raises(Interrupted):
        run(f"note(1)\n{DEAF[how]}", when(lambda: len(run.events) == ready), seconds_to_stop=0.2)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups")
@pytest.mark.parametrize("end", ["note(2)", "until_asked()", "while True: time.sleep(60)"])
def test_what_the_child_has_started_ends_with_it(end, run):
    """As the processes of a launcher that dies, which hold its output open."""
    program = f"""
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
(folder / "pid-of-the-child").write_text(str(child.pid))
note(1)
{end}
"""
    interrupted = end != "note(2)"
    if interrupted:
        with pytest.raises(Interrupted):
            run(program, when(lambda: run.events), seconds_to_stop=GUARD if "until" in end else 0.2)
    else:
        run(program)
        assert len(run.events) == 2
    pid = int((run.folder / "pid-of-the-child").read_text())
    for _ in range(6000):  # whoever adopts it may take a moment to bury it
        if not is_running(pid):
            break
        threading.Event().wait(0.01)
    assert not is_running(pid)
    (run.folder / "pid-of-the-child").unlink()


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_an_error_that_the_child_tells_of_is_raised_in_its_own_words(run):
    with pytest.raises(TrainingError, match=r"^The loss became nan\. Lower the learning rate\.$"):
        run("""
tell("ended", step=0, steps=9, error="The loss became nan. Lower the learning rate.", stopped=False)
raise RuntimeError("what Python prints is of no interest then")
""")
    assert [type(event) for event in run.events] == [Ended]


def test_an_error_says_where_what_was_trained_is_if_something_was(run):
    with pytest.raises(TrainingError, match=r"^The loss became nan\. What was trained is in .*run; choose it in 'resume'"):
        run("""
(folder / "state-00000003.safetensors").touch()
tell("ended", step=3, steps=9, error="The loss became nan.", stopped=False)
sys.exit(2)
""")


def test_a_child_that_dies_is_an_error_with_the_end_of_its_log(run):
    with pytest.raises(TrainingError, match=r"ended with code 1: .*Traceback.* \| ValueError: nobody expected this"):
        run("note(1)\nprint('x\\n' * 50)\nraise ValueError('nobody expected this')")
    assert run.events == [Noted(1, "note")]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
def test_a_child_that_is_killed_in_the_middle_of_a_line_is_an_error_that_says_so(run):
    with pytest.raises(TrainingError, match=rf"ended with code -{int(signal.SIGKILL)}: .*krona\.event") as caught:
        run("""
sys.stdout.write('{"krona.event": "note", "st')
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
""")
    assert "What was trained" not in str(caught.value)  # nothing was
    assert run.events == []


def test_a_child_that_says_nothing_and_fails_is_an_error_that_says_so(run):
    with pytest.raises(TrainingError, match=r"ended with code 3: it said nothing\. All that it said is in .*log\.txt"):
        run("sys.exit(3)")


def test_a_program_that_is_not_there_raises_and_leaves_nothing(tmp_path):
    before = set(threading.enumerate())
    with pytest.raises(FileNotFoundError):
        follow([str(tmp_path / "nowhere")], tmp_path, print)
    assert set(threading.enumerate()) == before


def test_more_than_a_pipe_holds_is_read_while_the_child_is_being_stopped(run):
    with pytest.raises(Interrupted):
        run(
            "note(1)\nuntil_asked()\nprint('x' * 1_000_000)\n(folder / 'saved').touch()",
            when(lambda: run.events),
            seconds_to_stop=GUARD,
        )
    assert (run.folder / "saved").exists()
    assert len(log(run)) == 1_000_001


def test_one_process_is_plain_python_and_several_go_through_accelerate(tmp_path):
    one = command(tmp_path / "run.yaml", tmp_path)
    assert one == [sys.executable, "-m", "krona_train", str(tmp_path / "run.yaml"), "--folder", str(tmp_path), "--events"]
    two = command(tmp_path / "run.yaml", tmp_path, processes=2, resume=True, encoded=tmp_path / "e", host_arguments=["--cpu"])
    assert two[two.index("krona_train") :] == [*one[2:], "--resume", "--encoded", str(tmp_path / "e"), "--", "--cpu"]
    assert two[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert two[two.index("--num_processes") + 1] == "2"
    assert two[two.index("--main_process_port") + 1] == "0"  # two trainings on one machine do not meet
    assert two[two.index("krona_train") - 1] == "-m"


def test_what_is_started_understands_the_command(tmp_path):
    """The options that the launcher is given exist, and the trainer's own reach it in every process."""
    program = tmp_path / "krona_train.py"
    program.write_text(
        "import os, sys\nwith open(sys.argv[1] + os.environ.get('LOCAL_RANK', ''), 'w') as f: f.write('\\n'.join(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    for processes, found in ((1, {""}), (2, {"0", "1"})):
        arguments = command(tmp_path / f"run{processes}-", tmp_path, processes=processes, host_arguments=["--cpu", "--x y"])
        subprocess.run(arguments, check=True, cwd=tmp_path, env=environment, timeout=120, capture_output=True)
        told = {file.name.split("-")[1]: file.read_text() for file in tmp_path.glob(f"run{processes}-*")}
        assert told.keys() == found
        expected = [str(tmp_path / f"run{processes}-"), "--folder", str(tmp_path), "--events", "--", "--cpu", "--x y"]
        assert set(told.values()) == {"\n".join(expected)}


def test_steps_of_a_training_reach_the_sink_as_they_were(run):
    run('tell("step", step=1, steps=2, loss=0.1, grad_norm=float("inf"), learning_rate=1e-4, seconds=1.0, memory=7)')
    assert run.events == [Stepped(1, 2, 0.1, float("inf"), 1e-4, 1, 7)]
