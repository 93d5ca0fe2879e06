"""Virtual environments: making them, and telling whole ones from broken ones."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import re
import shutil
import sys
from pathlib import Path

from tools.install import command


def python_of(venv: Path) -> Path:
    """Where the Python of a virtual environment is, whether or not it exists."""
    return venv / "Scripts" / "python.exe" if sys.platform == "win32" else venv / "bin" / "python"


def site_packages(venv: Path) -> Path:
    """Where the packages of a virtual environment are."""
    if sys.platform == "win32":
        return venv / "Lib" / "site-packages"
    return next(iter(venv.glob("lib/python3*/site-packages")), venv / "lib" / "site-packages")


def works(venv: Path) -> bool:
    """Whether its Python runs and has pip."""
    return command.ask(python_of(venv), "import json, pip; print(json.dumps(pip.__version__))") is not None


def create(python: Path, venv: Path, log: Path) -> None:
    """Make an empty virtual environment with pip, over whatever is left of an earlier one.

    Raises:
        HostError: ``python`` cannot make one.
    """
    doing = f"Creating the Python environment {venv}"
    make: list[str | Path] = [python, "-E", "-m", "venv", "--clear"]
    if _lends_pip(python):
        command.run([*make, "--without-pip", venv], log, doing)
        command.pip(python, ["--python", python_of(venv), "install", "pip"], log, doing)
    else:
        command.run([*make, venv], log, doing)


def _lends_pip(python: Path) -> bool:
    """Whether ``python`` lacks ensurepip (Debian without python3-venv) but has a pip that can serve another Python."""
    if python == Path(sys.executable) and importlib.util.find_spec("ensurepip"):
        return False
    facts = command.ask(
        python,
        "import importlib.util as u, json\n"
        "pip = __import__('pip').__version__ if u.find_spec('pip') else '0'\n"
        "print(json.dumps([u.find_spec('ensurepip') is not None, pip]))",
    )
    if facts is None:
        return False
    has_ensurepip, pip_version = facts
    numbers = [int(n) for n in re.findall(r"\d+", pip_version)[:2]]
    return not has_ensurepip and numbers >= [22, 3]  # pip --python came with 22.3


def installed(site: Path) -> dict[str, str]:
    """Name (normalised) and version of every package in a site-packages folder."""
    distributions = importlib.metadata.distributions(path=[str(site)])
    return {normal(d.metadata["Name"]): d.version for d in distributions if d.metadata["Name"]}


def normal(name: str) -> str:
    """A package's name in the one spelling that can be compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def forget_broken(site: Path) -> list[str]:
    """Make pip install anew what an interrupted run left half-written; returns the folder names that were forgotten.

    pip believes a package's ``.dist-info`` folder. So that folder goes where a file that it records is missing or has
    another size (0.6 s for the 56 000 files of a whole install).
    """
    broken = [info for info in site.glob("*.dist-info") if not _is_whole(info, site)]
    for info in broken:
        shutil.rmtree(info)
    return [info.name for info in broken]


def _is_whole(info: Path, site: Path) -> bool:
    # pip writes RECORD last, so a package without one was never finished.
    try:
        with open(info / "RECORD", newline="", encoding="utf-8") as file:
            return all(_has_size(site / path, int(size)) for path, _, size in csv.reader(file) if size)
    except (OSError, ValueError):
        return False


def _has_size(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size
    except OSError:
        return False
