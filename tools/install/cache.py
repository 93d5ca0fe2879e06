"""The folder where installs live, shared by every clone, and the small files in it that say what is whole."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from tools.install.errors import HostError

MARKER = "ready.json"


def cache_folder() -> Path:
    """``KRONA_CACHE``, or ``krona-comfyui`` in the user's cache folder of this system. Creates nothing."""
    if os.environ.get("KRONA_CACHE"):
        return Path(os.environ["KRONA_CACHE"]).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else _home() / "AppData" / "Local") / "krona-comfyui"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "krona-comfyui"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path here is to be ignored.
    return (Path(base) if os.path.isabs(base) else _home() / ".cache") / "krona-comfyui"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise HostError("This user has no home folder. Set KRONA_CACHE to a folder that can be written to.") from None


def make_folder(folder: Path) -> Path:
    """Create ``folder`` and see that it can be written to.

    Raises:
        HostError: It cannot be; names the folder and the remedy.
    """
    probe = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise HostError(
            f"Cannot write to the cache folder {folder}: {reason}.\n"
            "Set KRONA_CACHE to a folder that can be written to (about 7 GB are needed)."
        ) from None
    return folder


def digest(value: object) -> str:
    """A short name for a JSON value: equal values, equal names."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_marked(folder: Path, recipe: object) -> bool:
    """Whether ``folder`` was finished, and with exactly this recipe."""
    try:
        return json.loads((folder / MARKER).read_text("utf-8")) == recipe
    except (OSError, ValueError):
        return False


def mark(folder: Path, recipe: object) -> None:
    """Write the marker that makes ``folder`` usable: in one step, and always last."""
    partial = folder / (MARKER + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(recipe, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / MARKER)


def unmark(folder: Path) -> None:
    """Take the marker away: ``folder`` is about to change, or has been found broken."""
    (folder / MARKER).unlink(missing_ok=True)
