"""ComfyUI as a library, in a process that is not its server: where its code is, and what it has to be told first."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch

from krona_ops.errors import ConfigError


def find_comfyui(named: str) -> Path:
    """Make the host's code importable: the ComfyUI that is named, or the one that this pack is installed in; its folder.

    Raises:
        ConfigError: There is none.
    """
    # Not resolved: the pack in custom_nodes may be a link to where it is developed. Python resolves the current folder, the
    # shell that it was started from remembers how it came there.
    inside = [Path(os.path.abspath(__file__)).parents[1], Path(os.environ.get("PWD", os.sep))]
    around = [os.environ.get("COMFYUI_PATH", ""), *(str(parent) for place in inside for parent in place.parents)]
    for place in [named] if named else around:
        if place and (Path(place) / "comfy" / "sd.py").is_file():
            sys.path.insert(0, str(Path(place).resolve()))
            return Path(place).resolve()
    raise ConfigError(
        "ComfyUI is not found.",
        layer=named or "comfyui",
        found="no folder with comfy/sd.py in it",
        expected="the folder with ComfyUI's main.py",
        remedy="Write comfyui: /path/to/ComfyUI into the file, or give --comfyui.",
    )


def has_gpu() -> bool:
    """Whether PyTorch sees anything faster than the CPU."""
    return torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()


def prepare_comfyui(arguments: Sequence[str]) -> None:
    """Let the host read its own arguments, and not look for a GPU where there is none."""
    sys.argv = [sys.argv[0], *arguments]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args

    if not has_gpu():
        comfy.cli_args.args.cpu = True


def user_folder(host: Path) -> Path:
    """Where the host keeps what belongs to its user, as its arguments say; after `prepare_comfyui`.

    Args:
        host: Its own folder.
    """
    import comfy.cli_args

    given = comfy.cli_args.args
    return Path(given.user_directory) if given.user_directory else Path(given.base_directory or host) / "user"


def host_side(module: str) -> ModuleType:
    """A module of the pack's host side (``nodes/host``), which knows what the layers of any adapter are called in a model.

    The pack is loaded under a name of its own, as ComfyUI's server loads it: ``nodes`` is also a module of ComfyUI. After
    `prepare_comfyui`.
    """
    package = "krona_pack_of_the_command_line"
    if package not in sys.modules:
        root = Path(__file__).resolve().parents[1]
        spec = importlib.util.spec_from_file_location(package, root / "__init__.py", submodule_search_locations=[str(root)])
        assert spec is not None  # the pack's own entry file
        assert spec.loader is not None
        sys.modules[package] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(f"{package}.nodes.host.{module}")
