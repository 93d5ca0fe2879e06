"""A ComfyUI that is too old is refused in one sentence; the one at hand is not."""

import asyncio
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEW = frozenset({"has_intermediate_output"})


@pytest.fixture
def supported(comfy):
    return importlib.import_module("krona_pack.nodes.supported")


@pytest.mark.parametrize(
    "version", ["0.20.1", "0.20.1.dev3", "0.21", "0.27.0", "0.30.0", "v0.33.0", "1.0", "0.100.0", "0.30.0+abc"]
)
def test_the_oldest_promised_and_newer_ones_are_taken(supported, version):
    supported.require_supported(version, NEW)


@pytest.mark.parametrize("version", ["0.20.0", "0.20", "0.18.2", "0.16.3", "0.3.76", "v0.2.7", "0.9.2rc1"])
@pytest.mark.parametrize("features", [NEW, frozenset()])
def test_an_older_one_is_refused_in_one_sentence(supported, version, features):
    with pytest.raises(supported.ComfyUITooOld) as caught:
        supported.require_supported(version, features)
    sentence = str(caught.value)
    assert sentence == f"KronA needs ComfyUI 0.20.1 or newer and this is ComfyUI {version}: update ComfyUI, then start it again."


@pytest.mark.parametrize("version", ["", "unknown", "main-3f2a"])
def test_a_host_without_a_version_is_judged_by_what_it_has(supported, version):
    supported.require_supported(version, NEW)
    with pytest.raises(supported.ComfyUITooOld, match=r"^KronA needs ComfyUI 0\.20\.1 or newer and this is .*: update ComfyUI"):
        supported.require_supported(version, frozenset({"node_id", "inputs"}))


def test_the_host_at_hand_is_taken_by_both(supported):
    assert supported.numbers(supported.host_version()) >= supported.numbers(supported.OLDEST)
    assert supported.FEATURE in supported.host_features()


def test_the_entry_point_looks_before_it_loads(comfy, monkeypatch):
    version = importlib.import_module("comfyui_version")
    monkeypatch.setattr(version, "__version__", "0.18.2")
    entry = importlib.import_module("krona_pack").comfy_entrypoint
    with pytest.raises(RuntimeError, match=r"this is ComfyUI 0\.18\.2: update ComfyUI"):
        asyncio.run(entry())


def test_everybody_is_promised_the_same_oldest_comfyui(supported):
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'requires-comfyui = ">={supported.OLDEST}"' in project
    assert f"(ComfyUI {supported.OLDEST} or newer)" in (ROOT / "README.md").read_text("utf-8")
