"""``pip install -r requirements.txt`` changes no package that a ComfyUI has: pip itself decides, against hosts as people have them."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pinned_hosts import HOSTS, find_python, write_host

from tools.install import venv

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements.txt"
REPORT = [
    "install",
    "--dry-run",
    "--report",
    "-",
    "--quiet",
    "--only-binary",
    ":all:",
    "--no-input",
    "--disable-pip-version-check",
]


def would_install(folder, version, packages, requirements):
    """``{name: version}`` of what a plain pip would put in; with no such Python here, of what it finds that fits to the host."""
    python = find_python(version)
    if python is not None:
        command = ["--python", write_host(folder, python, packages), *REPORT]
    else:
        folder.mkdir()
        pins = folder / "pins.txt"
        pins.write_text("".join(f"{name}=={there}\n" for name, there in packages.items()))
        command = [*REPORT, "--target", folder / "none", "--python-version", version, "-c", pins]
    done = subprocess.run([sys.executable, "-m", "pip", *command, *requirements], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {venv.normal(p["metadata"]["name"]): p["metadata"]["version"] for p in json.loads(done.stdout)["install"]}
    there = {venv.normal(name): version for name, version in packages.items()}
    return found if python is not None else {n: v for n, v in found.items() if there.get(n) != v}


def changed(found, packages):
    return {name: version for name, version in found.items() if name in {venv.normal(there) for there in packages}}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Of all hosts, two at a time."""
    folder = tmp_path_factory.mktemp("hosts")
    with ThreadPoolExecutor(2) as pool:
        asked = {
            name: pool.submit(would_install, folder / str(number), version, packages, ["-r", REQUIREMENTS])
            for number, (name, (version, packages)) in enumerate(HOSTS.items())
        }
        return {name: answer.result() for name, answer in asked.items()}


@pytest.mark.parametrize("host", HOSTS)
def test_no_package_of_the_host_is_changed(answers, host):
    assert changed(answers[host], HOSTS[host][1]) == {}
    assert ("matplotlib" in answers[host]) == ("matplotlib" not in HOSTS[host][1])


def test_the_check_sees_a_requirement_that_replaces_something(tmp_path):
    version, packages = HOSTS["0.30 with transformers 4"]
    found = would_install(tmp_path / "host", version, packages, ["--no-deps", "huggingface-hub>=1"])
    assert set(changed(found, packages)) == {"huggingface-hub"}


def test_the_project_asks_for_what_its_requirements_say():
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text("utf-8").splitlines()]
    declared = re.search(r"^dependencies = (\[.*\])$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert json.loads(declared[1]) == [line for line in lines if line]
