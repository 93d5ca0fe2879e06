"""Graphs and runs of before open and go on: fixtures that old commits made (`old/make_graphs.py`, `old/make_run.py`).

`b76559f` is the first commit with an example, `f317e4e` stands before `embedded_guidance` and the rooms, and `0a0a05a`
before kinds of layer and objectives.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import arithmetic
import graphs
import pytest
import torch

from krona_ops import load
from krona_train.run.overview import RunList
from krona_train.run.state import newest_whole
from tools import tiny_models
from tools.comfyui.workflow import sockets, widgets

ROOT = Path(__file__).resolve().parents[2]
OLD = Path(__file__).parent / "old"
GRAPHS = sorted(OLD.glob("*/graphs/*.json"), key=lambda path: (path.parts[-3], path.stem))
RUNS = sorted(path.parent.name for path in OLD.glob("*/robot"))
ADAPTERS = ("robot_00001_.safetensors", "style_00001_.safetensors", "light_00001_.safetensors")
"""What the examples' loaders name."""
SMALL = {
    "CheckpointLoaderSimple": {"ckpt_name": graphs.CHECKPOINT},
    "KSampler": {"steps": 1},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KronaTrain": {"steps": 2},
    "KronaDataset": {"resolution": 64, "folder": "krobot"},
    "KronaTrainSettings": {"preview_every": 1, "preview_steps": 1, "preview_width": 64, "preview_height": 64},
}
"""What lets the tiny model do in a second what a real one does in minutes."""
LONGEST = 300.0
"""Seconds; only a failing test waits for them."""


def old(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def object_info(server):
    return server.client.object_info()


def filled(node, info):
    """A node's values by name as the editor opens it: in the order of its widgets, else the default."""
    values = iter(node.get("widgets_values", []))
    settings = {}
    for section in ("required", "optional"):
        for name, (_, *options) in info["input"].get(section, {}).items():
            settings[name] = options[0] if options else {}
    named = {}
    for name, has_control in widgets(info):
        named[name] = next(values, settings[name].get("default"))
        if has_control:
            next(values, None)
    assert list(values) == [], "values that no widget takes"
    return named


@pytest.mark.parametrize("commit", ["b76559f", "f317e4e", "0a0a05a"])
def test_inputs_and_outputs_of_before_are_there_in_their_order_and_new_ones_have_a_default(object_info, commit):
    for node, before in old(OLD / commit / "nodes.json").items():
        info = object_info[node]
        now = {name: kind for name, kind, _ in sockets(info)}
        taken = [name for name, _ in widgets(info)]
        assert taken[: len(before["widgets"])] == before["widgets"], node
        wires = {name: kind for name, kind in before["inputs"].items() if name not in before["widgets"]}
        assert wires.items() <= now.items(), node
        assert info["output"][: len(before["outputs"])] == before["outputs"], node
        required = info["input"].get("required", {})
        for name in required.keys() - before["inputs"].keys():
            pytest.fail(f"{node}.{name} is new and required: a graph of {commit} would be refused")


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_values_of_an_old_workflow_fall_into_the_inputs_that_they_were_for(object_info, path):
    fixture = old(path)
    for node in fixture["workflow"]["nodes"]:
        then = fixture["graph"][str(node["id"])]["inputs"]
        now = filled(node, object_info[node["type"]])
        both = now.keys() & then.keys()
        assert {name: now[name] for name in both} == {name: then[name] for name in both}
        new = {name: value for name, value in now.items() if name not in then}
        assert None not in new.values(), new
        wired = {slot["name"].partition(".")[0] for slot in node.get("inputs", []) if slot.get("link") is not None}
        assert wired <= {name for name, *_ in sockets(object_info[node["type"]])} | now.keys()


@pytest.fixture(scope="module")
def adapters(server):
    """The adapter that the examples' loaders name, under all of its names. What is made here goes again: others count runs and pictures."""
    folder = server.base / "output" / "krona"
    before = set(folder.rglob("*"))
    graph = {
        "1": graphs.checkpoint(graphs.CHECKPOINT),
        "2": graphs.dataset(folder="krobot"),
        "3": graphs.train(steps=1, name="for old graphs"),
    }
    server.client.run(graph)
    for name in ADAPTERS:
        shutil.copy(folder / "for old graphs" / "adapter.safetensors", folder / name)
    yield folder
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):  # what is in a folder before the folder
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_an_old_graph_runs_to_its_end(server, adapters, path):
    graph = old(path)["graph"]
    for entry in graph.values():
        entry["inputs"] |= SMALL.get(entry["class_type"], {})
    result = server.client.run(graph)
    assert result.status == "success"
    kinds = ("KronaSave", "KronaTrain", "SaveImage")
    endings = {key for key, entry in graph.items() if entry["class_type"] in kinds}
    assert endings
    assert endings <= result.outputs.keys()


@pytest.fixture(params=RUNS)
def run(request, tmp_path):
    """A copy of an old run that was stopped after five of thirty steps, and where what its own code made of it is."""
    kept = OLD / request.param
    place = tmp_path / "runs"
    shutil.copytree(kept / "robot", place / "robot")
    settings = place / "robot" / "run.yaml"
    (tmp_path / "tiny.safetensors").symlink_to(tiny_models.cached("sd3"))
    text = settings.read_text(encoding="utf-8").replace("/place/of/the/run/ComfyUI", os.environ["COMFYUI_PATH"])
    settings.write_text(text.replace("/place/of/the/run", str(tmp_path)), encoding="utf-8")
    return place / "robot", kept


def rows(path):
    every = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [row for row in every if row["event"] in ("step", "validation")]


def test_an_old_run_goes_on_to_the_result_that_its_own_code_gave(run):
    folder, kept = run
    [glance] = RunList(folder.parent).look()
    assert (glance.name, glance.is_run, glance.has_state) == ("robot", True, True)
    assert (glance.standing.step, glance.standing.steps, glance.standing.end) == (5, 30, "stopped")
    assert glance.result == "adapter-stopped-at-000005.safetensors"
    assert newest_whole(folder).step == 5
    done = subprocess.run(
        [sys.executable, "-m", "krona_train", folder / "run.yaml", "--resume", "--", "--cpu"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=LONGEST, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [glance] = RunList(folder.parent).look()
    assert (glance.standing.step, glance.standing.end, glance.result) == (30, "finished", "adapter.safetensors")
    ours, theirs = load(folder / "adapter.safetensors"), load(kept / "expected.safetensors")
    our_rows, their_rows = rows(folder / "metrics.jsonl"), rows(kept / "expected.jsonl")
    assert [(row["event"], row["step"]) for row in our_rows] == [(row["event"], row["step"]) for row in their_rows]
    made_on = old(kept / "arithmetic.json")
    if (made_on["torch"], made_on["fingerprint"]) == (torch.__version__, arithmetic.fingerprint()):
        assert dict(ours.layers) == dict(theirs.layers)
        for mine, other in zip(our_rows, their_rows, strict=True):
            assert mine.get("loss") == other.get("loss")
            assert mine.get("validation") == other.get("validation")
    else:  # another machine rounds otherwise, and thirty steps carry that on
        assert ours.layers.keys() == theirs.layers.keys()
        for name, delta in theirs.layers.items():
            assert (ours.layers[name].dense() - delta.dense()).norm() < 1e-2 * delta.dense().norm()
