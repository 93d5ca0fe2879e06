"""The environment on top of a host: sees what the host has, adds what it lacks, replaces nothing. Real pip, local wheels."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.install import venv
from tools.install.diagnose import diagnose
from tools.install.errors import HostError
from tools.install.overlay import Overlay, pin_lines

BARE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable


def write_wheel(folder: Path, name: str, version: str, requires: str = "") -> Path:
    """The smallest wheel: one module that knows its version."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {requires}\n" if requires else ""
    )
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,{len(text)}\n" for file, text in files.items()) + f"{info}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return wheel


@pytest.fixture
def offline_index(tmp_path, monkeypatch):
    """Wheels that pip can choose from: two versions of what the host has, and one that needs it."""
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "alpha", "1.0")
    write_wheel(wheels, "alpha", "2.0")
    write_wheel(wheels, "beta", "0.5", requires="alpha>=1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


@pytest.fixture
def host_python(tmp_path, offline_index):
    """A host whose environment holds alpha 1.0."""
    folder = tmp_path / "a host"
    subprocess.run([BARE_PYTHON, "-m", "venv", "--without-pip", folder], check=True)
    with zipfile.ZipFile(offline_index / "alpha-1.0-py3-none-any.whl") as wheel:
        wheel.extractall(venv.site_packages(folder))
    return venv.python_of(folder)


def requirements(tmp_path: Path, text: str) -> tuple[Path, ...]:
    file = tmp_path / "requirements.txt"
    file.write_text(text)
    return (file,)


def test_it_adds_what_is_missing_and_takes_the_rest_from_the_host(tmp_path, host_python):
    overlay = Overlay.over(tmp_path / "cache", host_python, requirements(tmp_path, "beta\n"))
    assert not overlay.is_ready()
    overlay.install(witnesses=("alpha",))
    assert overlay.is_ready()
    here = venv.installed(venv.site_packages(overlay.folder))
    assert here.keys() - {"pip", "setuptools", "wheel"} == {"beta"}
    code = "import alpha, beta, json; print(json.dumps([alpha.version, alpha.__file__, beta.version]))"
    version, file, beta = json.loads(subprocess.run([overlay.python, "-c", code], capture_output=True, check=True).stdout)
    assert (version, beta) == ("1.0", "0.5")
    assert Path(file).is_relative_to(tmp_path / "a host")
    assert venv.installed(venv.site_packages(tmp_path / "a host")) == {"alpha": "1.0"}


def test_a_requirement_that_would_replace_a_package_of_the_host_is_refused(tmp_path, host_python):
    overlay = Overlay.over(tmp_path / "cache", host_python, requirements(tmp_path, "beta\nalpha>=2\n"))
    with pytest.raises(HostError, match="asks for other versions than those that ComfyUI has"):
        overlay.install(witnesses=("alpha",))
    assert not overlay.is_ready()


def test_another_host_or_other_requirements_make_another_environment(tmp_path, host_python):
    def folder(text: str) -> Path:
        return Overlay.over(tmp_path, host_python, requirements(tmp_path, text)).folder

    before = folder("beta\n")
    assert folder("beta\n") == before
    assert folder("beta==0.5\n") != before
    site = venv.site_packages(tmp_path / "a host")
    (site / "alpha-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: alpha\nVersion: 1.1\n")
    assert folder("beta\n") != before


def test_requirements_that_are_edited_meanwhile_change_nothing(tmp_path, host_python):
    files = requirements(tmp_path, "beta\n")
    overlay = Overlay.over(tmp_path / "cache", host_python, files)
    files[0].write_text("nowhere-to-be-found\n")
    overlay.install(witnesses=("alpha",))
    assert overlay.is_ready()
    assert not Overlay.over(tmp_path / "cache", host_python, files).is_ready()


def test_a_package_of_the_host_that_cannot_be_imported_is_told_with_its_own_error(tmp_path, host_python):
    overlay = Overlay.over(tmp_path / "cache", host_python, requirements(tmp_path, ""))
    with pytest.raises(HostError, match=r"(?s)Importing gamma on top of ComfyUI.*No module named 'gamma'"):
        overlay.install(witnesses=("alpha", "gamma"))
    assert not overlay.is_ready()


def test_a_host_whose_python_does_not_run_has_none(tmp_path):
    assert Overlay.over(tmp_path, tmp_path / "no" / "python", requirements(tmp_path, "")) is None


def test_pins_leave_out_pip_itself_and_what_pip_could_not_read():
    packages = {
        "torch": "2.11.0+cu130",
        "pip": "24.0",
        "Setup_Tools": "1",
        "setuptools": "70",
        "odd": "not a version",
        "a b": "1",
    }
    assert pin_lines(packages) == ["Setup_Tools==1", "torch==2.11.0+cu130"]


@pytest.mark.parametrize("damage", ["missing file", "short file", "no record"])
def test_a_half_written_package_is_forgotten_so_that_pip_installs_it_anew(tmp_path, offline_index, damage):
    site = tmp_path / "site-packages"
    for name in ("alpha-1.0", "beta-0.5"):
        with zipfile.ZipFile(offline_index / f"{name}-py3-none-any.whl") as wheel:
            wheel.extractall(site)
    assert venv.forget_broken(site) == []
    if damage == "missing file":
        (site / "alpha.py").unlink()
    elif damage == "short file":
        (site / "alpha.py").write_text("")
    else:
        (site / "alpha-1.0.dist-info" / "RECORD").unlink()
    assert venv.forget_broken(site) == ["alpha-1.0.dist-info"]
    assert venv.installed(site) == {"beta": "0.5"}


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full."),
        (
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(...)'\n"
            "ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from versions: none)",
            "could not reach the package index.",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from versions: 2.12.0)\n"
            "ERROR: No matching distribution found for torch==2.11.0",
            "could not reach the package index, or it has no file that fits",
        ),
        (
            "The virtual environment was not created successfully because ensurepip is not\n"
            "available.  On Debian/Ubuntu systems, you need to install the python3-venv\npackage",
            "this Python cannot make virtual environments.",
        ),
        ("/usr/bin/python3: No module named venv", "this Python cannot make virtual environments."),
        ("error: externally-managed-environment", "this Python belongs to the operating system"),
        ("something nobody has seen", "the command failed."),
    ],
)
def test_a_failure_is_told_in_plain_words(output, found):
    assert diagnose(output).found.startswith(found)
