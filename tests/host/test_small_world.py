"""The pack's own model and the evaluation node, in the real server: load, train, draw, judge."""

import re
import shutil

import graphs
import pytest
from graphs import link

from tools.comfyui.server import PACK, RunFailed


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module")
def pictures(server):
    """A picture of the sample subject in the host's input folder."""
    shutil.copy(PACK / "samples" / "world" / "robot" / "4.png", server.base / "input" / "small-robot.png")


def judged(**changes):
    """Nodes that judge what `graphs.render` draws; ids from 30."""
    inputs = {"prompts": "a photo of sks robot", "trigger": "sks", "judges": "small world", "folder": "krona_judges"}
    return {
        "30": node("LoadImage", image="small-robot.png"),
        "31": node("KronaEvaluate", images=link(23), references=link(30), **{**inputs, **changes}),
        "32": node("PreviewAny", source=link(31, 0)),
        "33": node("PreviewImage", images=link(31, 1)),
        "34": node("PreviewAny", source=link(31, 2)),
        "35": node("PreviewAny", source=link(31, 3)),
    }


def test_the_small_world_trains_draws_and_is_judged_without_a_checkpoint(server, pictures):
    trained = graphs.train(dataset=link(2), name="in the small world", steps=2, batch_size=2)
    graph = {
        "1": node("KronaWorldLoader"),
        "2": graphs.dataset(prompt="a photo of sks robot", folder="world/robot", resolution=0),
        "3": trained,
        **graphs.render(link(3, 1), prefix="small"),
        **judged(),
    }
    result = server.client.run(graph)
    table, [likeness], [fidelity] = (result.outputs[key]["text"] for key in ("32", "34", "35"))
    assert re.search(r"1 pictures\n  subject: -?\d\.\d{3}", table[0])
    assert f"{float(likeness):.3f}" in table[0]
    assert f"caption: {float(fidelity):.3f}" in table[0]
    assert "kind" in table[0]
    assert "pose" not in table[0]  # the prompt says nothing of it
    assert result.files("33")
    assert "small_world" in (server.base / "output" / "krona" / "in the small world" / "adapter.safetensors").read_bytes()[
        :4000
    ].decode("latin1")


def test_missing_judges_are_said_with_how_to_get_them(server, pictures):
    graph = {"1": node("KronaWorldLoader"), **graphs.render(link(1)), **judged(judges="CLIP and DINO")}
    with pytest.raises(RunFailed, match=r"no clip-vit-base-patch32 to judge with.*save_pretrained"):
        server.client.run(graph)


def test_the_small_world_cannot_be_loaded_by_another_process_and_says_so(server):
    graph = {
        "1": node("KronaWorldLoader"),
        "2": graphs.dataset(prompt="a photo of sks robot", folder="world/robot", resolution=0),
        "3": graphs.train(dataset=link(2), name="elsewhere", steps=1, where="separate process"),
        "4": graphs.save(link(3), "elsewhere"),
    }
    with pytest.raises(RunFailed, match="cannot be loaded again in a process of its own"):
        server.client.run(graph)
