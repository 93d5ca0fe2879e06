"""No litter: what a writer that died has left goes when the folder is next used; what is being written stays."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from krona_ops import atomic
from krona_ops.atomic import sweep, write_atomically

WRITER = """
import sys
from pathlib import Path
from krona_ops.atomic import write_atomically

def slowly(file):
    file.write(b"half")
    file.flush()
    print("half", flush=True)
    sys.stdin.readline()

write_atomically(Path(sys.argv[1]), slowly)
"""
AGES = {"just now": 0, "a year ago": 3e7, "in a year, by a clock that was set back": -3e7}


def parts(folder):
    return sorted(folder.glob(".*.part"))


@pytest.mark.skipif(os.name == "nt", reason="Windows goes by age")
def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a file")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    assert sweep(tmp_path) == 0
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(parts(tmp_path)) == 1
    write_atomically(tmp_path / "another", lambda file: file.write(b"whole"))
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


@pytest.mark.skipif(os.name == "nt", reason="Windows goes by age")
@pytest.mark.parametrize("age", AGES)
def test_the_age_of_what_is_left_does_not_matter(age, tmp_path):
    part = tmp_path / ".a file.0123456789abcdef.part"
    part.touch()
    os.utime(part, (time.time() - AGES[age],) * 2)
    assert sweep(tmp_path) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove open files")
@pytest.mark.parametrize("age", AGES)
def test_what_is_being_written_stays_and_gets_its_name_whatever_its_age(age, tmp_path):
    def slowly(file):
        file.write(b"half")
        [part] = parts(tmp_path)
        os.utime(part, (time.time() - AGES[age],) * 2)
        assert sweep(tmp_path) == 0
        write_atomically(tmp_path / "another", lambda file: file.write(b"whole"))
        file.write(b" and half")

    write_atomically(tmp_path / "a file", slowly)
    assert (tmp_path / "a file").read_bytes() == b"half and half"
    assert parts(tmp_path) == []


def test_only_our_own_unfinished_files_are_swept(tmp_path):
    names = [
        "x.part",
        ".x.part",
        "x.0123456789abcdef.part",
        ".x.0123456789abcdeF.part",
        ".x.0123456789abcdef.part2",
        "y.upload",
    ]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".x.0123456789abcdef.part").mkdir()  # somebody's folder
    assert sweep(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, ".x.0123456789abcdef.part"])
    assert sweep(tmp_path / "nowhere") == 0


def test_where_there_are_no_locks_age_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "take", lambda descriptor: None)
    for name, age in {"young": 30, "old": 4000, "future": -4000}.items():
        part = tmp_path / f".{name}.0123456789abcdef.part"
        part.touch()
        os.utime(part, (time.time() - age,) * 2)
    assert sweep(tmp_path) == 2
    assert [part.name for part in parts(tmp_path)] == [".young.0123456789abcdef.part"]
    write_atomically(tmp_path / "file", lambda file: file.write(b"whole"))
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_writer_whose_file_was_swept_before_it_was_locked_takes_another(tmp_path, monkeypatch):
    """The moment between making a file and locking it, in which nothing says that somebody is there."""
    real, swept = atomic.take, []

    def late(descriptor):
        if not swept:
            swept.append(0)  # the sweep below locks too
            swept[0] = sweep(tmp_path)
        return real(descriptor)

    monkeypatch.setattr(atomic, "take", late)
    write_atomically(tmp_path / "file", lambda file: file.write(b"whole"))
    assert swept == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_many_that_write_and_sweep_at_once_leave_whole_files_alone(tmp_path):
    def write(name):
        for _ in range(100):
            write_atomically(tmp_path / name, lambda file: file.write(b"whole"))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, name) for name in "aabc"]:
            done.result()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys("abc", b"whole")
