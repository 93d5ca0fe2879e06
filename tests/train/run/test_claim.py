"""One training holds a run's folder: from before its first byte until it ends, however it ends."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forks import Forked, claim_and_train
from test_loop import config, examples

from krona_ops.errors import AdapterFileError, ConfigError
from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.run import claim as claims
from krona_train.run.claim import LOCK, claim, claim_new, join
from krona_train.run.events import Stepped
from krona_train.run.folder import Run

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from krona_train.run.claim import claim
held = claim(Path(sys.argv[1]))
print(held.token, flush=True)
sys.stdin.readline()
"""


def holder(folder):
    """A process that holds a folder until its input has a line, and its token."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return process, process.stdout.readline().strip()


def test_a_folder_that_is_held_is_refused_by_name_with_its_holder_and_free_again_afterwards(tmp_path):
    folder = tmp_path / "robot"
    with claim(folder):
        with pytest.raises(ConfigError, match=rf"robot: Another training writes into this run \(process {os.getpid()} on "):
            claim(folder)
        assert [path.name for path in folder.iterdir()] == [LOCK]
        (folder / "a file").touch()
    assert [path.name for path in folder.iterdir()] == ["a file"]
    claim(folder).release()
    assert folder.exists()


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    claim(tmp_path / "new").release()
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    claim(tmp_path / "there").release()
    assert (tmp_path / "there").exists()


def test_whoever_was_killed_holds_nothing(tmp_path):
    process, _ = holder(tmp_path)
    with pytest.raises(ConfigError, match=f"process {process.pid} on "):
        claim(tmp_path)
    process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    process.communicate()
    assert (tmp_path / LOCK).exists()
    claim(tmp_path).release()


def test_new_runs_of_one_name_get_folders_of_their_own_the_moment_they_are_claimed(tmp_path):
    held = [claim_new(tmp_path / "robot") for _ in range(3)]
    assert [each.folder.name for each in held] == ["robot", "robot-2", "robot-3"]
    (held[1].folder / "run.yaml").touch()
    for each in held:
        each.release()
    assert claim_new(tmp_path / "robot").folder.name == "robot"  # given back, empty
    (tmp_path / "robot").mkdir()
    (tmp_path / "robot" / LOCK).touch()  # of one that was killed before its first byte
    assert claim_new(tmp_path / "robot").folder.name == "robot"
    (tmp_path / "robot" / "run.yaml").touch()
    assert claim_new(tmp_path / "robot").folder.name == "robot-3"


def test_what_a_killed_run_left_unfinished_goes_when_the_next_gets_a_folder_of_its_own(tmp_path):
    parts = [tmp_path / "robot" / name / ".x.png.0123456789abcdef.part" for name in (".", "previews")]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(b"half")
    (tmp_path / "robot" / "run.yaml").write_text("steps: 1")
    assert claim_new(tmp_path / "robot").folder.name == "robot-2"
    assert [part for part in parts if part.exists()] == []


def test_many_that_claim_at_once_get_different_folders(tmp_path):
    barrier = threading.Barrier(8)

    def some():
        barrier.wait()
        held = [claim_new(tmp_path / "robot") for _ in range(5)]
        for each in held:
            (each.folder / "a file").touch()
        return held

    with ThreadPoolExecutor(8) as pool:
        held = [each for future in [pool.submit(some) for _ in range(8)] for each in future.result()]
    assert len({each.folder for each in held}) == 40
    assert len(list(tmp_path.iterdir())) == 40


def test_a_process_that_trains_for_another_keeps_the_folder_when_that_one_dies(tmp_path):
    server, token = holder(tmp_path)
    child = join(tmp_path, token)
    server.kill()
    server.communicate()
    with pytest.raises(ConfigError, match=f"process {os.getpid()} on "):
        claim(tmp_path)
    assert not (tmp_path / LOCK).exists()  # let go of by whoever was refused
    child.release()
    with claim(tmp_path), pytest.raises(ConfigError, match="Another training writes into this run"):
        join(tmp_path, token)  # a process that comes too late
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_a_warning_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(claims, "take", lambda descriptor: None)
    claim(tmp_path / "robot").release()
    assert "keeps no locks" in caplog.text


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AdapterFileError, match="The run's folder cannot be written"):
        claim(tmp_path / "file" / "run")


def train(folder, sink=lambda event: None, resume=None, steps=6):
    settings = config(steps=steps, save_every=2)
    run = Run(folder, settings, {})

    def both(event):
        run(event)
        sink(event)

    return fit(ToyBackbone(), examples(), settings, both, resume)


def test_while_a_run_trains_another_of_its_folder_is_refused_and_it_goes_on_undisturbed(tmp_path):
    refused = []

    def again(event):
        if isinstance(event, Stepped) and event.step == 3:
            with pytest.raises(ConfigError, match="run: Another training writes into this run") as error:
                train(tmp_path / "run")
            refused.append(error)

    expected = train(tmp_path / "alone")
    assert train(tmp_path / "run", again) == expected
    assert len(refused) == 1
    assert not (tmp_path / "run" / LOCK).exists()
    with pytest.raises(ConfigError, match="run: The folder holds another run already"):
        train(tmp_path / "run")  # not while it trains, but it is no place for a new one either
    assert (tmp_path / "run" / "adapter.safetensors").exists()


def test_of_two_new_trainings_of_one_folder_at_the_same_moment_one_trains(tmp_path):
    both = [Forked(claim_and_train, tmp_path / "run") for _ in range(2)]
    assert [process.hear() for process in both] == ["ready"] * 2
    for process in both:
        process.say("begin")
    words = sorted((process.hear() for process in both), key=lambda said: said != "trained")
    assert [process.wait() for process in both] == [0, 0]
    assert words[0] == "trained"
    assert words[1].startswith(("run: Another training writes into this run", "run: The folder holds another run already"))
