"""Apply KronA Branch through the real server: a picture in, pictures out; its files in the hands of every other node; and
each wrong input with its text."""

import io

import graphs
import numpy as np
import pytest
import torch
from branch_cases import branch
from graphs import link, node
from PIL import Image

from krona_ops import Adapter, Full, Kron, Matrix, load, save
from krona_ops.names.branches import GATE, layer_name
from tools.comfyui.server import PromptRejected, RunFailed

WORLD = {"1": node("KronaWorldLoader")}
MODEL, CLIP, VAE = link(1), link(1, 1), link(1, 2)
FOLDER = "branches"
REFERENCE = {
    "2": node("LoadImage", image="robot.png"),
    "3": node("VAEEncode", pixels=link(2), vae=VAE),
}
FILES = {"reference": 0, "views": 1, "first": 2, "row": 3}
OWN = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q"


@pytest.fixture(scope="module")
def files(server, world):
    """Branches of each mode for the small world, and one beside an ordinary update."""
    folder = server.base / "models" / "krona" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for mode, seed in FILES.items():
        save(branch(world[0], mode, seed=seed), folder / f"{mode}.safetensors")
    own = {OWN: Kron(Full(torch.randn(4, 2)), Full(torch.randn(32, 64) * 0.01))}
    save(Adapter({**branch(world[0]).layers, **own}), folder / "mixed.safetensors")
    save(Adapter(own), folder / "ordinary.safetensors")
    wide = {layer_name(OWN.replace("attn2.to_q", "attn1"), "reference", GATE): Matrix(Full(torch.ones(1)))}
    wide[layer_name(OWN.replace("attn2.to_q", "attn1"), "reference", "to_q")] = Kron(
        Full(torch.ones(4, 2)), Full(torch.ones(8, 8))
    )
    save(Adapter(wide), folder / "wide.safetensors")
    for n, name in enumerate(("robot", "another")):
        Image.new("RGB", (64, 64), ("red", "navy")[n]).save(server.base / "input" / f"{name}.png")
    return {path.stem: f"{FOLDER}/{path.name}" for path in folder.iterdir()}


def applied(file, **inputs):
    return node("KronaBranchApply", file=file, **{"model": MODEL, "strength": 1.0, "reference": link(3), **inputs})


def render(model, count=1, **sampler):
    """Nodes that sample and save pictures, as numbers from 20."""
    made = graphs.render(model, CLIP, VAE, "branch", steps=2)
    made["21"]["inputs"]["batch_size"] = count
    made["22"]["inputs"].update(sampler)
    return made


def pictures(server, graph, model, **changed):
    result = server.client.run({**WORLD, **graph, **render(model, **changed)})
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(server.client.view(**f))), dtype=int) for f in result.files("24")]
    )


def told(server, graph, of, output=1):
    """What a node says, as Preview as Text shows it."""
    result = server.client.run({**WORLD, **graph, "9": node("PreviewAny", source=link(of, output))})
    return result.outputs["9"]["text"][0]


def refused(server, graph):
    with pytest.raises((PromptRejected, RunFailed)) as caught:
        server.client.run({**WORLD, **graph})
    return str(caught.value)


def test_a_picture_comes_in_and_at_strength_0_or_without_the_node_everything_is_as_before(server, files):
    plain = pictures(server, {}, MODEL)
    shown = pictures(server, {**REFERENCE, "4": applied(files["reference"])}, link(4))
    assert np.abs(shown - plain).max() > 3
    off = pictures(server, {**REFERENCE, "4": applied(files["reference"], strength=0.0)}, link(4))
    assert np.array_equal(off, plain)
    assert np.array_equal(pictures(server, {}, MODEL, seed=7), plain)
    report = told(server, {**REFERENCE, "4": applied(files["reference"])}, 4)
    assert report == "reference: beside 7 of 7 self-attentions."
    report = told(server, {**REFERENCE, "4": applied(files["reference"], strength=0.0)}, 4)
    assert report == "reference: beside 7 of 7 self-attentions. Strength 0: left out."


def test_another_picture_gives_another_and_two_are_looked_at_together(server, files):
    both = {
        "5": node("LoadImage", image="another.png"),
        "6": node("VAEEncode", pixels=link(5), vae=VAE),
        "7": node("LatentBatch", samples1=link(3), samples2=link(6)),
    }
    drawn = [
        pictures(server, {**REFERENCE, **both, "4": applied(files["reference"], reference=link(origin))}, link(4))
        for origin in (3, 6, 7)
    ]
    assert all(not np.array_equal(drawn[i], drawn[j]) for i in range(3) for j in range(i))


def test_a_connected_branch_takes_the_place_of_the_file(server, files):
    """Also of one that is not there; scaled and blended, it is as strong as it says."""
    expected = pictures(server, {**REFERENCE, "4": applied(files["reference"], strength=0.5)}, link(4))
    loaded = {**REFERENCE, "5": node("KronaLoad", file=files["reference"])}
    scaled = {**loaded, "6": node("KronaScale", krona=link(5), strength=0.5)}
    blend = node("KronaBlend", **{**server_defaults(server, "KronaBlend"), "strengths": "0.25, 0.25"})
    blend["inputs"] |= {"adapters.krona0": link(5), "adapters.krona1": link(5)}
    weighed = {
        **loaded,
        "7": node("KronaWeights", preset="all", rules="default=0.5, to_q=0"),
        "6": node("KronaScale", krona=link(5), strength=1.0, weights=link(7)),
    }
    for graph in (scaled, {**loaded, "6": blend}, weighed):
        for file in ("(none)", "no such file.safetensors"):
            drawn = pictures(server, {**graph, "4": applied(file, krona=link(6))}, link(4))
            assert np.abs(drawn - expected).max() <= 1
    assert "to_q" in told(server, weighed, 6)


def test_views_of_a_batch_are_drawn_in_groups(server, files):
    four = {"count": 4}
    plain = pictures(server, {}, MODEL, **four)
    groups = [
        pictures(server, {"4": applied(files["views"], reference=None, views=n)}, link(4), **four) for n in (0, 4, 2, 1)
    ]
    assert np.array_equal(groups[0], groups[1])
    assert not np.array_equal(groups[1], groups[2])
    assert all(not np.array_equal(drawn, plain) for drawn in groups)
    graph = {"4": applied(files["views"], reference=None, views=3)}
    text = refused(server, {**graph, **render(link(4), count=4)})
    assert "A batch of 4 cannot be drawn in groups of 3. Set the batch size of the empty latent to whole groups" in text


def test_rows_start_and_end_are_inputs(server, files):
    default = pictures(server, {**REFERENCE, "4": applied(files["reference"])}, link(4))
    for change in ({"rows": "both"}, {"start": 0.5}, {"end": 0.4}, {"strength": -1.0}):
        drawn = pictures(server, {**REFERENCE, "4": applied(files["reference"], **change)}, link(4))
        assert not np.array_equal(drawn, default), change
    same = {"rows": "positive", "start": 0.0, "end": 1.0, "views": 3}
    assert np.array_equal(pictures(server, {**REFERENCE, "4": applied(files["reference"], **same)}, link(4)), default)


def test_what_is_not_used_is_told(server, files):
    masked = {
        **REFERENCE,
        "5": node("SolidMask", value=1.0, width=64, height=64),
        "6": node("SetLatentNoiseMask", samples=link(3), mask=link(5)),
    }
    report = told(server, {**masked, "4": applied(files["reference"], reference=link(6))}, 4)
    assert report.endswith("The reference's mask is not used: the branch looks at all of the picture.")
    report = told(server, {**REFERENCE, "4": applied(files["views"])}, 4)
    assert report.endswith("The reference is not used: what is drawn together attends to itself.")
    report = told(server, {**REFERENCE, "4": applied(files["mixed"])}, 4)
    assert report.endswith("1 of the adapter's 36 layers are updates of the model's own: Apply KronA applies them.")


BRANCH = "The adapter is no update of the model's layers but a parallel branch beside its self-attentions (reference in 7 places)."


def test_nodes_for_ordinary_adapters_say_which_one_applies_a_branch(server, files):
    loaded = {"5": node("KronaLoad", file=files["reference"])}
    nodes = {
        "KronaLoadApply": graphs.load_apply(files["reference"]),
        "KronaApply": graphs.apply(link(5)),
        "KronaSchedule": node("KronaSchedule", krona=link(5), model=MODEL),
    }
    for name, each in nodes.items():
        filled = {**server_defaults(server, name), **each["inputs"]}
        of = 2 if name == "KronaLoadApply" else 1
        graph = {**loaded, "6": {**each, "inputs": filled}, "9": node("PreviewAny", source=link(6, of))}
        text = refused(server, graph)
        assert f"{BRANCH} Apply it with Apply KronA Branch." in text, name
    mixed = {"5": node("KronaLoad", file=files["mixed"]), "6": graphs.apply(link(5))}
    report = told(server, mixed, 6, 2)
    assert report.startswith("1 of 36 layers matched; 35 unmatched: diffusion_model.input_blocks.1.1")
    assert report.endswith(": they are a parallel branch beside the model's layers; Apply KronA Branch applies it.")


def server_defaults(server, kind):
    """What the editor fills in when the node is dropped on the canvas, of what has no wire."""
    inputs = server.client.object_info(kind)["input"]
    named = {**inputs.get("required", {}), **inputs.get("optional", {})}
    return {name: options[0]["default"] for name, (_, *options) in named.items() if options and "default" in options[0]}


def test_the_host_s_own_loader_finds_no_layer_in_it_and_changes_nothing(server, files, world):
    """It says so in its log, name by name, as for every name that it does not know."""
    save(branch(world[0]), server.base / "models" / "loras" / "a branch.safetensors")
    plain = pictures(server, {}, MODEL)
    loaded = {"4": graphs.load_lora("a branch.safetensors")}
    assert np.array_equal(pictures(server, loaded, link(4)), plain)
    assert f"lora key not loaded: {OWN.replace('attn2.to_q', 'attn1')}.krona_reference.gate" in server.log()
    beside = {**loaded, **REFERENCE, "5": applied(files["reference"], model=link(4))}
    expected = pictures(server, {**REFERENCE, "4": applied(files["reference"])}, link(4))
    assert np.array_equal(pictures(server, beside, link(5)), expected)


def test_it_is_saved_stacked_compressed_and_inspected_as_every_adapter(server, files, world):
    one = branch(world[0])
    graph = {**WORLD, "5": node("KronaLoad", file=files["reference"])}
    made = {
        "as it is": ({}, link(5)),
        "with the model": ({}, link(5)),
        "stacked": (
            {"6": node("KronaStack", file="(none)", strength_model=1.0, strength_clip=1.0, krona=link(5))},
            link(6, 1),
        ),
    }
    for name, (nodes, origin) in made.items():
        saving = graphs.save(origin, "krona/branches out/x")
        if name == "with the model":
            saving["inputs"]["model"] = MODEL
        [file] = server.client.run({**graph, **nodes, "9": saving}).outputs["9"]["files"]
        again = load(server.base / "output" / file["subfolder"] / file["filename"])
        assert dict(again.layers) == dict(one.layers), name
    saving = node("KronaSave", krona=link(5), filename_prefix="krona/x", format="kohya / LyCORIS LoKr")
    assert "A parallel branch has a place in ComfyUI's LoKr files alone. Save it as ComfyUI LoKr" in refused(
        server, {**graph, "9": saving}
    )
    small = node("KronaCompress", **server_defaults(server, "KronaCompress"), krona=link(5))
    small["inputs"].update(factor_out=8, factor_in=2)
    text = told(server, {**graph, "6": small}, 6)
    assert text.startswith("35 layers, ")
    facts = told(
        server,
        {**graph, "6": node("KronaInspect", krona=link(5), measure="how far weights move", table_by="role")},
        6,
        3,
    )
    assert "Parallel branch: reference in 7 places. Apply KronA Branch applies it." in facts
    table = told(
        server,
        {**graph, "6": node("KronaInspect", krona=link(5), measure="how far weights move", table_by="role")},
        6,
        0,
    )
    assert [line.split("  ")[0] for line in table.splitlines()[2:]] == [
        *(f"reference {part}" for part in ("q", "k", "v", "out", "gate")),
        table.splitlines()[7],
        "all",
    ]


def test_the_browser_s_card_knows_it(server, files):
    described = server.client.get_json(f"/krona/adapter?name={files['views']}")
    assert (described["branches"], described["method"]) == ([{"mode": "views", "places": 7}], "LoKr")
    mixed = server.client.get_json(f"/krona/adapter?name={files['mixed']}")
    assert (mixed["branches"], mixed["layers"]) == ([{"mode": "reference", "places": 7}], 36)
    assert server.client.get_json(f"/krona/adapter?name={files['ordinary']}")["branches"] == []


WRONG = {
    "no file and nothing connected": (
        {"file": "(none)"},
        "There is no branch to apply. Choose a file or connect a branch.",
    ),
    "a file that is not there": ({"file": "gone.safetensors"}, "gone.safetensors: There is no such adapter file."),
    "no reference": (
        {"reference": None},
        "This branch attends to reference pictures, and there are none. Encode a picture with VAE Encode and connect it.",
    ),
    "an ordinary adapter": ({"file": "ordinary"}, "The adapter is no parallel branch. Apply it with Apply KronA."),
    "a start behind the end": (
        {"start": 0.6, "end": 0.4},
        "The branch would begin to count at 0.6 and stop at 0.4, which is before. Exchange them",
    ),
    "another model's width": (
        {"file": "wide"},
        "to_q: The branch is for a model of another width: it has 32 × 16, the model 128 × 128. Load the kind of model",
    ),
    "HyperTile": (
        {"model": node("HyperTile", model=MODEL, tile_size=32, swap_size=2, max_depth=2, scale_depth=False)},
        "HyperTile is on the model, which joins or cuts the tokens that a branch attends to. Take HyperTile out of the graph.",
    ),
    "ToMe": (
        {"model": node("TomePatchModel", model=MODEL, ratio=0.5)},
        "Token Merging (ToMe) is on the model, which joins or cuts the tokens that a branch attends to.",
    ),
    "a latent of another model": (
        {"reference": node("EmptySD3LatentImage", width=64, height=64, batch_size=1)},
        "The reference is a latent of another kind of model. Encode the picture with the VAE of this model.",
    ),
    "strength beyond its bounds": ({"strength": 11.0}, "Value 11.0 bigger than max of 10.0"),
    "too many views": ({"views": 1025}, "Value 1025 bigger than max of 1024"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_input_is_refused_before_anything_is_drawn(server, files, what):
    changes, expected = WRONG[what]
    graph, inputs = dict(REFERENCE), {}
    for name, value in changes.items():
        if isinstance(value, dict):  # a node of its own
            graph["8"], value = value, link(8)
        inputs[name] = files.get(value, value) if name == "file" else value
    made = applied(**{"file": files["reference"], **inputs})
    made["inputs"] = {name: value for name, value in made["inputs"].items() if value is not None}
    text = refused(server, {**graph, "4": made, "9": node("PreviewAny", source=link(4, 1))})
    assert expected in text


def test_a_transformer_model_is_refused(server, files):
    from tools import tiny_models

    checkpoint = server.base / "models" / "checkpoints" / "flux.safetensors"
    checkpoint.symlink_to(tiny_models.cached("flux"))
    graph = {**REFERENCE, "8": graphs.checkpoint("flux.safetensors"), "4": applied(files["reference"], model=link(8))}
    text = refused(server, {**graph, "9": node("PreviewAny", source=link(4, 1))})
    assert (
        "A parallel branch stands beside the self-attentions of a UNet, and this model has none. Load a model with a UNet; "
        "diffusion transformers attend to picture and prompt in one." in text
    )


DRAWN = {
    "context windows that cut the group": (
        "views",
        {
            "8": node(
                "ContextWindowsManual", model=link(4), context_length=2, context_overlap=0, context_schedule="standard_static",
                context_stride=1, closed_loop=False, fuse_method="pyramid", dim=0, freenoise=False, cond_retain_index_list="",
                split_conds_to_windows=False, latent_retain_index_list="", causal_window_fix=True,
            )
        },
        "A part of the batch is drawn at a time, which cuts the groups of the branch (views). Take context windows off the model",
    ),
    "ToMe behind the branch": (
        "views",
        {"8": node("TomePatchModel", model=link(4), ratio=0.5)},
        "Something between joins or cuts the tokens of the self-attention, so the branch cannot be added. Take HyperTile and ToMe",
    ),
    "a first frame that is not there": (
        "first",
        {},
        "There is no first frame. Sample on the latent of KronA First Frame, or connect 'reference'.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DRAWN)
def test_what_only_the_drawing_shows_is_refused_there(server, files, what):
    mode, after, expected = DRAWN[what]
    made = applied(files[mode])
    del made["inputs"]["reference"]
    size = {"width": 128, "height": 128}
    drawing = render(link(8 if after else 4), count=4)
    drawing["21"]["inputs"].update(size)
    assert expected in refused(server, {"4": made, **after, **drawing})


def test_a_prompt_for_an_area_is_refused_where_rows_would_be_cut(server, files):
    made = applied(files["row"])
    del made["inputs"]["reference"]
    drawing = render(link(4), count=2)
    drawing["21"]["inputs"]["width"] = 128
    drawing["30"] = node("ConditioningSetArea", conditioning=link(20), width=64, height=64, x=0, y=0, strength=1.0)
    drawing["22"]["inputs"]["positive"] = link(30)
    text = refused(server, {"4": made, **drawing})
    assert (
        "A prompt is for an area of the picture, in which the rows of the views are cut (row). Take the area off the prompt, "
        "or use a branch of the mode reference or views." in text
    )
