"""Training pictures, captions, masks and repeats from a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from krona_ops.errors import DataError

from .pictures import Picture, require_prompt
from .pixels import Content, check_mask_size, is_readable

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MASK_ENDING = "-mask"
_NUMBERED = re.compile(r"(\d+)_(.*)")

Captions = Literal["files", "prompt", "folders"]
"""Where captions come from. ``files``: the ``.txt`` file of a picture's name, else the prompt. ``prompt``: the prompt for
all. ``folders``: the ``.txt`` file, else the name of a numbered folder without its number, else the prompt."""


@dataclass(frozen=True)
class Found:
    """A picture file in a folder, and what its place says about it."""

    path: Path
    name: str
    """Relative to the folder that was searched."""
    repeats: int = 1
    """What the folder's name begins with (``10_sks dog`` is 10)."""
    text: str = ""
    """The rest of the folder's name."""

    @property
    def caption_file(self) -> Path:
        """Where its caption would be."""
        return self.path.with_suffix(".txt")

    @property
    def mask_file(self) -> Path:
        """Where its mask would be."""
        return self.path.with_name(f"{self.path.stem}{MASK_ENDING}.png")


def find_pictures(folder: str | os.PathLike[str]) -> tuple[Found, ...]:
    """The picture files of a folder and of its numbered subfolders (``10_sks dog``), by name; others are left alone.

    Raises:
        DataError: The folder does not exist or has no pictures.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(
            "There is no such folder.",
            layer=str(folder),
            found="nothing",
            expected="a folder with pictures",
            remedy="Give its full path, or the name of a folder inside ComfyUI's input folder.",
        )
    found = [Found(path, path.name) for path in _picture_files(folder)]
    for child in sorted(folder.iterdir()):
        match = _NUMBERED.fullmatch(child.name)
        if match and int(match[1]) and child.is_dir():
            text = match[2].strip()
            found += [Found(p, f"{child.name}/{p.name}", int(match[1]), text) for p in _picture_files(child)]
    if not found:
        raise DataError(
            "There are no pictures in the folder.",
            layer=str(folder),
            found=f"{sum(1 for _ in folder.iterdir())} other files",
            expected=f"files ending in {', '.join(SUFFIXES)}",
            remedy="Three to five pictures of the subject are enough.",
        )
    return tuple(found)


def files_of(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Every file that decides what a folder gives: pictures, captions, masks.

    Raises:
        DataError: The folder does not exist or has no pictures.
    """
    for found in find_pictures(folder):
        yield from (path for path in (found.path, found.caption_file, found.mask_file) if path.is_file())


def from_folder(
    folder: str | os.PathLike[str], prompt: str, *, captions: Captions = "files", masks: bool = False, repeats: int = 1
) -> tuple[Picture, ...]:
    """The readable pictures of a folder with their captions.

    Pictures that cannot be read are left out with a warning that names them.

    Args:
        masks: Learn only what is white in ``NAME-mask.png``, or what is opaque where there is none.
        repeats: How often per epoch, times the number in a subfolder's name.

    Raises:
        DataError: The folder does not exist, has no readable pictures, a caption file is no text, a picture without
            caption file meets an empty prompt, or a mask does not fit its picture.
    """
    files = find_pictures(folder)
    readable = [found for found in files if is_readable(found.path)]
    if not readable:
        raise _none_readable(folder, files)
    return tuple(
        Picture(
            found.path,
            _caption(found, prompt, captions),
            found.name,
            _mask(found) if masks else None,
            repeats * found.repeats,
        )
        for found in readable
    )


def check_folder(folder: str | os.PathLike[str], prompt: str, *, captions: Captions = "files", masks: bool = False) -> None:
    """What `from_folder` would refuse, as far as a quick look tells: pictures are identified, not decoded.

    Raises:
        DataError: See `from_folder`.
    """
    files = find_pictures(folder)
    readable = [found for found in files if is_readable(found.path, decode=False)]
    if not readable:
        raise _none_readable(folder, files)
    for found in files:
        _caption(found, prompt, captions)
    for found in readable if masks else ():
        _mask(found)


def _picture_files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    # A picture may be called ski-mask.png: it is a mask only next to a picture called ski.
    stems = {path.stem for path in files}
    return [p for p in files if not (p.stem.endswith(MASK_ENDING) and p.stem.removesuffix(MASK_ENDING) in stems)]


def _mask(found: Found) -> Path | None:
    if found.mask_file.is_file():
        check_mask_size(found.path, found.mask_file)
        return found.mask_file
    return found.path if Content(Picture(found.path, "", found.name)).has_alpha else None


def _none_readable(folder: str | os.PathLike[str], files: tuple[Found, ...]) -> DataError:
    return DataError(
        f"None of the {len(files)} pictures can be read.",
        layer=str(folder),
        found=", ".join(found.name for found in files[:5]),
        expected="PNG, JPEG, WebP, BMP, TIFF or GIF",
        remedy="Open them in a picture viewer and save them again.",
    )


def _caption(found: Found, prompt: str, captions: Captions) -> str:
    otherwise = found.text if captions == "folders" and found.text else prompt
    beside = found.caption_file
    if captions == "prompt" or not beside.is_file():
        require_prompt(otherwise, found.name)
        return otherwise
    try:
        text = beside.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The caption file cannot be read: {error}.",
            layer=str(beside),
            found="no UTF-8 text",
            expected="text in UTF-8",
            remedy="Save it as UTF-8, or delete it to use the prompt.",
        ) from error
    if not text:
        require_prompt(otherwise, beside.name)
    return text or otherwise
