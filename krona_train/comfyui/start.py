"""ComfyUI as a library, in a process that is not its server: where its code is, and what it has to be told first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from krona_ops.errors import ConfigError
from krona_ops.shown import shown


def find_comfyui(named: str, of_the_file: str = "") -> Path:
    """Make the host's code importable, and give its folder: the ComfyUI that the user names at the prompt or by
    ``COMFYUI_PATH``, or the one that this pack is installed in.

    Args:
        named: At the prompt.
        of_the_file: What a run.yaml names. The file may be a stranger's, and code is run from there, so it must be one
            of those.

    Raises:
        ConfigError: There is none, or the file names another one.
    """
    place = next(filter(_is_comfyui, [named] if named else _around()), None)
    if not named and of_the_file and _is_comfyui(of_the_file) and (place is None or not _is_same(of_the_file, place)):
        raise ConfigError(
            f"The file names the ComfyUI in {shown(of_the_file, 200)}, whose code would be run.",
            where="comfyui",
            found=shown(of_the_file, 200),
            expected="the one that this pack is installed in, or that COMFYUI_PATH names" if place is None else place,
            remedy="If you trust it, name it yourself: add --comfyui and its folder to the command, or set "
            "COMFYUI_PATH.",
        )
    if place is None or (of_the_file and not named and not _is_comfyui(of_the_file)):
        raise ConfigError(
            "ComfyUI is not found.",
            where=shown(named or of_the_file, 200) or "comfyui",
            found="no folder with comfy/sd.py in it",
            expected="the folder with ComfyUI's main.py",
            remedy="Write comfyui: and its folder into the file and set COMFYUI_PATH to it, or give --comfyui "
            "/path/to/ComfyUI.",
        )
    sys.path.insert(0, str(Path(place).resolve()))
    return Path(place).resolve()


def _is_comfyui(place: str) -> bool:
    return bool(place) and (Path(place) / "comfy" / "sd.py").is_file()


def _around() -> Iterator[str]:
    """The ComfyUI that the environment names, and the folders around this pack.

    Not resolved: the pack in custom_nodes may be a link to where it is developed. Python resolves the current folder,
    the shell that it was started from remembers how it came there; that counts only where it came to this pack.
    """
    yield os.environ.get("COMFYUI_PATH", "")
    pack = Path(os.path.abspath(__file__)).parents[2]
    yield from map(str, pack.parents)
    shell = Path(os.environ.get("PWD", os.sep))
    inside = [place for place in (shell, *shell.parents) if _is_same(place, pack)]
    yield from (str(parent) for place in inside for parent in place.parents)


def _is_same(one: str | Path, other: str | Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


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
