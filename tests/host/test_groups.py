"""Groups in the real host: the node, what is encoded and packed, a training on them, and one from a file."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import graphs
import numpy as np
import pytest
import torch
import yaml
from graphs import link, node
from PIL import Image

from krona_ops import TargetRule, load
from krona_ops.errors import ConfigError, DataError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.batches.camera import Camera
from krona_train.batches.examples import Group
from krona_train.batches.fingerprint import fingerprint
from krona_train.config import DataConfig, ValidationConfig
from krona_train.data.choices import PictureFiles
from krona_train.data.source import read_pictures
from tools import tiny_models
from tools.comfyui.client import ClientError
from tools.comfyui.server import RunFailed

ROOT = Path(__file__).resolve().parents[2]
VIEWS = [{"file": f"{name}.png", "azimuth": angle, "elevation": 5} for name, angle in (("side", 90), ("front", 0))]
GUARD = 300.0
"""Seconds; only a failing test waits for them."""


def make(folder, groups=("cup", "fox", "owl"), names=("front", "side"), size=(64, 64)):
    """A folder of groups, each picture of its own noise."""
    for number, group in enumerate(groups):
        (folder / group).mkdir(parents=True)
        for place, name in enumerate(names):
            rng = np.random.default_rng(10 * number + place)
            Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(folder / group / f"{name}.png")
    return folder


@pytest.fixture
def folder(tmp_path):
    """Three groups of two pictures, with cameras."""
    place = make(tmp_path / "things")
    (place / "cameras.json").write_text(json.dumps(VIEWS))
    return place


# The node


@pytest.fixture(scope="module")
def dataset_node(comfy):
    from krona_pack.nodes.dataset import KronaDataset

    return KronaDataset


def run(dataset_node, folder="", **changes):
    inputs = {
        "prompt": "a photo of a thing", "captions": "from .txt files, else the prompt", "resolution": 64, "groups": True, **changes
    }  # fmt: skip
    return dataset_node.execute(folder=str(folder), **inputs).args


def test_subfolders_and_batches_are_groups(dataset_node, folder):
    images = [torch.rand(3, 64, 64, 3), torch.rand(1, 64, 64, 3), torch.rand(2, 32, 64, 3)]
    data, sheet = run(dataset_node, folder, images=images, captions="from .txt files, else from folder names")
    assert [(group[0].group.name, len(group)) for group in data.groups] == [
        *(("cup", 2), ("fox", 2), ("owl", 2), ("batch 1", 3), ("batch 3", 2))
    ]
    assert [picture.camera for picture in data.groups[1]] == [Camera(90, 5), Camera(0, 5)]
    assert [picture.caption for picture in data.groups[1]] == ["fox", "fox"]
    assert data.source is None
    assert [notice.names for notice in data.notices] == [("picture 4",)]
    assert sheet.ndim == 4
    data, _ = run(dataset_node, folder)
    assert data.source.groups
    assert len(data.groups) == 3


def test_groups_that_cannot_be_are_refused_when_the_node_runs(dataset_node, folder):
    with pytest.raises(DataError, match="the pictures from the graph: None of the 2 groups has two pictures"):
        run(dataset_node, images=[torch.rand(1, 64, 64, 3)] * 2)
    with pytest.raises(ConfigError, match="The pictures of a group cannot be cut in several places"):
        run(dataset_node, folder, crops=2)
    with pytest.raises(ConfigError, match="Views with cameras cannot be mirrored"):
        run(dataset_node, folder, flip=True)
    (folder / "cameras.json").write_text("[]")
    with pytest.raises(DataError, match=r"cameras\.json leaves out front\.png, side\.png of the group cup"):
        run(dataset_node, folder)
    (folder / "cameras.json").unlink()
    data, _ = run(dataset_node, folder, flip=True)
    assert len(data.groups) == 3
    with pytest.raises(DataError, match="There are no pictures in the folder"):
        run(dataset_node, folder, groups=False)
    Image.new("RGB", (64, 64)).save(folder / "lost.png")
    with pytest.raises(DataError, match=r"not in the folder itself: lost\.png"):
        run(dataset_node, folder)


def test_before_anything_runs_a_folder_is_right_that_is_right_with_groups_or_without(dataset_node, folder, tmp_path):
    """The host asks about the folder alone, so that it reports one mistake once."""
    assert dataset_node.validate_inputs(folder=str(folder)) is True
    (tmp_path / "bare" / "deep").mkdir(parents=True)
    assert "There are no pictures in the folder" in dataset_node.validate_inputs(folder=str(tmp_path / "bare"))
    assert "There is no such folder" in dataset_node.validate_inputs(folder="nowhere")


def test_changes_in_groups_are_noticed(dataset_node, folder, tmp_path):
    others = make(tmp_path / "others", names=("a",), groups=("1_dog",))

    def seen(groups=True):
        return dataset_node.fingerprint_inputs(folder=[str(folder)], class_folder=[str(others)], groups=[groups], prompt=["x"])

    before = seen()
    assert seen() == before
    for path in (folder / "fox" / "front.txt", folder / "fox" / "notes.md", folder / "owl" / "cameras.json", others / "1_dog" / "a.txt"):
        path.write_bytes(json.dumps(VIEWS).encode())
        assert seen() != before
        before = seen()
    Image.new("RGB", (64, 64)).save(folder / "1_dog.png")
    flat = seen(groups=False)
    (folder / "fox" / "front.txt").write_bytes(b"longer than before" * 99)
    assert seen(groups=False) == flat


# Encoded, packed, trained on


@pytest.fixture(scope="module")
def models(comfy):
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("sd15")))[:3]


SETTINGS = TrainConfig(
    steps=4,
    batch_size=2,
    adapter=AdapterConfig(targets=(TargetRule((8, 4), ("k",)),)),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    validation=ValidationConfig(every=2, pictures=1, levels=1),
    data=DataConfig(resolution=64, bucket_step=8),
)


def prepared(models, folder, tmp_path, groups=True, **settings):
    from krona_train.session.material import Places, prepare

    config = replace(SETTINGS, data=replace(SETTINGS.data, **settings))
    pictures = read_pictures(PictureFiles(str(folder), "a photo of a thing", groups=groups), config.data)
    with torch.inference_mode():
        return prepare(*models, pictures, config, Places(tmp_path / "cache", tmp_path / "class"), lambda *progress: None), config


def test_groups_and_cameras_come_back_from_the_disk(models, folder, tmp_path):
    from krona_train.session.material import Material

    material, _ = prepared(models, folder, tmp_path)
    back = Material.load(material.save(tmp_path / "encoded.safetensors"))
    assert fingerprint(back.items) == fingerprint(material.items)
    for ours, theirs in zip(back.items, material.items, strict=True):
        assert isinstance(ours, Group)
        assert (ours.take, ours.repeats, ours.weight, ours.cuts) == (0, 1, None, 1)
        for one, other in zip(ours.members, theirs.members, strict=True):
            assert torch.equal(one.forms[0].latent, other.forms[0].latent)
            assert one.forms[0].camera == other.forms[0].camera
        assert [member.forms[0].camera for member in ours.members] == [Camera(90, 5), Camera(0, 5)]


def test_groups_and_cameras_are_part_of_what_a_run_goes_on_with(models, folder, tmp_path):
    from krona_train.session.training import HostTraining

    prints = {}
    material, config = prepared(models, folder, tmp_path)
    prints["cameras"] = HostTraining(*models, material, config, "").fingerprints()
    (folder / "cameras.json").unlink()
    material, config = prepared(models, folder, tmp_path)
    prints["groups"] = HostTraining(*models, material, config, "").fingerprints()
    for name in ("cup", "fox", "owl"):
        (folder / name).rename(folder / f"1_{name}")
    material, config = prepared(models, folder, tmp_path, groups=False)
    prints["pictures"] = HostTraining(*models, material, config, "").fingerprints()
    assert len({base for base, _ in prints.values()}) == 1
    assert len({data for _, data in prints.values()}) == 3


def test_a_training_on_groups_keeps_whole_ones_out_and_goes_on_to_the_same_bits(models, folder, tmp_path):
    from krona_train.run.state import TrainState, newest
    from krona_train.session.training import HostTraining

    (folder / "cameras.json").unlink()
    material, config = prepared(models, folder, tmp_path, flip=True, caption_dropout=0.2)
    assert [item.cuts for item in material.items] == [2, 2, 2]
    whole, _ = HostTraining(*models, material, config, "").run(tmp_path / "whole")
    short = replace(config, steps=2)
    HostTraining(*models, material, short, "").run(tmp_path / "parts")
    state = TrainState.load(newest(tmp_path / "parts"))
    again, _ = HostTraining(*models, material, config, "").run(tmp_path / "parts", resume=state)
    assert again.layers == whole.layers
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row["event"] == "validation"]) >= 2
    too_many = replace(config, validation=replace(config.validation, pictures=3))
    with pytest.raises(DataError, match="Keeping 3 of 3 groups out for the validation leaves none"):
        HostTraining(*models, material, too_many, "").run(tmp_path / "none")


# In a graph, and from a file


def test_a_graph_trains_on_groups_and_its_run_says_so(server):
    folder = make(server.base / "input" / "things", names=("1", "2", "10"))
    Image.new("RGB", (64, 64)).save(make(folder / "more", groups=("single",), names=()) / "single" / "a.png")

    def graph(**changes):
        return {
            "1": node("KronaWorldLoader"),
            "2": graphs.dataset(resolution=0, folder="things", **changes),
            "3": graphs.train(name="of groups", steps=1, batch_size=1, factor_out=4, factor_in=2),
            "8": node("PreviewImage", images=link(2, 1)),
        }

    server.client.run(graph(groups=True))
    path = server.base / "output" / "krona" / "of groups"
    settings = yaml.safe_load((path / "run.yaml").read_text())
    assert settings["pictures"] | {"folder": "", "prompt": ""} == {
        "folder": "", "prompt": "", "captions": "files", "trigger": "", "class_prompt": "", "class_folder": "", "class_count": 0,
        "repeats": 1, "groups": True, "prompts": [], "prompts_file": "", "prompt_count": 0, "prompt_seed": 0, "width": 0, "height": 0,
    }  # fmt: skip
    said = "the only picture of its group, and groups have two or more: more/single/a.png"
    assert said in (path / "metrics.jsonl").read_text()
    assert said in server.log()
    again = server.client.run(graph(groups=True))
    assert {"2", "3"} <= set(again.cached)
    with pytest.raises(RunFailed, match="There are no pictures in the folder"):
        server.client.run(graph())
    shutil.rmtree(folder)
    with pytest.raises(ClientError, match="There is no such folder"):
        server.client.run(graph(groups=True))


def test_a_file_trains_on_groups(comfy, folder, tmp_path):
    from krona_train.session.material import Material

    (tmp_path / "tiny.safetensors").symlink_to(tiny_models.cached("sd15"))
    (tmp_path / "run.yaml").write_text(
        "name: things\noutput: runs\nmodel: {checkpoint: tiny.safetensors}\n"
        "pictures: {folder: things, prompt: a thing, groups: true}\n"
        "training: {steps: 1, data: {resolution: 64}, adapter: {targets: [{factors: [8, 4], projections: [k]}]}}\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "krona_train", tmp_path / "run.yaml", "--", "--cpu"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=GUARD, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "things"
    assert yaml.safe_load((run / "run.yaml").read_text())["pictures"]["groups"] is True
    material = Material.load(run / "encoded.safetensors")
    assert [[member.forms[0].camera for member in group.members] for group in material.items] == [[Camera(90, 5), Camera(0, 5)]] * 3
    assert load(run / "adapter.safetensors").layers
