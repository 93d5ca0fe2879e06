"""The shipped workflows: what the editor opens and what the server runs are the same graph."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from krona_train.config import from_yaml
from krona_train.run.job import Job
from tools import tiny_models
from tools.comfyui.server import PACK, Server
from tools.comfyui.workflow import to_api, to_workflow
from tools.demo import graph_of
from tools.generate.workflows import DREAMBOOTH, FOLDER, MADE


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    (base / "models" / "checkpoints").mkdir(parents=True)
    (base / "models" / "checkpoints" / "tiny.safetensors").symlink_to(tiny_models.cached("sd15"))
    with Server(base, packs={"krona": PACK}, cpu=True) as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server):
    return server.client.object_info()


def test_each_shipped_workflow_is_written_down():
    assert {path.name for path in FOLDER.glob("*.json")} == set(MADE)


@pytest.mark.parametrize(("name", "made"), MADE.items())
def test_a_shipped_workflow_is_the_graph_that_is_written_down(object_info, name, made):
    graph, layout, notes = made()
    workflow = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert workflow == json.loads(json.dumps(to_workflow(graph, object_info, layout, notes)))
    posted = to_api(workflow, object_info)
    assert posted.keys() == graph.keys()
    for key, entry in graph.items():
        assert posted[key]["class_type"] == entry["class_type"]
        assert posted[key]["inputs"].items() >= entry["inputs"].items()  # the rest are defaults
        assert None not in posted[key]["inputs"].values()


def test_a_wire_into_a_number_that_can_be_typed_is_of_its_type(object_info):
    graph = {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "2": {"class_type": "KronaFirstFrame", "inputs": {"image": ["1", 0], "frames": ["3", 2]}},
        "3": {"class_type": "KronaCameras", "inputs": {}},
    }
    workflow = to_workflow(graph, object_info, {"1": (0, 0), "2": (0, 0), "3": (0, 0)}, {})
    [frames] = [slot for slot in workflow["nodes"][1]["inputs"] if slot["name"] == "frames"]
    assert frames["type"] == "INT"
    assert to_api(workflow, object_info)["2"]["inputs"]["frames"] == ["3", 2]


def test_the_dreambooth_workflow_draws_previews_and_keeps_the_class(server):
    graph = graph_of(
        DREAMBOOTH,
        server.client,
        {
            "CheckpointLoaderSimple": {"ckpt_name": "tiny.safetensors"},
            "KronaDataset": {"resolution": 64},
            "KronaTrainSettings": {"preview_every": 2, "preview_steps": 2},
            "KronaTrain": {"steps": 4, "name": "dreambooth"},
        },
    )
    result = server.client.run(graph)
    folder = server.base / "output" / "krona" / "dreambooth"
    training = from_yaml((folder / "run.yaml").read_text(encoding="utf-8"), Job).training
    assert (training.prior.source, training.prior.weight) == ("model", 1.0)
    assert {path.name for path in (folder / "previews").iterdir()} == {
        f"step-{step:06}-{number}.png" for step in (0, 2, 4) for number in (1, 2, 3)
    }
    saved = [result.files(node) for node in ("7", "8")]
    assert [len(files) for files in saved] == [1, 1]
    assert result.outputs["6"]["files"]


def demo(out, **settings):
    env = {k: v for k, v in os.environ.items() if k not in ("CHECKPOINT", "IMAGES", "PROMPT")}
    env |= {"STEPS": "3", "OUT": str(out), **settings}
    done = subprocess.run([sys.executable, PACK / "tools" / "demo.py"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("adapter.safetensors", "loss.png", "dataset.png", "before.png", "after.png", "side-by-side.png"):
        assert (out / name).stat().st_size > 1000
        assert str(out / name) in done.stdout
    return done.stdout


def test_the_demo_runs_to_its_end_and_says_where_everything_is(tmp_path):
    printed = demo(tmp_path / "out")
    assert "small world" in printed
    assert str(tmp_path / "out" / "one-picture.png") in printed
    strip = np.asarray(Image.open(tmp_path / "out" / "one-picture.png"))
    pictures = [strip[:, 4 * 66 * n : 4 * (66 * n + 64)] for n in range(5)]
    assert all(np.abs(a.astype(float) - b).mean() > 5 for n, a in enumerate(pictures) for b in pictures[:n])
    assert Image.open(tmp_path / "out" / "after.png").size == (64, 64)
    assert Image.open(tmp_path / "out" / "side-by-side.png").width > 4 * 192


def test_the_demo_takes_a_checkpoint_of_ones_own(tmp_path):
    (tmp_path / "pictures").mkdir()  # one, because they are encoded at the model's own 512 × 512
    shutil.copy(PACK / "samples" / "krobot" / "beach.jpg", tmp_path / "pictures")
    mine = {"CHECKPOINT": str(tiny_models.cached("sd15")), "IMAGES": str(tmp_path / "pictures"), "STEPS": "2", "SAMPLER_STEPS": "1"}
    printed = demo(tmp_path / "out", **mine)
    assert "small world" not in printed
    assert not (tmp_path / "out" / "one-picture.png").exists()
    assert Image.open(tmp_path / "out" / "after.png").size == (512, 512)


@pytest.mark.parametrize(("name", "value"), [("CHECKPOINT", "nowhere.safetensors"), ("IMAGES", "nowhere")])
def test_the_demo_refuses_what_is_not_there_at_once(tmp_path, name, value):
    env = {**os.environ, name: str(tmp_path / value), "OUT": str(tmp_path)}
    done = subprocess.run([sys.executable, PACK / "tools" / "demo.py"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert str(tmp_path / value) in done.stderr
    assert Path(tmp_path / "comfyui").exists() is False
