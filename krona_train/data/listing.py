"""The files of a folder by their names: pictures, their captions and masks, and what is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from krona_ops.errors import DataError
from krona_ops.shown import shown

from ..batches.camera import Camera
from .choices import MOST_REPEATS
from .described import NAMES, read_described
from .kinds import HIDDEN, is_hidden, is_picture, looks_like_a_picture, why_not
from .notices import Notice, left_out, printable

MASK_ENDINGS = ("-mask", "-masklabel", "_mask", ".mask")
"""Of a mask's name without its suffix, after the picture's: ours, OneTrainer's, and two that people use."""
_CONDITIONS = ("-condlabel",)
"""OneTrainer's second picture of a picture, which is neither a mask nor to be learnt."""
_CAPTION_SUFFIXES = (".txt", ".caption")
NUMBERED = re.compile(r"(\d+)_(.*)")
"""The name of a subfolder with a number of repeats."""
ZERO_TIMES = "a subfolder that comes 0 times"


@dataclass(frozen=True)
class ListedPicture:
    """A picture file of a folder, with the files that belong to it."""

    path: Path
    name: str
    """Relative to the folder that was searched."""
    repeats: int = 1
    """The number at the beginning of the subfolder's name (``10_sks dog`` is 10)."""
    text: str = ""
    """The rest of the subfolder's name."""
    caption_file: Path | None = None
    mask_file: Path | None = None
    described: str = ""
    """Its caption in ``metadata.jsonl``."""
    camera: Camera | None = None
    """Its camera in ``cameras.json``."""


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder and of its numbered subfolders, by name, and the other files."""

    pictures: tuple[ListedPicture, ...]
    notices: tuple[Notice, ...]
    """Which files are not used, and why."""
    others: tuple[Path, ...] = ()
    """Further files with captions, such as ``metadata.jsonl``."""
    cameras: tuple[Path, ...] = ()
    """Files with cameras."""


def list_folder(folder: Path) -> Listing:
    """The files of a folder, sorted; of their contents only that of ``metadata.jsonl`` and ``metadata.csv`` is read.

    Raises:
        DataError: There is no such folder, or it may not be read; or pictures come too often by their subfolder's name.
    """
    require_folder(folder)
    whole = entries_of(folder, "")
    listings, plain = [whole], []
    for child in whole.folders:
        match = NUMBERED.fullmatch(child.name)
        if match and int(match[1]):
            inside = entries_of(child, f"{printable(child.name)}/", int(match[1]), match[2].strip())
            listings.append(inside)
            plain += inside.folders
        else:
            plain.append(child)
    pictures = [picture for listing in listings for picture in listing.pictures]
    pictures, aside = with_described(pictures, [*listings], folder)
    taken = {picture.path for picture in pictures}
    for child in plain:
        unsearched = _unsearched(child, taken)
        if unsearched is not None:
            count, reason = unsearched
            aside.append((f"{below(folder, child)}/{count}", reason))
    return listing_of(pictures, listings, aside)


def listing_of(
    pictures: Sequence[ListedPicture], folders: Sequence[Entries], aside: Sequence[tuple[str, str]]
) -> Listing:
    """The listing of some pictures and of the folders that were searched.

    Args:
        aside: What is not used besides, with the reasons.

    Raises:
        DataError: Pictures come too often by their subfolder's name.
    """
    for picture in pictures:
        if picture.repeats > MOST_REPEATS:  # an order of so many fits into no memory; most likely it is a date
            raise DataError(
                f"Its name begins with a number and _, so its pictures would come {shown(picture.repeats)} times per epoch.",
                where=str(picture.path.parent),
                found=shown(picture.repeats),
                expected=f"{MOST_REPEATS:,} times at most",
                remedy="Write a smaller number, or something else before it if it is not meant to repeat them.",
            )
    everything = [*(pair for entries in folders for pair in entries.aside), *aside]
    return Listing(
        tuple(pictures),
        left_out(sorted(everything, key=lambda pair: pair[1] == HIDDEN)),  # what matters least comes last
        tuple(path for entries in folders for path in entries.described),
    )


def require_folder(folder: Path) -> None:
    """See whether there is such a folder.

    Raises:
        DataError: There is none.
    """
    if not os.path.isdir(folder):  # which a name that no folder can have does not trouble
        raise DataError(
            "There is no such folder.",
            where=shown(str(folder), 300),
            found="nothing",
            expected="a folder with pictures",
            remedy="Give its full path, or the name of a folder inside ComfyUI's input folder.",
        )


@dataclass
class Entries:
    """The entries of one folder by what they are; captions and masks are with their pictures."""

    pictures: list[ListedPicture] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    described: list[Path] = field(default_factory=list)
    cameras: list[Path] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)
    """Names, and why they are not used."""


def entries_of(folder: Path, prefix: str, repeats: int = 1, text: str = "", cameras: str = "") -> Entries:
    """The entries of a folder, sorted; nothing is opened.

    Args:
        prefix: Goes before each name.
        repeats: Of each picture.
        text: Of each picture.
        cameras: What a file with cameras is called; empty where none is read.

    Raises:
        DataError: The folder may not be read.
    """
    result = Entries()
    pictures, texts, unread = [], [], []
    for path in _entries(folder):
        name, suffix = f"{prefix}{printable(path.name)}", path.suffix.lower()
        if is_hidden(path.name):
            result.aside.append((name, HIDDEN))
        elif os.path.isdir(path):  # Path.is_dir raises where a link's end cannot be reached
            result.folders.append(path)
        elif not os.path.isfile(path):
            result.aside.append((name, "a link to nothing, or no file"))
        elif path.name.lower() in NAMES:
            result.described.append(path)
        elif path.name.lower() == cameras:
            result.cameras.append(path)
        elif suffix in _CAPTION_SUFFIXES:
            texts.append(path)
        elif is_picture(suffix):
            pictures.append(path)
        else:
            if looks_like_a_picture(suffix):
                unread.append(path)
            result.aside.append((name, why_not(suffix)))
    pictures, masks, aside = _without_companions(pictures, unread)
    captions = _Beside(texts, [wanted for path in pictures for wanted in _caption_names(path)])
    masks_beside = _Beside(masks, [])
    for path in pictures:
        mask = masks_beside.take(_mask_names(path, masks))
        beside = captions.take(_caption_names(path))
        result.pictures.append(ListedPicture(path, f"{prefix}{printable(path.name)}", repeats, text, beside, mask))
    aside += [(path, "its picture has another mask, or is not read") for path in masks_beside.left()]
    aside += [(path, _why_no_caption(path, pictures)) for path in captions.left()]
    result.aside += [(f"{prefix}{printable(path.name)}", reason) for path, reason in aside]
    return result


def _entries(folder: Path) -> list[Path]:
    """
    Raises:
        DataError: The folder may not be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"The folder cannot be read: {error.strerror or error}.",
            where=str(folder),
            found=str(error),
            expected="a folder that may be read",
            remedy="Check its permissions, or choose another one.",
        ) from error


def _without_companions(
    pictures: Sequence[Path], unread: Sequence[Path]
) -> tuple[list[Path], list[Path], list[tuple[Path, str]]]:
    """Pictures, masks, and pictures that belong to another one without being its mask.

    A picture may be called ski-mask.png: it is a mask only next to a picture called ski, be it one that is not read.
    """
    stems = {path.stem.casefold() for path in (*pictures, *unread)}
    own, masks, aside = [], [], []
    for path in pictures:
        stem = path.stem.casefold()
        if any(stem.endswith(ending) and stem.removesuffix(ending) in stems for ending in MASK_ENDINGS):
            masks.append(path)
        elif any(stem.endswith(ending) and stem.removesuffix(ending) in stems for ending in _CONDITIONS):
            aside.append((path, "a condition for OneTrainer, neither a picture nor a mask"))
        else:
            own.append(path)
    return own, masks, aside


class _Beside:
    """Files that belong to pictures by their names, whatever the case of the letters.

    Args:
        exact: The names that pictures may claim exactly; another picture does not get them by their letters alone.
    """

    def __init__(self, files: Iterable[Path], exact: Iterable[str]) -> None:
        self._files = {path.name: path for path in files}
        self._alike: dict[str, list[Path]] = {}
        for path in self._files.values():
            self._alike.setdefault(path.name.casefold(), []).append(path)
        self._claimed = set(exact) & set(self._files)
        self._taken: set[Path] = set()

    def take(self, names: Iterable[str]) -> Path | None:
        """The first of these names that is there; it counts as taken."""
        for name in names:
            alike = (path for path in self._alike.get(name.casefold(), ()) if path.name not in self._claimed)
            path = self._files.get(name) or next(alike, None)
            if path is not None:
                self._taken.add(path)
                return path
        return None

    def left(self) -> Iterator[Path]:
        """The files that were not taken."""
        return (path for path in self._files.values() if path not in self._taken)


def _caption_names(path: Path) -> list[str]:
    """``dog.txt``, ``dog.caption``, ``dog.jpg.txt``, ``dog.jpg.caption``."""
    return [f"{start}{suffix}" for start in (path.stem, path.name) for suffix in _CAPTION_SUFFIXES]


def _mask_names(path: Path, masks: Iterable[Path]) -> list[str]:
    """PNG first, because it is exact; then the others that there are."""
    suffixes = dict.fromkeys((".png", *(mask.suffix for mask in masks)))
    return [f"{path.stem}{ending}{suffix}" for ending in MASK_ENDINGS for suffix in suffixes]


def _why_no_caption(path: Path, pictures: Iterable[Path]) -> str:
    """Why a caption file that no picture took is not used."""
    has_picture = any(path.name.casefold() in map(str.casefold, _caption_names(picture)) for picture in pictures)
    return "its picture has another caption" if has_picture else "no picture of this name is read"


def with_described(
    pictures: list[ListedPicture], listings: Sequence[Entries], folder: Path, *, adds: bool = True
) -> tuple[list[ListedPicture], list[tuple[str, str]]]:
    """The pictures with captions from metadata files, and the names that are not used, with the reasons.

    Args:
        adds: Whether pictures in further subfolders are added where a metadata file names them.
    """
    result, aside = {picture.path: picture for picture in pictures}, []
    searched = {folder, *(picture.path.parent for picture in pictures)}
    for path in (path for listing in listings for path in listing.described):
        described = read_described(path)
        own = f"{below(folder, path.parent)}/" if path.parent != folder else ""
        aside += [(f"{own}{line}", reason) for line, reason in described.refused]
        alike = {
            picture.path.relative_to(path.parent).as_posix().casefold(): picture
            for picture in result.values()
            if path.parent in picture.path.parents
        }
        for name, caption in described.captions.items():
            place = path.parent / name
            picture = result.get(place) or alike.get(name.casefold())
            is_elsewhere = os.path.isfile(place) and place.parent not in searched
            can_be_read = is_elsewhere and is_picture(place.suffix) and not is_hidden(place.name)
            if picture is None and can_be_read and adds:
                picture = ListedPicture(place, below(folder, place))
            if picture is not None:
                result[picture.path] = replace(picture, described=picture.described or caption)
            elif can_be_read:
                aside.append((below(folder, place), f"{path.name} names it, but its folder is left out"))
            elif is_elsewhere:
                aside.append((below(folder, place), HIDDEN if is_hidden(place.name) else why_not(place.suffix)))
            elif not os.path.isfile(place):
                aside.append((f"{own}{printable(name)}", f"{path.name} names it, but there is no such file"))
    return list(result.values()), aside


def below(folder: Path, path: Path) -> str:
    """The path below the folder, for messages."""
    return printable(path.relative_to(folder).as_posix())


def _unsearched(folder: Path, taken: set[Path]) -> tuple[str, str] | None:
    """How many pictures are in a subfolder that is left alone, as text, and why;
    ``None`` where all of them are taken."""
    try:
        inside = [Path(entry.path) for entry in os.scandir(folder)]
    except OSError as error:
        return "", f"the subfolder cannot be read: {error.strerror or error}"
    left = [path for path in inside if path not in taken and not is_hidden(path.name)]
    pictures = [path for path in left if looks_like_a_picture(path.suffix)]
    if not pictures and any(path in taken for path in inside):
        return None
    count = f" ({len(pictures)} picture{'s' if len(pictures) != 1 else ''})" if pictures else ""
    if re.fullmatch(r"0+_.*", folder.name):
        return count, ZERO_TIMES
    return count, "a subfolder; those with a number and _ before their name are read, as in 1_dog"
