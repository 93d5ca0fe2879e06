"""pyproject.toml against the rules of ComfyUI's registry: those of its page and those of its command line.

https://docs.comfy.org/registry/specifications, and the source of comfy-cli 1.23.0 (registry/config_parser.py and api.py,
command/custom_nodes/command.py), which this does not need. What only publishing needs, a registered publisher and the
repository's address, docs/releasing.md tells when to set.
"""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
ACCELERATORS = {"GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "NPU :: Huawei Ascend", "GPU :: Apple Metal"}
VERSION = re.compile(r"\d+\.\d+\.\d+")
VERSION_RANGE = re.compile(r"(?:(==|>=|<=|!=|~=|>|<|<>|=)\s*)?\d+\.\d+\.\d+(?:-[a-zA-Z0-9]+)?")
"""One part of a range; parts stand between commas."""
PICTURES = (".svg", ".png", ".jpg", ".jpeg", ".gif")
UNSAFE = "S102,S307,E702"
"""The rules of ruff that ``comfy node validate`` runs: exec, eval, several statements in a line."""


def complaints(pyproject):
    """What the registry would refuse or leave out, a sentence each."""
    project, comfy = pyproject.get("project", {}), pyproject.get("tool", {}).get("comfy", {})
    name, license_ = project.get("name", ""), project.get("license", {})
    described, systems = project.get("classifiers", []), "Operating System :: "
    checks = {
        "name: letters, digits, single - _ or . between them, a letter first, fewer than 100": len(name) < 100
        and re.fullmatch(r"[A-Za-z](?:[-_.]?[A-Za-z0-9])*", name),
        "name: without ComfyUI in it": "comfyui" not in name.lower(),
        "version: MAJOR.MINOR.PATCH": VERSION.fullmatch(str(project.get("version", ""))),
        "description: one sentence at least": project.get("description", "").strip().endswith("."),
        "license: {file = …} that is there, or {text = …}": isinstance(license_, dict)
        and ((ROOT / license_["file"]).is_file() if "file" in license_ else license_.get("text")),
        "requires-python: a range": re.fullmatch(r">=3\.\d+(,<3\.\d+)?", project.get("requires-python", "")),
        "dependencies: texts": all(isinstance(one, str) for one in project.get("dependencies", [])),
        "classifiers: systems that the registry knows": all(
            one.removeprefix(systems).startswith(SYSTEMS) for one in described if one.startswith(systems)
        ),
        "classifiers: accelerators that the registry knows": all(
            one.removeprefix("Environment :: ") in ACCELERATORS for one in described if one.startswith("Environment ::")
        ),
        "urls.Repository: an address, where it is set": _is_address(
            project.get("urls", {}).get("Repository", "https://x")
        ),
        "PublisherId: without the @": re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", comfy.get("PublisherId", "")),
        "DisplayName: a text": comfy.get("DisplayName", "").strip(),
        "requires-comfyui: a range": all(
            VERSION_RANGE.fullmatch(part.strip()) for part in comfy.get("requires-comfyui", "").split(",")
        ),
        "includes: folders or files that are there": all(
            (ROOT / one.lstrip("/")).exists() for one in comfy.get("includes", [])
        ),
        **{
            f"{what}: the address of a picture, where it is set": _is_address(comfy[what])
            and comfy[what].lower().endswith(PICTURES)
            for what in ("Icon", "Banner")
            if comfy.get(what)
        },
    }
    return [rule for rule, holds in checks.items() if not holds]


def _is_address(text):
    return re.match(r"https?://[^/\s]", text)


def test_the_registry_takes_what_pyproject_says():
    assert complaints(PYPROJECT) == []


@pytest.mark.parametrize(
    ("place", "value", "rule"),
    [
        ("project.name", "1krona", "name"),
        ("project.name", "krona--x", "name"),
        ("project.name", "krona-", "name"),
        ("project.name", "kr ona", "name"),
        ("project.name", "k" * 100, "name"),
        ("project.name", "comfyui-krona", "name"),
        ("project.version", "0.1", "version"),
        ("project.version", "v0.1.0", "version"),
        ("project.version", "", "version"),
        ("project.description", "", "description"),
        ("project.license", "GPL-3.0", "license"),
        ("project.license", {"file": "NOWHERE"}, "license"),
        ("project.license", {}, "license"),
        ("project.requires-python", "", "requires-python"),
        ("project.dependencies", [1], "dependencies"),
        ("project.classifiers", ["Operating System :: BeOS"], "classifiers"),
        ("project.classifiers", ["Environment :: GPU :: NVIDIA"], "classifiers"),
        ("project.urls", {"Repository": "github.com/x"}, "urls.Repository"),
        ("tool.comfy.PublisherId", "", "PublisherId"),
        ("tool.comfy.PublisherId", "@krona", "PublisherId"),
        ("tool.comfy.DisplayName", "", "DisplayName"),
        ("tool.comfy.Icon", "icon.png", "Icon"),
        ("tool.comfy.Banner", "https://x/banner.webp", "Banner"),
        ("tool.comfy.includes", ["nowhere"], "includes"),
        ("tool.comfy.requires-comfyui", ">=0.20", "requires-comfyui"),
        ("tool.comfy.requires-comfyui", ">=0.20.1 <1.0.0", "requires-comfyui"),
    ],
)
def test_what_the_registry_would_refuse_is_found(place, value, rule):
    changed = copy.deepcopy(PYPROJECT)
    *path, last = place.split(".")
    table = changed
    for key in path:
        table = table[key]
    table[last] = value
    assert [each.partition(":")[0] for each in complaints(changed)] == [rule]


def test_a_range_of_several_parts_is_taken():
    changed = copy.deepcopy(PYPROJECT)
    changed["tool"]["comfy"]["requires-comfyui"] = ">=0.20.1, <1.0.0-rc1"
    assert complaints(changed) == []


def unsafe(folder):
    """What the registry's own scan warns of."""
    command = [sys.executable, "-m", "ruff", "check", ".", "-q", "--no-cache", "--select", UNSAFE, "--exit-zero"]
    command += ["--output-format", "concise"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_registrys_scan_finds_nothing_and_can_find(tmp_path):
    assert unsafe(ROOT) == []
    (tmp_path / "bad.py").write_text("exec('1'); eval('2')\n")
    assert sorted(re.findall(r"[A-Z]\d{3}", "\n".join(unsafe(tmp_path)))) == ["E702", "S102", "S307"]
