"""What processes that died have left in the folders of all runs, swept when a program starts: nobody may use those
folders again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from krona_ops.atomic import sweep

log = logging.getLogger(__name__)
_DEEPEST = 2
"""Below a folder of runs are runs, and in them previews; below the cache are folders of entries."""


def sweep_below(parents: Iterable[Path]) -> int:
    """Sweep folders and the folders below them; returns how many files were removed. What cannot be searched is
    left."""
    removed = 0
    level = list(parents)
    for depth in range(_DEEPEST + 1):
        removed += sum(map(sweep, level))
        level = [] if depth == _DEEPEST else [inside for folder in level for inside in _folders(folder)]
    if removed:
        log.info("KronA: removed %d unfinished files that were left when a program was killed.", removed)
    return removed


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        log.debug("KronA: %s cannot be searched: %s", folder, error)
        return []
