"""Which ComfyUI's code is run: one that the user names, never one that only a file names."""

import sys
from pathlib import Path

import pytest

from krona_ops.errors import ConfigError
from krona_train.comfyui.start import find_comfyui


@pytest.fixture
def comfyuis(tmp_path, monkeypatch):
    """Two folders that look like ComfyUI; the environment names none."""
    for name in ("mine", "theirs"):
        (tmp_path / name / "comfy").mkdir(parents=True)
        (tmp_path / name / "comfy" / "sd.py").touch()
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setenv("PWD", "/")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "mine", tmp_path / "theirs"


def test_a_comfyui_that_only_the_file_names_is_asked_for(comfyuis, monkeypatch):
    mine, theirs = comfyuis
    before = list(sys.path)
    with pytest.raises(
        ConfigError, match=r"comfyui: The file names the ComfyUI in .*theirs, whose code would be run\. .*--comfyui"
    ):
        find_comfyui("", str(theirs))
    monkeypatch.setenv("COMFYUI_PATH", str(mine))
    with pytest.raises(ConfigError, match=r"The file names the ComfyUI in .*theirs") as error:
        find_comfyui("", str(theirs))
    assert error.value.expected == str(mine)
    assert sys.path == before


def test_the_one_that_the_user_names_is_taken_whatever_the_file_says(comfyuis, monkeypatch):
    mine, theirs = comfyuis
    assert find_comfyui(str(mine), str(theirs)) == mine
    assert find_comfyui(str(theirs), "") == theirs
    assert sys.path[:2] == [str(theirs), str(mine)]
    monkeypatch.setenv("COMFYUI_PATH", str(theirs))
    assert find_comfyui("", str(theirs)) == theirs
    assert find_comfyui("", str(theirs / ".." / "theirs")) == theirs
    assert find_comfyui("", "") == theirs


def test_a_folder_that_is_none_is_not_found(comfyuis, monkeypatch):
    mine, _ = comfyuis
    for named, of_the_file in ((str(mine.parent), ""), ("", str(mine.parent)), ("", "")):
        with pytest.raises(ConfigError, match=r"ComfyUI is not found\. Write comfyui: "):
            find_comfyui(named, of_the_file)


def test_the_folder_that_the_shell_is_in_counts_only_where_it_leads_to_this_pack(comfyuis, monkeypatch):
    mine, theirs = comfyuis
    monkeypatch.setenv("PWD", str(theirs / "deeper"))
    with pytest.raises(ConfigError, match="ComfyUI is not found"):
        find_comfyui("")
    pack = Path(__file__).resolve().parents[3]
    (mine / "custom_nodes").mkdir()
    (mine / "custom_nodes" / "krona").symlink_to(pack, target_is_directory=True)
    monkeypatch.setenv("PWD", str(mine / "custom_nodes" / "krona" / "docs"))
    assert find_comfyui("", str(mine)) == mine
