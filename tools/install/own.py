"""The ComfyUI that the user has: where it is, and which Python runs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tools.install import command, venv
from tools.install.errors import HostError


def find_comfyui(pack: Path) -> Path | None:
    """``COMFYUI_PATH``, or the ComfyUI in whose ``custom_nodes`` the pack stands, or None.

    Raises:
        HostError: ``COMFYUI_PATH`` is set, and no ComfyUI is there.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().absolute()
        if not is_comfyui(folder):
            raise HostError(
                f"COMFYUI_PATH is {folder}: no ComfyUI is there (expected main.py and comfy/ in it).\n"
                "Set it to the folder that holds ComfyUI's main.py, or unset it to have one installed."
            )
        return folder
    if pack.parent.name == "custom_nodes" and is_comfyui(pack.parent.parent):
        return pack.parent.parent
    return None


def is_comfyui(folder: Path) -> bool:
    """Whether ComfyUI's tree stands here."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def find_python(comfyui: Path) -> Path:
    """The Python that runs this ComfyUI: ``COMFYUI_PYTHON``, a virtual or embedded one in or next to it, or this one.

    Raises:
        HostError: ``COMFYUI_PYTHON`` does not run, or none of the others has torch.
    """
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        return _named_python(Path(named).expanduser().absolute())
    tried = [python for python in _candidates(comfyui) if python.exists()]
    for python in tried:
        if _has_torch(python):
            return python
    raise HostError(
        f"{comfyui}: no Python with torch was found for this ComfyUI (tried {', '.join(map(str, tried))}).\n"
        "Set COMFYUI_PYTHON to the Python that starts it."
    )


def _named_python(python: Path) -> Path:
    if not _has_torch(python):
        raise HostError(
            f"COMFYUI_PYTHON is {python}: it does not run, or has no torch.\n"
            "Set it to the Python that starts ComfyUI, or unset it to have one looked for."
        )
    return python


def _candidates(comfyui: Path) -> list[Path]:
    near = [venv.python_of(base / name) for base in (comfyui, comfyui.parent) for name in ("venv", ".venv")]
    embedded = [comfyui.parent / name / "python.exe" for name in ("python_embeded", "python_embedded")]
    return [*near, *embedded, Path(sys.executable)]


def _has_torch(python: Path) -> bool:
    code = "import importlib.util, json; print(json.dumps(importlib.util.find_spec('torch') is not None))"
    return command.ask(python, code) is True
