"""Pictures of the subject's class, drawn by the model before it is trained, for prior preservation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from krona_ops.errors import AdapterFileError, DataError
from krona_ops.files import write_atomically
from krona_ops.shown import shown

from .kinds import SUFFIXES
from .opening import UNREADABLE, why
from .pixels import is_readable

_OWN = re.compile(r"class-(\d{5,})\.png")
_PROMPT = "Description"
"""The PNG text with the prompt, under PNG's own word. ComfyUI's ``prompt`` is a whole graph, and its page complains
about anything else there."""


def class_folder(parent: Path, prompt: str, *identity: str) -> Path:
    """Where the class pictures of one prompt and one model are kept, so that the next training finds them.

    Args:
        identity: What else decides how the pictures look, such as the model's fingerprint and the sampler's settings.
    """
    words = re.sub(r"[\W_]+", "-", prompt).strip("-")[:40].strip("-")
    digest = hashlib.sha256("\0".join((prompt, *identity)).encode()).hexdigest()[:12]
    return parent / f"{words or 'class'}-{digest}"


def make_class_pictures(
    folder: Path,
    count: int,
    draw: Callable[[int], Image.Image],
    progress: Callable[[int, int], None] = lambda done, total: None,
    prompt: str = "",
) -> tuple[Path, ...]:
    """Have ``count`` pictures in a folder: the readable ones that are there count, the missing ones are drawn.

    Number ``n`` is always drawn as ``draw(n)``, and is in the folder, whole, as soon as it is drawn: after an
    interruption the same set is completed. Damaged ones of our own are drawn again; the user's own pictures are never
    touched.

    Args:
        folder: Created.
        draw: From a number to a picture.
        progress: Gets how many there are and how many there shall be, at once and after each picture; may raise to
            cancel.
        prompt: Written into each file.

    Returns:
        ``count`` files, the user's own first.

    Raises:
        DataError: The folder holds class pictures of another prompt.
        AdapterFileError: The folder cannot be written, or the disk is full.
    """
    foreign, made = _look(folder, prompt)
    wanted = {number: folder / f"class-{number:05}.png" for number in range(count - len(foreign))}
    missing = [number for number in wanted if number not in made]
    progress(count - len(missing), count)
    for done, number in enumerate(missing, count - len(missing) + 1):
        _write(draw(number), wanted[number], prompt)
        progress(done, count)
    return (*foreign, *wanted.values())[:count]


def _look(folder: Path, prompt: str) -> tuple[list[Path], set[int]]:
    """The user's own pictures in the folder, and the numbers of those that were made here; only the readable ones."""
    foreign: list[Path] = []
    made: set[int] = set()
    for path in _files(folder):
        own = _OWN.fullmatch(path.name)
        if not is_readable(path):
            continue
        if own is None:
            foreign.append(path)
            continue
        _require_prompt(path, prompt)
        made.add(int(own[1]))
    return foreign, made


def _files(folder: Path) -> list[Path]:
    """Picture files, by name.

    Raises:
        AdapterFileError: The folder is a file, or may not be read.
    """
    if not folder.exists():
        return []
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise AdapterFileError(
            f"The folder of the class pictures cannot be read: {error.strerror or error}.",
            where=str(folder),
            found=str(error),
            expected="a folder",
            remedy="Choose another one.",
        ) from error


def _require_prompt(path: Path, prompt: str) -> None:
    """
    Raises:
        DataError: The picture was made for another prompt, so the set would be mixed.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            written = image.info.get(_PROMPT, prompt)
    except UNREADABLE as error:  # its pixels can be read, a text beside them cannot
        written = f"a text that cannot be read ({why(error)})"
    if written != prompt:
        raise DataError(
            f"The folder holds class pictures of another prompt, {shown(written)}.",
            where=str(path),
            found=shown(written),
            expected=prompt,
            remedy="Choose another folder, or delete these pictures.",
        )


def _write(picture: Image.Image, path: Path, prompt: str) -> None:
    texts = PngInfo()
    texts.add_itxt(_PROMPT, prompt)  # UTF-8; the older text chunk holds Latin-1 only
    write_atomically(path, lambda file: picture.save(file, format="PNG", pnginfo=texts))
