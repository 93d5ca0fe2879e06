"""Which folders, and which files of prompts in them, a graph may name.

Whoever can reach the server can send a graph, so where others can, not every folder may be read.
"""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from krona_ops.errors import KronaError
from krona_ops.shown import shown

from . import listening

LISTED = "krona_data"
"""In ``extra_model_paths.yaml``: further folders that data sets may come from."""
SAMPLES = Path(__file__).resolve().parents[2] / "samples"


def allowed(path: Path, typed: str, error: type[KronaError]) -> Path:
    """The path, if a graph may name it.

    On a server that only this computer can reach, it may name all of them. Elsewhere the folder has to lie, links
    followed, below the host's input, output or models, below this pack's samples, or below a folder that the owner of
    the server has listed. Nothing is said about the folder itself.

    Args:
        typed: What was typed in, for the error.
        error: The class of the error.

    Raises:
        KronaError: Of that class: the graph may not name it.
    """
    if listening.is_for_this_computer_alone() or _is_below_one(path, _open_to_all()):
        return path
    raise error(
        "This server reads data sets from ComfyUI's own folders only.",
        where=shown(typed),
        found=shown(typed),
        expected="the name of a folder inside ComfyUI's input folder",
        remedy="Put the folder into ComfyUI's input folder, or list it where the server runs, in the environment "
        f"variable {listening.DATA_FOLDERS} or as {LISTED} in extra_model_paths.yaml, and restart ComfyUI.",
    )


def _open_to_all() -> list[str]:
    listed = folder_paths.folder_names_and_paths.get(LISTED, ([],))[0]
    own = [folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.models_dir]
    return [*own, str(SAMPLES), *listed, *listening.allowed_data_folders()]


def _is_below_one(path: Path, parents: list[str]) -> bool:
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError):  # such as a zero in it
        return False
    return any(_is_below(real, os.path.realpath(parent)) for parent in parents)


def _is_below(path: str, parent: str) -> bool:
    try:
        return os.path.commonpath((path, parent)) == parent
    except ValueError:  # on two drives
        return False
