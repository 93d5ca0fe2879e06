"""Distill KronA through the real server, on the small world: each thing that can be learnt, from prompts to a picture."""

import io

import graphs
import numpy as np
import pytest
import yaml
from graphs import link, node
from PIL import Image

from krona_ops import load
from krona_ops.formats.guidance import KEY as GUIDANCE
from krona_ops.formats.one_step import KEY as ONE_STEP
from krona_train.run import layout
from krona_train.run.metrics import read
from tools.comfyui.server import PromptRejected, RunFailed

WORLD = {"1": node("KronaWorldLoader"), "2": node("KronaPrompts", prompts="a photo of a red robot\na photo of a blue cat at night", count=0, seed=0)}
MODEL, CLIP, VAE = link(1), link(1, 1), link(1, 2)
KINDS = {
    "guidance": ("guidance", GUIDANCE),
    "one step by score matching": ("score matching", ONE_STEP),
    "one step by pairs": ("pairs", ONE_STEP),
}


def distill(what, name, **inputs):
    return node(
        "KronaDistill",
        **{
            "model": MODEL, "clip": CLIP, "vae": VAE, "dataset": link(2), "what": what, "name": name, "steps": 2, "learning_rate": 0.0,
            "batch_size": 2, "seed": 0, "preview_every": 2, "drawings": 8, "drawing_steps": 2, **inputs,
        },
    )  # fmt: skip


def run(server, graph):
    return server.client.run({**WORLD, **graph, "9": node("PreviewAny", source=link(3, 3))})


def folder_of(server, name):
    return server.base / "output" / "krona" / name


@pytest.mark.parametrize("what", KINDS)
def test_prompts_become_an_adapter_that_any_loader_reads(server, what):
    kind, key = KINDS[what]
    name = f"distilled {kind}"
    rendering = graphs.render(link(3, 1), CLIP, VAE, "distilled", steps=1)
    rendering["22"]["inputs"]["cfg"] = 1.0
    result = server.client.run({**WORLD, "3": distill(what, name), **rendering})
    folder = folder_of(server, name)
    job = yaml.safe_load((folder / layout.SETTINGS).read_text(encoding="utf-8"))
    assert job["training"]["objective"]["kind"] == kind
    assert job["pictures"]["prompts"] == ["a photo of a red robot", "a photo of a blue cat at night"]
    assert job["training"]["optimizer"]["schedule"] == "cosine"
    adapter = load(folder / layout.RESULT)
    assert key in adapter.metadata
    assert any(".ff." in name for name in adapter.layers)
    assert any("attn2" in name for name in adapter.layers)
    assert any(delta.dense().any() for delta in adapter.layers.values())
    rows = list(read(folder / layout.METRICS))
    steps = [row for row in rows if row["event"] == "step"]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(("losses" in row) == (kind == "score matching") for row in steps)
    assert any(row["event"] == "validation" for row in rows) == (kind != "score matching")
    [*_, preview] = [row for row in rows if row["event"] == "preview"]
    with Image.open(folder / layout.PREVIEWS / preview["pictures"][0]) as shown:
        assert shown.width == 2 * shown.height  # the adapter's, and what it shall come to
        ours, teacher = np.split(np.asarray(shown, dtype=int), 2, axis=1)
    assert np.abs(ours - teacher).max() > 20
    [file] = result.files("24")
    drawn = np.asarray(Image.open(io.BytesIO(server.client.view(**file))))
    assert np.ptp(drawn) > 50


def test_a_finished_one_is_not_trained_again_and_its_drawings_serve_the_next(server):
    first = run(server, {"3": distill("guidance", "twice", seed=7)})
    again = run(server, {"3": distill("guidance", "twice", seed=7)})
    assert first.outputs["9"] == again.outputs["9"]
    cache = server.base / "user" / "krona" / "cache"
    before = set(cache.rglob("*.safetensors"))
    run(server, {"3": distill("guidance", "thrice", seed=7, learning_rate=1e-3)})
    assert set(cache.rglob("*.safetensors")) == before


def test_a_process_of_its_own_trains_the_same(server):
    """It draws nothing itself: the drawings are handed to it."""
    for name, where in (("here", "in ComfyUI"), ("there", "separate process")):
        graph = {"1": graphs.checkpoint(graphs.CHECKPOINT), "3": distill("guidance", name, where=where, preview_every=0)}
        run(server, graph)
    here, there = (load(folder_of(server, name) / layout.RESULT) for name in ("here", "there"))
    assert dict(here.layers) == dict(there.layers)


def test_pictures_are_refused_before_anything_is_drawn(server):
    pictures = {"4": graphs.dataset(folder="krobot"), "3": distill("guidance", "from pictures", dataset=link(4))}
    with pytest.raises((PromptRejected, RunFailed)) as caught:
        run(server, pictures)
    assert "learns from what the model draws itself" in str(caught.value)
    assert not folder_of(server, "from pictures").exists()


def test_the_sampler_that_draws_afterwards_makes_the_drawings(server):
    drawn = distill("guidance", "by another sampler", sampler="dpmpp_2m", scheduler="karras", steps=1, preview_every=0)
    run(server, {"3": drawn})
    text = (folder_of(server, "by another sampler") / layout.SETTINGS).read_text(encoding="utf-8")
    objective = yaml.safe_load(text)["training"]["objective"]
    assert (objective["sampler"], objective["scheduler"]) == ("dpmpp_2m", "karras")
    with pytest.raises((PromptRejected, RunFailed), match="adds noise on its way"):
        run(server, {"3": distill("one step by pairs", "by chance", sampler="euler_ancestral")})


def test_a_prior_is_refused_before_anything_is_drawn(server):
    settings = {"5": node("KronaTrainSettings", prior="model")}
    with pytest.raises((PromptRejected, RunFailed), match="no class whose prior could be preserved"):
        run(server, {**settings, "3": distill("guidance", "with a prior", settings=link(5))})
    assert not folder_of(server, "with a prior").exists()


def test_an_empty_range_of_guidance_is_refused(server):
    with pytest.raises((PromptRejected, RunFailed), match="is empty"):
        run(server, {"3": distill("guidance", "no range", lowest=3.0, highest=3.0)})
