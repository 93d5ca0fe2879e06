"""Texts for whoever is at the other end of the network: they do not say where things are on this computer."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import folder_paths

_IN_WORDS = {"error", "text", "notes"}
"""Values of a run's rows that are words."""
_PART = r"[^\s/\\:*?\"'<>|]+"
_ABSOLUTE = re.compile(rf"(?<![\w./\\~:-])(?:/|~[/\\]|[A-Za-z]:[/\\]|\\\\)(?:{_PART}[/\\])*(?={_PART})")
"""The folders of a path that begins at a root, a drive, a home or a computer's name; its last part is not matched."""
_PACK = Path(__file__).resolve().parents[2]


def without_folders(text: str) -> str:
    """The text with only the last part of each absolute path; of paths below the host's folders, with what is below.

    >>> without_folders("/srv/x/robot.safetensors: This is no adapter.")
    'robot.safetensors: This is no adapter.'
    """
    if not any(mark in text for mark in ("/", "\\")):
        return text
    for root in sorted(_roots(), key=len, reverse=True):
        text = text.replace(f"{root}{os.sep}", "")
    return _ABSOLUTE.sub("", text)


def _roots() -> Iterator[str]:
    """Folders whose names may have blanks in them, which no pattern can tell from the words around them."""
    listed = [folder for folders, _ in folder_paths.folder_names_and_paths.values() for folder in folders]
    own = (folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory())
    others = (folder_paths.get_user_directory(), folder_paths.models_dir, folder_paths.base_path)
    around = (tempfile.gettempdir(), os.path.expanduser("~"), str(_PACK), os.getcwd())
    for folder in (*listed, *own, *others, *around):
        yield from {os.path.abspath(folder), os.path.realpath(folder)} - {os.path.abspath(os.sep)}


def public_row(row: Mapping[str, object]) -> dict[str, object]:
    """A row of a run's metrics, as it may be shown."""
    return {name: _public(value) if name in _IN_WORDS else value for name, value in row.items()}


def _public(value: object) -> object:
    if isinstance(value, str):
        return without_folders(value)
    return [_public(item) for item in value] if isinstance(value, list) else value
