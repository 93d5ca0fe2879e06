"""Names relative to the LoRA folders: what ComfyUI's own Load LoRA and other packs call a file."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from krona_ops.errors import AdapterFileError

KIND = "loras"
SUFFIX = ".safetensors"


def lora_name(path: Path) -> str | None:
    """How a file is called in the rows of a ``LORA_STACK`` and in Load LoRA's menu; ``None`` where they do not find it.

    The folders are asked in the host's order: where an earlier one has a file of the same name, others get that one.
    """
    for folder in folder_paths.get_folder_paths(KIND):
        try:
            name = os.path.relpath(path.resolve(), Path(folder).resolve())
        except ValueError:  # another drive
            continue
        is_inside = not name.startswith("..") and not os.path.isabs(name)
        if is_inside and _is_same(folder_paths.get_full_path(KIND, name), path):
            return name
    # Reached by a link, perhaps.
    alike = [name for name in folder_paths.get_filename_list(KIND) if Path(name).name == path.name]
    return next((name for name in alike if _is_same(folder_paths.get_full_path(KIND, name), path)), None)


def lora_path(name: str) -> Path:
    """The file behind a row's name.

    Names are full paths, or relative to the LoRA folders, with either kind of slash, with or without their suffix.

    Raises:
        AdapterFileError: There is no such file; files of that name elsewhere are another matter.
    """
    native = name.replace("\\", "/").replace("/", os.sep)
    for text in (name, native, f"{native}{SUFFIX}"):
        if os.path.isabs(text) and os.path.isfile(text):
            return Path(text)
        path = None if os.path.isabs(text) else folder_paths.get_full_path(KIND, text)
        if path is not None:
            return Path(path)
    raise AdapterFileError(
        "There is no such file in the LoRA folders.",
        where=name,
        found="nothing",
        expected="a row whose name is relative to one of the LoRA folders (models/loras, output/loras, …)",
        remedy="Choose the file again in the node that made the row. Files elsewhere, as in models/krona, come in by "
        "'file' or 'krona'.",
    )


def _is_same(other: str | None, path: Path) -> bool:
    return other is not None and os.path.samefile(other, path)
