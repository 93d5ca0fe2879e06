"""Where adapters and runs are kept, and how names from a graph become paths."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import folder_paths

from krona_ops.errors import AdapterFileError, ConfigError, DataError, KronaError
from krona_ops.files import read_header
from krona_ops.formats.header import SUFFIXES
from krona_train.run.overview import RunList
from krona_train.run.reading import is_run
from krona_train.run.state import newest_whole
from krona_train.settings.typed_in import safe_name as safe_name
from krona_train.settings.typed_in import typed_path

from . import places
from .public import without_folders

KIND = "krona"
log = logging.getLogger(__name__)
SAMPLES = places.SAMPLES
_listed: tuple[object, list[str]] = (None, [])
"""The host's list of names as it keeps it, and those of them that a menu shows: each of ten thousand runs has files to
leave out."""
_OF_A_RUN = re.compile(r"(^|[/\\\\])(state-\d{8}|encoded|start)\.safetensors$")


def register() -> None:
    """Add the adapter folders to the host's: ``models/krona``, ``output/krona``, and wherever LoRAs are."""
    folders = [os.path.join(folder_paths.models_dir, KIND), os.path.join(folder_paths.get_output_directory(), KIND)]
    for folder in [*folders, *folder_paths.get_folder_paths("loras")]:
        folder_paths.add_model_folder_path(KIND, folder)
    registered, _ = folder_paths.folder_names_and_paths[KIND]
    folder_paths.folder_names_and_paths[KIND] = (registered, set(SUFFIXES))


def judges_folder(name: str) -> Path:
    """The folder of a full path, or of a name inside the host's models folder.

    Raises:
        ConfigError: No folder is named, or it is one that a graph may not name here.
    """
    if not typed_path(name):
        raise ConfigError(
            "No folder with CLIP and DINO is named.",
            where="folder",
            found="nothing",
            expected="a full path, or a name inside ComfyUI's models folder",
            remedy="Write krona_judges, and put them there.",
        )
    path = Path(folder_paths.models_dir) / Path(os.path.expanduser(typed_path(name)))
    return places.allowed(path, name, ConfigError)


def adapter_files() -> list[str]:
    """Names of all adapter files, relative to their folders, as a menu shows them; what else runs keep is left out."""
    global _listed
    names = folder_paths.get_filename_list(KIND)
    kept = folder_paths.filename_list_cache.get(KIND)  # another one when a folder has changed
    if kept is None:
        return [name for name in names if not _is_kept_by_a_run(name)]
    listed = _listed
    if kept is not listed[0]:
        listed = _listed = kept, [name for name in kept[0] if not _is_kept_by_a_run(name)]
    return list(listed[1])


def _is_kept_by_a_run(name: str) -> bool:
    """Whether a file is called as a run's states, encodings and start are, and lies in a run's folder; elsewhere it is
    somebody's adapter."""
    path = folder_paths.get_full_path(KIND, name) if _OF_A_RUN.search(name) else None
    return path is not None and is_run(Path(path).parent)


def is_called_as_a_run_does(name: str) -> bool:
    """Whether a file's name is one of those that runs give to files which no menu shows."""
    return _OF_A_RUN.search(name) is not None


def adapter_path(name: str) -> Path:
    """The file behind a name of `adapter_files`.

    Raises:
        AdapterFileError: There is no such file.
    """
    path = folder_paths.get_full_path(KIND, name) if name else None
    if path is None:
        raise AdapterFileError(
            "There is no such adapter file.",
            where=name or "(no file chosen)",
            found="nothing",
            expected="a .safetensors file in models/krona, models/loras or output/krona",
            remedy="Put the file into models/krona, press R in the browser to refresh the list, and choose it.",
        )
    return Path(path)


def check_adapter(name: str) -> bool | str:
    """For a node's ``validate_inputs``: whether the file is there and whole, or what is wrong with it."""
    try:
        read_header(adapter_path(name))
    except AdapterFileError as error:
        return without_folders(str(error))
    return True


def adapter_fingerprint(name: str) -> tuple[str, int, int]:
    """Changes when the file does, so that the host loads it again."""
    stat = adapter_path(name).stat()
    return (name, stat.st_mtime_ns, stat.st_size)


def forget_list() -> None:
    """Have the menu's names looked up anew.

    The host keeps them by their folders' times, and of two files that come in one moment it sees only the first.
    """
    folder_paths.filename_list_cache.pop(KIND, None)


def lists(path: Path) -> bool:
    """Whether the KronA loaders show a file in their menus."""
    names = [name for name in adapter_files() if Path(name).name == path.name]
    return any(os.path.samefile(adapter_path(name), path) for name in names)


def upload_place() -> Path:
    """Where adapters from the browser go, whether or not it is there yet."""
    return Path(folder_paths.models_dir) / KIND


def upload_folder() -> Path:
    """The folder where adapters from the browser go, made where it is missing."""
    folder = upload_place()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def own_folders() -> list[Path]:
    """The folders that the pack writes into by itself: runs, class pictures, adapters, encodings."""
    adapters = [Path(folder_paths.models_dir) / KIND, Path(folder_paths.get_output_directory()) / "loras"]
    return [runs_folder(), *adapters, Path(folder_paths.get_user_directory()) / KIND / "cache"]


def runs_folder() -> Path:
    """The folder whose folders are the runs."""
    return Path(folder_paths.get_output_directory()) / KIND


def picture_folder(name: str) -> Path:
    """A folder given by its full path, by its name inside the host's input folder, or one of the samples of this pack.

    Raises:
        DataError: It is one that a graph may not name here; the error does not say whether it is there.
    """
    return _of_data(name, os.path.isdir)


def prompt_file(name: str) -> Path:
    """A file of prompts given by its full path, by its name inside the host's input folder, or one of the samples.

    Raises:
        DataError: It is one that a graph may not name here; the error does not say whether it is there.
    """
    return _of_data(name, os.path.isfile)


def _of_data(name: str, is_there: Callable[[Path], bool]) -> Path:
    path = Path(os.path.expanduser(typed_path(name)))
    if path.is_absolute():
        return places.allowed(path, name, DataError)
    parents = (Path(folder_paths.get_input_directory()), SAMPLES)
    candidates = [places.allowed(parent / path, name, DataError) for parent in parents]
    return next((candidate for candidate in candidates if is_there(candidate)), candidates[0])


def wanted_folder(name: str) -> Path:
    """The folder under ``output/krona`` that a new run would have.

    One in use gets a number (`krona_train.run.claim.claim_new`).
    """
    return runs_folder() / (safe_name(name) or time.strftime("run-%Y%m%d-%H%M%S"))


def run_list() -> RunList:
    """All runs, each looked at once and again when it has changed."""
    return _run_list(runs_folder())


@lru_cache(maxsize=4)
def _run_list(parent: Path) -> RunList:
    return RunList(parent)


def runs() -> list[str]:
    """Names of the runs that can go on, the newest first."""
    resumable = [glance for glance in run_list().look() if glance.has_state]
    return [glance.name for glance in sorted(resumable, key=lambda glance: glance.modified, reverse=True)]


def runs_named(name: str) -> list[Path]:
    """The folders of the runs of this name that can go on, numbered ones included, the newest first."""
    wanted = re.compile(rf"{re.escape(safe_name(name))}(-\d+)?")
    parent = runs_folder()
    return [parent / run for run in runs() if safe_name(name) and wanted.fullmatch(run)]


def unfinished(name: str, steps: int) -> str:
    """The newest run of this name and its step, as ``robot@23``, if it has done fewer steps than these; else empty."""
    newest_run = next(iter(runs_named(name)), None)
    if newest_run is None:
        return ""
    try:
        state = newest_whole(newest_run, peek=True)
    except KronaError as error:
        log.info("KronA: %s is passed over: %s", newest_run, error)
        return ""
    return f"{newest_run.name}@{state.step}" if state is not None and state.step < steps else ""


def run_folder(name: str) -> Path:
    """The folder of a run that can go on.

    Raises:
        AdapterFileError: There is no such run, or it has no saved state.
    """
    if name not in runs():
        raise AdapterFileError(
            "There is no run of this name to go on with.",
            where=name,
            found="no saved state",
            expected="a folder in output/krona with a state-….safetensors file",
            remedy="Press R in the browser to refresh the list, and choose again.",
        )
    return runs_folder() / name
