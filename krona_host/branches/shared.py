"""Files of branches, in memory once for all models that have them on."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakValueDictionary

from krona_ops import Adapter, load

_held: WeakValueDictionary[tuple[str, int, int], Adapter] = WeakValueDictionary()
"""By path, size and time. It keeps nothing: what no model and no output of a graph holds any more is gone from it."""


def load_shared(path: Path) -> Adapter:
    """`krona_ops.load`, or the adapter of the same file as it is now that something holds already.

    Raises:
        AdapterFileError, FormatError: As `krona_ops.load`.
    """
    try:
        stat = path.stat()
    except OSError:
        return load(path)  # which says what is wrong with it
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    adapter = _held.get(key)
    if adapter is None:
        adapter = _held[key] = load(path)
    return adapter
