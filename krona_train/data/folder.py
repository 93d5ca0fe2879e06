"""Training pictures, captions, masks and repeats from a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from krona_ops.errors import DataError
from krona_ops.shown import shown

from .captions import MOST_CHARACTERS, require_usable
from .choices import Captions
from .kinds import HIDDEN, USUAL
from .listing import Found, Listing, list_folder
from .notices import Notice, left_out, printable
from .opening import UNREADABLE, Facts, look, require_whole, why
from .pictures import Picture, require_prompt
from .pixels import check_mask_size

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Gets how many pictures are read, how many there are, and which comes next. It may raise, to cancel."""


@dataclass(frozen=True)
class Reading:
    """What a folder gives."""

    pictures: tuple[Picture, ...]
    notices: tuple[Notice, ...]
    """What is not used of it, and what else whoever trains should know."""


def find_pictures(folder: str | os.PathLike[str]) -> tuple[Found, ...]:
    """The picture files of a folder and of its numbered subfolders (``10_sks dog``), by name; others are left alone.

    Raises:
        DataError: The folder does not exist or has no pictures.
    """
    return _listed(folder).pictures


def files_of(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Every file that decides what a folder gives: pictures, captions, masks.

    Raises:
        DataError: The folder does not exist or has no pictures.
    """
    listing = _listed(folder)
    for found in listing.pictures:
        yield from (path for path in (found.path, found.caption_file, found.mask_file) if path is not None and path.is_file())
    yield from listing.others


def from_folder(
    folder: str | os.PathLike[str], prompt: str, *, captions: Captions = "files", masks: bool = False, repeats: int = 1
) -> tuple[Picture, ...]:
    """The readable pictures of a folder with their captions; the log names all that is left out. See `read_folder`."""
    reading = read_folder(folder, prompt, captions=captions, masks=masks, repeats=repeats)
    tell(reading.notices)
    return reading.pictures


def tell(notices: Sequence[Notice]) -> None:
    """Write notices into the log."""
    for notice in notices:
        log.log(logging.INFO if notice.reason == HIDDEN else logging.WARNING, "KronA: %s.", notice.text())


def read_folder(
    folder: str | os.PathLike[str],
    prompt: str,
    *,
    captions: Captions = "files",
    masks: bool = False,
    repeats: int = 1,
    progress: Progress = lambda done, total, what: None,
) -> Reading:
    """The readable pictures of a folder with their captions, and what is left out.

    Args:
        masks: Learn only what is white in ``NAME-mask.png``, or what is opaque where there is none.
        repeats: How often per epoch, times the number in a subfolder's name.

    Raises:
        DataError: The folder does not exist, has no readable pictures, a caption file is no text, a picture without
            caption file meets an empty prompt, or a mask does not fit its picture.
    """
    listing = _listed(folder)
    readable: list[tuple[Found, Facts]] = []
    unreadable: list[tuple[str, str]] = []
    for done, found in enumerate(listing.pictures):
        progress(done, len(listing.pictures), found.name)
        try:
            facts = look(found.path)
            require_whole(found.path)
        except UNREADABLE as error:
            unreadable.append((found.name, f"it cannot be read: {why(error)}"))
        else:
            readable.append((found, facts))
    progress(len(listing.pictures), len(listing.pictures), "")
    if not readable:
        raise _none_readable(folder, unreadable)
    pictures = tuple(
        Picture(
            found.path,
            _caption(found, prompt, captions),
            found.name,
            _mask(found, facts) if masks else None,
            repeats * found.repeats,
        )
        for found, facts in readable
    )
    notices = (
        *left_out(unreadable),
        *listing.notices,
        *_unused(readable, listing.others, captions, masks),
        *_remarks(readable, masks),
    )
    return Reading(pictures, notices)


def check_folder(folder: str | os.PathLike[str], prompt: str, *, captions: Captions = "files", masks: bool = False) -> None:
    """What `from_folder` would refuse, as far as a quick look tells: headers are read, nothing is decoded.

    Raises:
        DataError: See `from_folder`.
    """
    files = find_pictures(folder)
    readable, unreadable = [], []
    for found in files:
        try:
            readable.append((found, look(found.path)))
        except UNREADABLE as error:
            unreadable.append((found.name, f"it cannot be read: {why(error)}"))
    if not readable:
        raise _none_readable(folder, unreadable)
    for found in files:
        _caption(found, prompt, captions)
    for found, facts in readable if masks else ():
        _mask(found, facts)


def _listed(folder: str | os.PathLike[str]) -> Listing:
    place = Path(os.path.expanduser(folder))
    listing = list_folder(place)
    if listing.pictures:
        return listing
    number = sum(len(notice.names) for notice in listing.notices)
    told = "".join(f" {notice.text(5)}." for notice in listing.notices[:5])
    raise DataError(
        "There are no pictures in the folder.",
        where=str(folder),
        found=f"{number} other files",
        expected=f"pictures, such as {USUAL}",
        remedy=f"Three to five pictures of the subject are enough.{told}",
    )


def _none_readable(folder: str | os.PathLike[str], files: Sequence[tuple[str, str]]) -> DataError:
    told = "".join(f" {name}: {reason}." for name, reason in files[:5])
    return DataError(
        f"None of the {len(files)} pictures can be read.",
        where=str(folder),
        found=", ".join(name for name, _ in files[:5]),
        expected=USUAL,
        remedy=f"Open them in a picture viewer and save them again.{told}",
    )


def _mask(found: Found, facts: Facts) -> Path | None:
    if found.mask_file is not None:
        check_mask_size(found.path, found.mask_file)
        return found.mask_file
    return found.path if facts.has_alpha else None


def _unused(
    readable: Sequence[tuple[Found, Facts]], described: Sequence[Path], captions: Captions, masks: bool
) -> tuple[Notice, ...]:
    """Captions and masks that are there, and not wanted by the settings."""
    ignored, why_ignored = captions == "prompt", "captions are the prompt for every picture"
    beside = [(_beside(found, found.caption_file), why_ignored) for found, _ in readable if ignored]
    beside += [(path.name, why_ignored) for path in described if ignored]
    empty = "it is empty, so the picture has no caption of its own"
    beside += [(_beside(found, found.caption_file), empty) for found, _ in readable if not ignored and not _own_text(found)]
    beside += [(_beside(found, found.mask_file), "it is a mask, and masks are off") for found, _ in readable if not masks]
    twice = tuple(found.name for found, _ in readable if found.described and found.caption_file is not None and not ignored)
    about = (Notice("Described twice", "their own text files count, not the metadata file", twice),) if twice else ()
    return (*left_out((name, reason) for name, reason in dict(beside).items() if name), *about)


def _beside(found: Found, path: Path | None) -> str:
    """The name of a file beside a picture, as the picture is named."""
    return "" if path is None else "".join(found.name.rpartition("/")[:2]) + printable(path.name)


def _remarks(readable: Sequence[tuple[Found, Facts]], masks: bool) -> tuple[Notice, ...]:
    """What becomes of pictures that is not what one may expect."""
    frames = tuple(found.name for found, facts in readable if facts.has_frames)
    remarks = [Notice("Only the first frame or page is learnt", "they have several", frames)] if frames else []
    whole = tuple(found.name for found, facts in readable if found.mask_file is None and not facts.has_alpha)
    if masks and whole:
        none = "masks are on, but no picture has one" if len(whole) == len(readable) else "masks are on, but these have none"
        remarks.append(Notice("Learnt whole", f"{none} (as dog-mask.png beside dog.jpg, or transparency)", whole))
    return tuple(remarks)


def _caption(found: Found, prompt: str, captions: Captions) -> str:
    otherwise = found.text if captions == "folders" and found.text else prompt
    if captions == "prompt":
        require_prompt(prompt, found.name)
        return prompt
    otherwise = found.described or otherwise
    text = _own_text(found)
    if not text:
        require_prompt(otherwise, found.name if found.caption_file is None else found.caption_file.name)
    return text or otherwise


def _own_text(found: Found) -> str:
    """What the text file beside a picture says; empty where there is none.

    Raises:
        DataError: It is no text, or too long for a caption.
    """
    if found.caption_file is None:
        return ""
    try:
        with found.caption_file.open(encoding="utf-8-sig") as file:
            text = file.read(2 * MOST_CHARACTERS).strip()  # whatever stands behind it is too much
            require_usable(text, _beside(found, found.caption_file))
            return text
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The caption file cannot be read: {shown(str(error), 160)}.",
            where=str(found.caption_file),
            found="no UTF-8 text",
            expected="text in UTF-8",
            remedy="Save it as UTF-8, or delete it to use the prompt.",
        ) from error
