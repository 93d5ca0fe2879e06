"""What LoRA managers read beside an adapter's file, because they do not look into it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from krona_ops import Adapter
from krona_ops.formats.metadata import manager_entry

log = logging.getLogger(__name__)


def write(path: Path, adapter: Adapter, picture: bytes | None = None) -> None:
    """Write ``<name>.metadata.json``, and the picture, beside a new adapter; what is there already stays.

    A folder that cannot be written to is logged, and no error.

    Args:
        path: The adapter's file, whole.
        adapter: What is in it, with its metadata.
        picture: A JPEG.
    """
    metadata, shown = path.with_suffix(".metadata.json"), path.with_suffix(".jpeg")
    try:
        if picture is not None and not shown.exists():
            shown.write_bytes(picture)
        if not metadata.exists():
            digest = _sha256(path)
            stat = path.stat()
            entry = manager_entry(
                adapter,
                path=path.as_posix(),
                size=stat.st_size,
                modified=stat.st_mtime,
                sha256=digest,
                picture=shown.as_posix() if shown.exists() else "",
            )
            text = json.dumps(entry, indent=2, ensure_ascii=False)
            partial = metadata.with_name(f"{metadata.name}.{os.getpid()}.partial")
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, metadata)
    except OSError as error:
        log.warning("KronA: nothing for LoRA managers could be written beside %s: %s", path, error)


def _sha256(path: Path) -> str:
    """Of a file's content, read by the megabyte (`hashlib.file_digest` is younger than Python 3.10)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
