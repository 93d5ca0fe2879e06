"""Training pictures and their captions, from a folder or from memory."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from krona_ops.errors import DataError

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_UNREADABLE = (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError, EOFError)


@dataclass(frozen=True, eq=False)
class Picture:
    """One training picture: a file, or pixels."""

    source: Path | Tensor
    """A file, or ``(height, width, 3)`` in [0, 1]."""
    caption: str
    name: str
    """What messages call it."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """What an adapter is trained on."""

    pictures: tuple[Picture, ...]
    resolution: int = 0
    """Side of the square that each picture is cut to, in pixels; 0 takes the size that the model was trained at."""

    @property
    def captions(self) -> tuple[str, ...]:
        """One per picture."""
        return tuple(picture.caption for picture in self.pictures)


@dataclass(frozen=True)
class Crop:
    """A picture cut to a square, and where it was cut."""

    pixels: Tensor
    """``(side, side, 3)`` in [0, 1]."""
    width: int
    """Of the whole picture as it was, in its own pixels."""
    height: int
    left: int
    """Of the square in the resized picture, in pixels of the square."""
    top: int


def find_pictures(folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The picture files of a folder, by name; its subfolders are left alone.

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
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise DataError(
            "There are no pictures in the folder.",
            layer=str(folder),
            found=f"{sum(1 for _ in folder.iterdir())} other files",
            expected=f"files ending in {', '.join(SUFFIXES)}",
            remedy="Three to five pictures of the subject are enough.",
        )
    return tuple(found)


def from_folder(folder: str | os.PathLike[str], prompt: str, *, read_captions: bool = True) -> tuple[Picture, ...]:
    """The readable pictures of a folder; each with the text of the ``.txt`` file of its name, or with the prompt.

    Pictures that cannot be read are left out with a warning that names them.

    Raises:
        DataError: The folder does not exist, has no readable pictures, a caption file is no text, or a picture without
            caption file meets an empty prompt.
    """
    files = find_pictures(folder)
    readable = [path for path in files if _is_readable(path)]
    if not readable:
        raise _none_readable(folder, files)
    return tuple(Picture(path, _caption(path, prompt, read_captions), path.name) for path in readable)


def from_tensor(images: Tensor, prompt: str) -> tuple[Picture, ...]:
    """The pictures of an ``IMAGE`` batch ``(count, height, width, 3)``, all with the prompt.

    Raises:
        DataError: The prompt is empty.
    """
    require_prompt(prompt, "the pictures from the graph")
    return tuple(Picture(image[..., :3], prompt, f"picture {number}") for number, image in enumerate(images, 1))


def require_prompt(prompt: str, what: str) -> None:
    """
    Raises:
        DataError: The prompt is empty.
    """
    if not prompt.strip():
        raise DataError(
            "The prompt is empty.",
            layer=what,
            found="nothing",
            expected="a sentence that names the subject",
            remedy='Write something like "a photo of sks dog": a rare word for the subject and a plain one for its kind.',
        )


def check_folder(folder: str | os.PathLike[str], prompt: str, *, read_captions: bool = True) -> None:
    """What `from_folder` would refuse, as far as a quick look tells: pictures are identified, not decoded.

    Raises:
        DataError: See `from_folder`.
    """
    files = find_pictures(folder)
    if not any(_is_readable(path, decode=False) for path in files):
        raise _none_readable(folder, files)
    for path in files:
        _caption(path, prompt, read_captions)


def _none_readable(folder: str | os.PathLike[str], files: tuple[Path, ...]) -> DataError:
    return DataError(
        f"None of the {len(files)} pictures can be read.",
        layer=str(folder),
        found=", ".join(path.name for path in files[:5]),
        expected="PNG, JPEG, WebP, BMP, TIFF or GIF",
        remedy="Open them in a picture viewer and save them again.",
    )


def _is_readable(path: Path, *, decode: bool = True) -> bool:
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            else:
                image.verify()
    except _UNREADABLE as error:
        if decode:
            log.warning("KronA: left out %s, it cannot be read: %s", path, error)
        return False
    return True


def _caption(path: Path, prompt: str, read_captions: bool) -> str:
    beside = path.with_suffix(".txt")
    if not (read_captions and beside.is_file()):
        require_prompt(prompt, path.name)
        return prompt
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
        require_prompt(prompt, beside.name)
    return text or prompt


def crop(picture: Picture, side: int) -> Crop:
    """Scale a picture so that its shorter side has ``side`` pixels and cut the middle.

    Raises:
        DataError: The file has gone or changed since it was found.
    """
    image = _open(picture)
    width, height = image.size
    scale = side / min(width, height)
    resized = image.resize((max(side, round(width * scale)), max(side, round(height * scale))), Image.Resampling.LANCZOS)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    square = resized.crop((left, top, left + side, top + side))
    return Crop(torch.from_numpy(np.asarray(square, dtype=np.float32) / 255.0), width, height, left, top)


def _open(picture: Picture) -> Image.Image:
    if isinstance(picture.source, Tensor):
        return Image.fromarray((picture.source.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    try:
        with Image.open(picture.source) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            return upright.convert("RGB")
    except _UNREADABLE as error:
        raise DataError(
            f"The picture can no longer be read: {error}.",
            layer=str(picture.source),
            found="a missing or changed file",
            expected="the picture that was there before",
            remedy="Put it back, or queue again without it.",
        ) from error
