"""The files of a folder whose subfolders are groups: one subject each, one clip, or the views of one thing."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from krona_ops.errors import DataError

from ..batches.camera import Camera
from .cameras import FILE, REMEDY, read_cameras
from .kinds import is_hidden, looks_like_a_picture
from .listing import (
    NUMBERED,
    ZERO_TIMES,
    Entries,
    ListedPicture,
    Listing,
    below,
    entries_of,
    list_folder,
    listing_of,
    require_folder,
    with_described,
)
from .notices import printable

MOST_LEVELS = 8
"""Subfolders inside one another that are searched."""
MOST_FOLDERS = 50_000
"""Subfolders in all."""
_GLANCE = 200
"""Folders that a quick look opens."""
_NAMED = 5
"""Names in an error."""
_DIGITS = re.compile(r"(\d+)")


def list_groups(folder: Path) -> Listing:
    """The pictures of the deepest subfolders that hold any, one group after the other.

    Groups, and the pictures of each, come in the natural order of their names (``2.png`` before ``10.png``). A
    ``cameras.json`` in a group's folder, or in one above it, gives its pictures another order, and their cameras; the
    nearest counts. So does of several metadata files that describe one picture.

    Raises:
        DataError: There is no such folder; pictures lie above a group; there are too many subfolders; pictures come too
            often by their subfolder's name; or a file with cameras cannot be used.
    """
    require_folder(folder)
    search = _Search(folder)
    pictures = search.groups_in(folder, None, ())
    listing = listing_of(pictures, search.searched, search.aside)
    return replace(listing, cameras=tuple(search.cameras))


def may_hold_groups(folder: Path) -> bool:
    """Whether pictures of a folder may be found with groups, and none without: a quick look, for where it is not known
    what is wanted."""
    try:
        if list_folder(folder).pictures:
            return False
    except DataError:
        return False  # there is none, or it may not be read
    waiting, looks = deque([folder]), 0
    while waiting:
        place = waiting.popleft()
        looks += 1
        if looks > _GLANCE:
            return True
        try:
            with os.scandir(place) as entries:
                inside = [entry for entry in entries if not is_hidden(entry.name)]
        except OSError:
            continue  # reading it says so
        if place != folder and any(looks_like_a_picture(os.path.splitext(entry.name)[1]) for entry in inside):
            return True
        waiting += [Path(entry.path) for entry in inside if os.path.isdir(entry.path)]
    return False


@dataclass(frozen=True)
class _Cameras:
    file: Path
    views: tuple[tuple[str, Camera], ...]


class _Search:
    """What is seen of a folder's tree so far.

    Args:
        top: The folder that is searched.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.searched: list[Entries] = []
        self.aside: list[tuple[str, str]] = []
        """Names, and why they are not used."""
        self.cameras: list[Path] = []

    def groups_in(self, folder: Path, cameras: _Cameras | None, above: tuple[str, ...]) -> list[ListedPicture]:
        """The pictures of the groups in a folder, or of the one that it is.

        Args:
            cameras: Of the nearest folder above that has some.
            above: The folders on the way to it, without links.
        """
        entries = self._entries(folder)
        if entries.cameras:
            cameras = _Cameras(entries.cameras[0], read_cameras(entries.cameras[0]))
            self.cameras.append(cameras.file)
        above = (*above, os.path.realpath(folder))
        deeper = [
            picture
            for child in sorted(entries.folders, key=lambda path: natural(path.name))
            if self._is_searched(child, above)
            for picture in self.groups_in(child, cameras, above)
        ]
        own = sorted(entries.pictures, key=lambda picture: natural(picture.path.name))
        if own and (deeper or folder == self.top):
            raise _ungrouped(folder, own, "in the folder itself" if folder == self.top else "beside such subfolders")
        if not own and not entries.folders and folder != self.top:
            self.aside.append((f"{below(self.top, folder)}/", "a subfolder without pictures"))
        if own and cameras is not None:
            own = _in_order(own, cameras, folder)
        pictures, aside = with_described(own or deeper, [entries], self.top, adds=False)
        self.aside += aside
        return pictures

    def _entries(self, folder: Path) -> Entries:
        """
        Raises:
            DataError: The folder may not be read, or it is one too many.
        """
        if len(self.searched) > MOST_FOLDERS:
            raise DataError(
                f"There are more than {MOST_FOLDERS:,} subfolders.",
                where=str(self.top),
                found=f"more than {MOST_FOLDERS:,} subfolders",
                expected="a folder of groups, each a subfolder",
                remedy="Check that it is the right folder.",
            )
        is_top = folder == self.top
        match = NUMBERED.fullmatch(folder.name)
        repeats, text = (int(match[1]), match[2].strip()) if match else (1, folder.name)
        prefix = "" if is_top else f"{below(self.top, folder)}/"
        self.searched.append(entries_of(folder, prefix, repeats, text, FILE))
        return self.searched[-1]

    def _is_searched(self, folder: Path, above: tuple[str, ...]) -> bool:
        """Whether a subfolder is; what is left out is noted."""
        match = NUMBERED.fullmatch(folder.name)
        if match and not int(match[1]):
            reason = ZERO_TIMES
        elif len(above) > MOST_LEVELS:
            reason = f"a subfolder more than {MOST_LEVELS} levels down"
        elif os.path.realpath(folder) in above:
            reason = "a link to a folder that it is in"
        else:
            return True
        self.aside.append((f"{below(self.top, folder)}/", reason))
        return False


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts names as people do: numbers in them by their value, letters whatever their case."""
    parts = _DIGITS.split(name)
    return [(int(part), "") if place % 2 else (0, part.casefold()) for place, part in enumerate(parts)], name


def _in_order(pictures: Sequence[ListedPicture], cameras: _Cameras, folder: Path) -> list[ListedPicture]:
    """The pictures of a group with their cameras, in the order of the views.

    Raises:
        DataError: The file names other pictures than there are, or one twice.
    """
    exact = {picture.path.name: picture for picture in pictures}
    alike = {name.casefold(): picture for name, picture in exact.items()}
    views: dict[Path, ListedPicture] = {}
    for name, camera in cameras.views:
        picture = exact.get(name) or alike.get(name.casefold())
        if picture is None or picture.path in views:
            what = ", which is not among the pictures of" if picture is None else " twice, in"
            raise _other_views(f"names {printable(name)}{what}", cameras, folder, [*exact])
        views[picture.path] = replace(picture, camera=camera)
    left = [name for name, picture in exact.items() if picture.path not in views]
    if left:
        raise _other_views(f"leaves out {_some(left)} of", cameras, folder, [*exact])
    return list(views.values())


def _other_views(what: str, cameras: _Cameras, folder: Path, names: Sequence[str]) -> DataError:
    return DataError(
        f"{cameras.file.name} {what} the group {printable(folder.name)}.",
        where=str(cameras.file),
        found=what,
        expected=f"each of these once: {_some(names)}",
        remedy=f"{REMEDY} Correct it, or take it away.",
    )


def _ungrouped(folder: Path, pictures: Sequence[ListedPicture], place: str) -> DataError:
    names = _some([picture.path.name for picture in pictures])
    return DataError(
        f"With groups, pictures lie in the deepest subfolders alone, not {place}: {names}.",
        where=str(folder),
        found=names,
        expected="a subfolder for each group",
        remedy="Move them into a subfolder of their own, or turn groups off.",
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(map(printable, names[:_NAMED]))}{more}"
