"""Encoded pictures and captions on disk, for the next run: one safetensors file per entry, read memory-mapped.

An entry's name is a hash of everything that it depends on, so an entry is never out of date, only unused. Runs may
share a folder: entries appear whole or not at all, and what another run has removed is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from krona_ops.atomic import remove, sweep
from krona_ops.border import Border
from krona_ops.checksum import checksum as _checksum
from krona_ops.errors import AdapterFileError, KronaError
from krona_ops.files import load_tensors, read_header, save_tensors

log = logging.getLogger(__name__)

VERSION = 2
"""Of the entries and of how pictures are cut: raised when either changes, so that old entries are no longer used."""
LIMIT_BYTES = 20_000_000_000
"""The size of a cache's folder, unless it is made with another one."""
MAPPED_AT_MOST = 20_000
"""Entries of a run that stay mapped; further ones are copied. Linux gives a process 65,530 mappings."""
_SECONDS_OF_A_WRITE = 3600
_SCALARS = (str, int, float, bool, type(None))
_CHECKSUM, _VALUES = "krona.crc32", "krona.values"
"""Where an entry's metadata has them."""

Entry = tuple[dict[str, Tensor], dict[str, object]]
"""Named tensors; named texts, numbers and ``None``."""


def entry_key(*parts: object) -> str:
    """The name of an entry that depends on these values, told apart by their ``repr``."""
    return hashlib.sha256(repr((VERSION, *parts)).encode()).hexdigest()


def can_hold(values: Mapping[str, object]) -> bool:
    """Whether an entry can keep all of the values: each is a tensor, a text, a number or ``None``."""
    return all(isinstance(value, (Tensor, *_SCALARS)) for value in values.values())


class Cache:
    """A folder of entries.

    Args:
        folder: Made when the first entry is written.
        limit_bytes: `prune` keeps the folder below this size.
    """

    def __init__(self, folder: str | os.PathLike[str], limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self._used: set[str] = set()
        self._failed = False

    def path(self, key: str) -> Path:
        """The file of an entry, whether it exists or not."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> Entry | None:
        """An entry, its tensors mapped from the file; ``None`` where there is none, or where it is damaged,
        which is logged."""
        path = self.path(key)
        if not path.is_file():
            return None
        for is_last in (False, True):
            try:
                tensors, values = _read(path)
                break
            except KronaError as error:
                if not path.exists():  # another run has removed it meanwhile
                    return None
                if is_last:  # at first it may have been removed and written again
                    log.warning("KronA: an entry of the cache is damaged and is made again: %s", error)
                    return None
        self._used.add(key)
        try:
            os.utime(path)  # `prune` goes by when an entry was last used
        except OSError as error:
            log.debug("KronA: %s cannot be marked as used: %s", path, error)
        if len(self._used) > MAPPED_AT_MOST:
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        return tensors, values

    def put(self, key: str, tensors: Mapping[str, Tensor], values: Mapping[str, object] | None = None) -> None:
        """Write an entry. Where the disk is full or may not be written, the log warns once and nothing is raised."""
        # Cloned, because a file cannot hold views of one another.
        own = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        text = json.dumps(dict(values or {}))
        metadata = {_VALUES: text, _CHECKSUM: _checksum(own, text)}
        self._used.add(key)
        try:
            save_tensors(own, self.path(key), metadata)
        except AdapterFileError as error:
            if not self._failed:
                log.warning("KronA: what is encoded cannot be kept for the next run: %s", error)
            self._failed = True

    def prune(self) -> int:
        """Remove what was not used for the longest time until the folder is below its limit; returns the bytes removed.

        What this run has used stays, whatever its size.
        """
        entries = []
        for folder in _folders(self.folder):
            sweep(folder)
            for path in folder.glob("*.*"):
                try:
                    stat = path.stat()
                except OSError:
                    continue  # another run was faster
                if path.suffix == ".safetensors":
                    entries.append((stat.st_mtime_ns, stat.st_size, path))
                elif path.suffix == ".part" and time.time() - stat.st_mtime > _SECONDS_OF_A_WRITE:
                    remove(path)  # of earlier versions, which had other names for them
        excess = sum(size for _, size, _ in entries) - self.limit_bytes
        removed = 0
        for _, size, path in sorted(entries):
            if removed >= excess:
                break
            if path.stem not in self._used and remove(path):
                removed += size
        if removed:
            log.info(
                "KronA: removed %.1f MB of encoded pictures and captions that were not used lately.", removed / 1e6
            )
        return removed


def _read(path: Path) -> Entry:
    """The entry in a file.

    Raises:
        AdapterFileError: The entry is damaged, or has gone.
    """
    metadata, tensors = read_header(path).metadata, load_tensors(path)
    text = metadata.get(_VALUES, "")
    # Checksums of entries of earlier versions leave the text out.
    if metadata.get(_CHECKSUM) not in (_checksum(tensors, text), _checksum(tensors)):
        raise AdapterFileError(
            "Its values have changed.",
            where=str(path),
            found="other values than the checksum's",
            expected="what was written",
            remedy="Delete the file if this comes again; it is made anew.",
        )
    border = Border(str(path), AdapterFileError)
    values = border.mapping(border.json(text, "its values", allow_nan=True), "its values")
    if not all(isinstance(value, _SCALARS) for value in values.values()):
        raise border.refused("One of its values", values, "a text or a number")
    return tensors, values


def _folders(parent: Path) -> list[Path]:
    """The subfolders of a cache's folder; none where it cannot be read, as other runs may be removing it."""
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        log.debug("KronA: the cache %s cannot be searched: %s", parent, error)
        return []
