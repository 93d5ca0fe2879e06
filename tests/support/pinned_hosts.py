"""ComfyUIs as people have them: what is installed, by Python; only what the pack's requirements could touch."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools.install import venv

_COMMON = {
    "torch": "2.11.0",
    "safetensors": "0.4.2",
    "psutil": "7.2.2",
    "PyYAML": "6.0.4",
    "packaging": "23.2",
    "tqdm": "4.66.1",
}
_TRANSFORMERS_4 = {"transformers": "4.57.6", "huggingface-hub": "0.36.0", "tokenizers": "0.22.1"}
_TRANSFORMERS_5 = {"transformers": "5.24.0", "huggingface-hub": "2.4.0", "tokenizers": "0.23.3"}
HOSTS: dict[str, tuple[str, dict[str, str]]] = {
    "0.30 with transformers 4": ("3.11", {**_COMMON, **_TRANSFORMERS_4, "numpy": "1.26.4", "pillow": "10.4.0"}),
    "oldest of everything": (
        "3.10",
        {**_COMMON, "transformers": "4.50.3", "huggingface-hub": "0.26.0", "numpy": "1.25.0", "pillow": "9.5.0", "protobuf": "3.19.6"},
    ),
    "full of other packs": (
        "3.12",
        {
            **_COMMON, **_TRANSFORMERS_4, "numpy": "1.26.4", "pillow": "10.4.0", "protobuf": "4.25.8", "matplotlib": "3.8.4",
            "contourpy": "1.2.1", "kiwisolver": "1.4.5", "fonttools": "4.50.0", "pyparsing": "3.1.2", "python-dateutil": "2.9.0",
            "cycler": "0.12.1", "diffusers": "0.35.1", "accelerate": "0.34.2", "tensorboardX": "2.6",
        },
    ),
    "newest of everything": (
        "3.13",
        {**_COMMON, **_TRANSFORMERS_5, "numpy": "2.4.6", "pillow": "13.0.0", "protobuf": "7.35.0", "packaging": "26.4"},
    ),
}  # fmt: skip


def write_host(folder: Path, python: Path, packages: dict[str, str]) -> Path:
    """An environment in which pip finds these packages (their metadata alone); its Python."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    for name, version in packages.items():
        info = venv.site_packages(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text("")
    return venv.python_of(folder)


def find_python(version: str) -> Path | None:
    """A Python of that version that runs here."""
    places = [Path(f"/usr/bin/python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    return next((place for place in places if place.exists() and _has_venv(place)), None)


def _has_venv(python: Path) -> bool:
    return subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode == 0
