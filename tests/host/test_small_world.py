"""The pack's own model and the evaluation node, in the real server: load, train, draw, judge."""

import io
import re
import shutil

import graphs
import numpy as np
import pytest
from graphs import link
from PIL import Image

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


def pictures_of(server, result, key):
    return [np.asarray(Image.open(io.BytesIO(server.client.view(**file)))) for file in result.files(key)]


def test_its_branches_and_pictures_come_with_it(server):
    """One picture in, that character out; four drawn together; a first picture that stays to the last bit."""
    graph = {
        "1": node("KronaWorldLoader"),
        "2": node("ImageFromBatch", image=link(1, 6), batch_index=4, length=1),
        "3": node("VAEEncode", pixels=link(2), vae=link(1, 2)),
        "4": node("RepeatLatentBatch", samples=link(3), amount=3),
        "5": node("CLIPTextEncode", clip=link(1, 1), text="a photo of a bird waving on the beach by day"),
        "6": node("CLIPTextEncode", clip=link(1, 1), text=""),
        "7": node("EmptyLatentImage", width=64, height=64, batch_size=3),
        "30": node("VAEDecode", samples=link(3), vae=link(1, 2)),
        "31": node("PreviewImage", images=link(30)),
    }
    for number, (mode, output) in enumerate((("none", 0), ("reference", 3), ("first", 4), ("views", 5))):
        model, start = (link(1) if mode == "none" else link(8 + number)), link(4 if mode == "first" else 7)
        if mode != "none":
            graph[str(8 + number)] = node(
                "KronaBranchApply", model=link(1), file="(none)", krona=link(1, output), strength=1.0, reference=link(3)
            )
        graph |= {
            str(12 + number): node(
                "KSampler", model=model, positive=link(5), negative=link(6), latent_image=start, seed=3, steps=4, cfg=3.0,
                sampler_name="dpmpp_2m", scheduler="karras", denoise=1.0,
            ),
            str(16 + number): node("VAEDecode", samples=link(12 + number), vae=link(1, 2)),
            str(20 + number): node("PreviewImage", images=link(16 + number)),
        }  # fmt: skip
    result = server.client.run(graph)
    [shown] = pictures_of(server, result, "31")
    drawn = {mode: pictures_of(server, result, str(20 + n)) for n, mode in enumerate(("none", "reference", "first", "views"))}
    for mode in ("reference", "first", "views"):
        assert not (drawn[mode][1] == drawn["none"][1]).all(), mode
    assert (drawn["first"][0] == shown).all()
    assert not (drawn["reference"][0] == shown).all()
