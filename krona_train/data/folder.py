"""Training pictures, captions, masks and repeats from a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from krona_ops.errors import DataError
from krona_ops.shown import shown

from .cameras import FILE as CAMERAS
from .captions import MOST_CHARACTERS, require_usable
from .choices import MOST_REPEATS, Captions
from .group_folders import list_groups
from .grouping import without_single_pictures
from .kinds import HIDDEN, USUAL
from .listing import ListedPicture, Listing, list_folder
from .notices import Notice, left_out, printable
from .opening import UNREADABLE, Facts, look, require_whole, why
from .pictures import Picture, PictureGroup, require_prompt
from .pixels import check_mask_size

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Gets how many pictures are read, how many there are, and which comes next. It may raise, to cancel."""


@dataclass(frozen=True)
class Reading:
    """The training pictures of a folder."""

    pictures: tuple[Picture, ...]
    notices: tuple[Notice, ...]
    """Which files are not used, and what else whoever trains should know."""


def find_pictures(folder: str | os.PathLike[str]) -> tuple[ListedPicture, ...]:
    """The picture files of a folder and of its numbered subfolders (``10_sks dog``), by name.

    Raises:
        DataError: The folder does not exist or has no pictures.
    """
    return _listed(folder).pictures


def files_of(folder: str | os.PathLike[str], *, groups: bool = False) -> Iterator[Path]:
    """Every file that decides what a folder gives: pictures, captions, masks, cameras.

    Raises:
        DataError: The folder does not exist, has no pictures, or none that are in groups.
    """
    listing = _listed(folder, groups=groups)
    for picture in listing.pictures:
        files = (picture.path, picture.caption_file, picture.mask_file)
        yield from (path for path in files if path is not None and os.path.isfile(path))
    yield from (*listing.others, *listing.cameras)


def from_folder(
    folder: str | os.PathLike[str], prompt: str, *, captions: Captions = "files", masks: bool = False, repeats: int = 1
) -> tuple[Picture, ...]:
    """The pictures of `read_folder`; its notices go to the log."""
    reading = read_folder(folder, prompt, captions=captions, masks=masks, repeats=repeats)
    log_notices(reading.notices)
    return reading.pictures


def log_notices(notices: Sequence[Notice]) -> None:
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
    groups: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Reading:
    """The readable pictures of a folder with their captions, and what is left out.

    Args:
        masks: Learn only what is white in ``NAME-mask.png``, or what is opaque where there is none.
        repeats: How often per epoch, times the number in a subfolder's name.
        groups: Each subfolder is a group, see `krona_train.data.group_folders.list_groups`; those with one picture are
            left out.

    Raises:
        DataError: The folder does not exist, has no readable pictures, a caption file is no text, a picture without
            caption file meets an empty prompt, a mask does not fit its picture, or pictures come too often; or it holds
            no groups, or pictures beside them, or cameras that do not fit.
    """
    listing = _listed(folder, groups=groups)
    _require_few_repeats(listing.pictures, repeats)
    readable: list[tuple[ListedPicture, Facts]] = []
    unreadable: list[tuple[str, str]] = []
    for done, picture in enumerate(listing.pictures):
        progress(done, len(listing.pictures), picture.name)
        try:
            facts = look(picture.path)
            require_whole(picture.path)
        except UNREADABLE as error:
            _require_no_view(picture, error)
            unreadable.append((picture.name, f"it cannot be read: {why(error)}"))
        else:
            readable.append((picture, facts))
    progress(len(listing.pictures), len(listing.pictures), "")
    if not readable:
        raise _none_readable(folder, unreadable)
    names = {picture.path.parent: picture.name.rpartition("/")[0] for picture, _ in readable} if groups else {}
    group = {place: PictureGroup(name) for place, name in names.items()}
    pictures = tuple(
        Picture(
            picture.path,
            _caption(picture, prompt, captions),
            picture.name,
            _mask(picture, facts) if masks else None,
            repeats * picture.repeats,
            group.get(picture.path.parent),
            picture.camera,
        )
        for picture, facts in readable
    )
    pictures, alone = without_single_pictures(pictures, str(folder)) if groups else (pictures, ())
    notices = (
        *left_out(unreadable),
        *alone,
        *listing.notices,
        *_unused(readable, listing.others, captions, masks),
        *_remarks(readable, masks),
        *(_more_often(pictures) if groups else ()),
    )
    return Reading(pictures, notices)


def check_folder(
    folder: str | os.PathLike[str], prompt: str, *, captions: Captions = "files", masks: bool = False
) -> None:
    """Refuse what `read_folder` would refuse, as far as the headers of the files tell; nothing is decoded.

    Raises:
        DataError: See `read_folder`.
    """
    files = find_pictures(folder)
    readable: list[tuple[ListedPicture, Facts]] = []
    unreadable: list[tuple[str, str]] = []
    for picture in files:
        try:
            readable.append((picture, look(picture.path)))
        except UNREADABLE as error:
            unreadable.append((picture.name, f"it cannot be read: {why(error)}"))
    if not readable:
        raise _none_readable(folder, unreadable)
    for picture in files:
        _caption(picture, prompt, captions)
    for picture, facts in readable if masks else ():
        _mask(picture, facts)


def _listed(folder: str | os.PathLike[str], *, groups: bool = False) -> Listing:
    """
    Raises:
        DataError: The folder does not exist or has no pictures; or see `list_groups`.
    """
    place = Path(os.path.expanduser(folder))
    listing = list_groups(place) if groups else list_folder(place)
    if listing.pictures:
        return listing
    number = sum(len(notice.names) for notice in listing.notices)
    reasons = "".join(f" {notice.text(5)}." for notice in listing.notices[:5])
    if groups:
        raise DataError(
            "There are no pictures in the subfolders.",
            where=str(folder),
            found=f"{number} other files and folders",
            expected=f"subfolders with pictures, such as {USUAL}",
            remedy=f"Put the pictures of each subject or clip into a subfolder, or turn groups off.{reasons}",
        )
    raise DataError(
        "There are no pictures in the folder.",
        where=str(folder),
        found=f"{number} other files",
        expected=f"pictures, such as {USUAL}",
        remedy=f"Three to five pictures of the subject are enough.{reasons}",
    )


def _none_readable(folder: str | os.PathLike[str], files: Sequence[tuple[str, str]]) -> DataError:
    reasons = "".join(f" {name}: {reason}." for name, reason in files[:5])
    return DataError(
        f"None of the {len(files)} pictures can be read.",
        where=str(folder),
        found=", ".join(name for name, _ in files[:5]),
        expected=USUAL,
        remedy=f"Open them in a picture viewer and save them again.{reasons}",
    )


def _require_no_view(picture: ListedPicture, error: Exception) -> None:
    """
    Raises:
        DataError: The picture that cannot be read is one of several views with cameras, which would lack one.
    """
    if picture.camera is not None:
        raise DataError(
            f"It cannot be read, and {CAMERAS} names it: {why(error)}.",
            where=picture.name,
            found="a damaged picture",
            expected="every view that has a camera",
            remedy=f"Save it again, or take it out of {CAMERAS}.",
        ) from error


def _require_few_repeats(pictures: Sequence[ListedPicture], repeats: int) -> None:
    """Refuse a folder whose own number and the setting make too much of it together; each is bounded by itself.

    Raises:
        DataError: A picture would come more than `MOST_REPEATS` times per epoch.
    """
    often = max(pictures, key=lambda picture: picture.repeats, default=None)
    if often is not None and (times := repeats * often.repeats) > MOST_REPEATS:
        raise DataError(
            f"Its pictures would come {times:,} times per epoch: {often.repeats:,} times by its name, and as often again "
            f"for each of {repeats:,} repeats.",
            where=str(often.path.parent),
            found=f"{times:,} times",
            expected=f"{MOST_REPEATS:,} times at most",
            remedy="Lower 'repeats', or the number that the folder's name begins with.",
        )


def _more_often(pictures: Sequence[Picture]) -> tuple[Notice, ...]:
    """A notice of groups that come more often than others, because their folders' names begin with a number: it may
    have been meant to count them."""
    repeats = {picture.group.name: picture.repeats for picture in pictures if picture.group is not None}
    least = min(repeats.values())
    names = tuple(f"{name} (×{times})" for name, times in repeats.items() if times > least)
    return (Notice("Come more often", "their folders' names begin with a number and _", names),) if names else ()


def _mask(picture: ListedPicture, facts: Facts) -> Path | None:
    """The file of a picture's mask; the picture's own for its transparency, ``None`` where everything is learnt.

    Raises:
        DataError: The mask has another size than the picture, or cannot be read.
    """
    if picture.mask_file is not None:
        check_mask_size(picture.path, picture.mask_file)
        return picture.mask_file
    return picture.path if facts.has_alpha else None


def _unused(
    readable: Sequence[tuple[ListedPicture, Facts]], described: Sequence[Path], captions: Captions, masks: bool
) -> tuple[Notice, ...]:
    """Captions and masks that are there, and not wanted by the settings."""
    ignored, why_ignored = captions == "prompt", "captions are the prompt for every picture"
    beside = [(_beside(picture, picture.caption_file), why_ignored) for picture, _ in readable if ignored]
    beside += [(path.name, why_ignored) for path in described if ignored]
    empty = "it is empty, so the picture has no caption of its own"
    if not ignored:
        beside += [(_beside(picture, picture.caption_file), empty) for picture, _ in readable if not _own_text(picture)]
    if not masks:
        unused = "it is a mask, and masks are off"
        beside += [(_beside(picture, picture.mask_file), unused) for picture, _ in readable]
    both = [picture for picture, _ in readable if picture.described and picture.caption_file is not None]
    twice = () if ignored else tuple(picture.name for picture in both)
    about = (Notice("Described twice", "their own text files count, not the metadata file", twice),) if twice else ()
    return (*left_out((name, reason) for name, reason in dict(beside).items() if name), *about)


def _beside(picture: ListedPicture, path: Path | None) -> str:
    """The name of a file beside a picture, below the folder that was searched; empty where there is no file."""
    return "" if path is None else "".join(picture.name.rpartition("/")[:2]) + printable(path.name)


def _remarks(readable: Sequence[tuple[ListedPicture, Facts]], masks: bool) -> tuple[Notice, ...]:
    """Notices of pictures that are learnt in another way than one may expect."""
    frames = tuple(picture.name for picture, facts in readable if facts.has_frames)
    remarks = [Notice("Only the first frame or page is learnt", "they have several", frames)] if frames else []
    whole = tuple(picture.name for picture, facts in readable if picture.mask_file is None and not facts.has_alpha)
    if masks and whole:
        which = "no picture has one" if len(whole) == len(readable) else "these have none"
        reason = f"masks are on, but {which} (as dog-mask.png beside dog.jpg, or transparency)"
        remarks.append(Notice("Learnt whole", reason, whole))
    return tuple(remarks)


def _caption(picture: ListedPicture, prompt: str, captions: Captions) -> str:
    """
    Raises:
        DataError: The picture has no caption and the prompt is empty, or one of them cannot be used.
    """
    otherwise = picture.text if captions == "folders" and picture.text else prompt
    if captions == "prompt":
        require_prompt(prompt, picture.name)
        return prompt
    otherwise = picture.described or otherwise
    text = _own_text(picture)
    if not text:
        require_prompt(otherwise, picture.name if picture.caption_file is None else picture.caption_file.name)
    return text or otherwise


def _own_text(picture: ListedPicture) -> str:
    """The text in the caption file beside a picture; empty where there is none.

    Raises:
        DataError: It is no text, or too long for a caption.
    """
    if picture.caption_file is None:
        return ""
    try:
        with picture.caption_file.open(encoding="utf-8-sig") as file:
            text = file.read(2 * MOST_CHARACTERS).strip()  # whatever stands behind it is too much
            require_usable(text, _beside(picture, picture.caption_file))
            return text
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The caption file cannot be read: {shown(str(error), 160)}.",
            where=str(picture.caption_file),
            found="no UTF-8 text",
            expected="text in UTF-8",
            remedy="Save it as UTF-8, or delete it to use the prompt.",
        ) from error
