"""KronA First Frame, KronA Cameras and KronA View Condition in a real server: what comes out, and every wrong input."""

import io

import numpy as np
import pytest
import torch
from graphs import checkpoint, link, node, render
from PIL import Image
from safetensors import safe_open
from views import reference, write

from krona_ops.branches.similarity import groups_of_frames
from tools.comfyui.server import PromptRejected, RunFailed

FILE = "views/mvadapter_t2mv_sd21.safetensors"
FRAME = {"frames": 4, "p": 0.5, "blur": 2.0, "start": 0.85, "seed": 3}
CAMERAS = {
    "where": "MV-Adapter's six", "views": 4, "start": 0.0, "elevations": "0", "lines": "", "width": 64, "height": 48,
}  # fmt: skip
CONDITION = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
MAPS = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 2, "color": 0x336699}}


@pytest.fixture(scope="module")
def files(server):
    folder = server.base / "models" / "krona" / "views"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "mvadapter_t2mv_sd21.safetensors", reference("sd21"))
    write(folder / "attention.safetensors", torch.nn.Identity())
    torch.save({}, folder / "mvadapter.pth")


def words(server, graph, *sources):
    shown = {str(90 + n): node("PreviewAny", source=source) for n, source in enumerate(sources)}
    result = server.client.run({**graph, **shown})
    return [result.outputs[key]["text"][0] for key in shown]


def picture(server, graph, images):
    result = server.client.run({**graph, "98": node("PreviewImage", images=images)})
    return [np.asarray(Image.open(io.BytesIO(server.client.view(**file)))) for file in result.files("98")]


# ------------------------------------------------------------------------------------------------------------ first frame


def frames(server, graph, **changes):
    """The latent that the node gives for a latent of the graph, from the file that the host saves."""
    graph = {**graph, "3": node("KronaFirstFrame", image=link(2), **{**FRAME, **changes})}
    graph["4"] = node("SaveLatent", samples=link(3), filename_prefix="views/frames")
    result = server.client.run(graph)
    [file] = result.outputs["4"]["latents"]
    with safe_open(server.base / "output" / file["subfolder"] / file["filename"], framework="pt") as saved:
        return saved.get_tensor("latent_tensor")


def encoded(batch=1):
    """Latents of pictures with something on them."""
    return {
        "1": checkpoint("tiny-full.safetensors"),
        "7": {"class_type": "LoadImage", "inputs": {"image": "krobot/beach.jpg"}},
        "8": node("ImageScale", image=link(7), upscale_method="area", width=64, height=48, crop="center"),
        "9": node("VAEEncode", pixels=link(8), vae=link(1, 2)),
        "2": node("RepeatLatentBatch", samples=link(9), amount=batch),
    }


@pytest.fixture(scope="module")
def full(server):
    from tools import tiny_models

    path = server.base / "models" / "checkpoints" / "tiny-full.safetensors"
    if not path.exists():
        path.symlink_to(tiny_models.cached("sd15", clip=True, vae=True))


def latent_of(server, start):
    result = server.client.run({**start, "4": node("SaveLatent", samples=link(2), filename_prefix="views/picture")})
    [file] = result.outputs["4"]["latents"]
    with safe_open(server.base / "output" / file["subfolder"] / file["filename"], framework="pt") as saved:
        return saved.get_tensor("latent_tensor")


def test_the_frames_are_the_picture_bit_for_bit_and_then_the_prior(server, full):
    for batch in (1, 2):
        start = encoded(batch)
        z = latent_of(server, start)
        made = frames(server, start)
        assert z.std() > 0.1
        assert made.shape == (4 * batch, *z.shape[1:])
        assert torch.equal(made[::4], z)
        assert torch.equal(made, groups_of_frames(z, 4, 0.5, 2.0, 3))


def test_the_node_says_which_denoise_and_the_sampler_takes_it(server, full):
    start = encoded()
    graph = {**start, "3": node("KronaFirstFrame", image=link(2), **FRAME)}
    assert words(server, graph, link(3, 1)) == ["0.85"]
    drawn = render(link(1), start=20)
    drawn["22"]["inputs"] |= {"latent_image": link(3), "denoise": link(3, 1), "positive": link(20), "negative": link(20)}
    pictures = server.client.run({**graph, **drawn}).files("24")
    assert len(pictures) == 4


def test_a_mask_goes_with_its_picture(server, full):
    start = encoded(2)
    start["5"] = node("SolidMask", value=1.0, width=8, height=6)
    start["10"] = node("SetLatentNoiseMask", samples=link(2), mask=link(5))
    graph = {**start, "3": node("KronaFirstFrame", image=link(10), **FRAME)}
    drawn = render(link(1), start=20)
    drawn["22"]["inputs"] |= {"latent_image": link(3), "denoise": link(3, 1)}
    assert len(server.client.run({**graph, **drawn}).files("24")) == 8


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"frames": 1}, "Value 1 smaller than min of 2"),
        ({"p": 1.5}, "Value 1.5 bigger than max of 1.0"),
        ({"blur": -1.0}, "Value -1.0 smaller than min of 0.0"),
        ({"start": 2.0}, "Value 2.0 bigger than max of 1.0"),
        ({"seed": -1}, "Value -1 smaller than min of 0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_the_host(server, full, changes, text):
    with pytest.raises(PromptRejected) as caught:
        frames(server, encoded(), **changes)
    assert text in str(caught.value)


def test_the_latent_of_a_video_is_refused(server):
    start = {"2": node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)}
    text = r"image: The latent has the shape \(1, 16, 2, 8, 8\)\. Connect the latent of a picture, from VAE Encode; videos"
    with pytest.raises(RunFailed, match=text):
        frames(server, start)


# ---------------------------------------------------------------------------------------------------------------- cameras


def test_cameras_are_counted_and_drawn(server):
    for changes, count in (
        ({}, 6),
        ({"where": "an orbit", "views": 3, "elevations": "0, 30"}, 6),
        ({"where": "typed lines", "lines": "10, 20\n30, 40"}, 2),
    ):
        graph = {"3": node("KronaCameras", **{**CAMERAS, **changes})}
        assert words(server, graph, link(3, 2)) == [str(count)]
        [drawn] = picture(server, graph, link(3, 1))
        assert drawn.shape[0] > 100
        assert drawn.std() > 10


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"where": "an orbit", "elevations": "high"}, 'elevations: It is "high", not a number of degrees from -90 to 90.'),
        ({"where": "an orbit", "elevations": " "}, "elevations: It is empty, not one or more elevations such as 0, 30."),
        ({"where": "typed lines"}, "lines: It is empty, not one view in each line, such as 45, 0."),
        ({"where": "typed lines", "lines": "45"}, 'line 1: "45" is no view.'),
        ({"where": "typed lines", "lines": "0, 0\n0, 99"}, 'line 2: It is "99", not a number of degrees from -90 to 90.'),
    ],
)
def test_wrong_texts_of_cameras_are_refused(server, changes, text):
    """When the node runs: which of the texts is read, another input says, and a check may look at one alone."""
    with pytest.raises(RunFailed) as caught:
        server.client.run({"3": node("KronaCameras", **{**CAMERAS, **changes}), "9": node("PreviewAny", source=link(3, 2))})
    assert text in str(caught.value)


def test_what_another_choice_does_not_read_may_be_anything(server):
    graph = {"3": node("KronaCameras", **{**CAMERAS, "elevations": "high", "lines": "low"})}
    assert words(server, graph, link(3, 2)) == ["6"]


def test_maps_that_would_fill_the_memory_are_refused(server):
    graph = {"3": node("KronaCameras", **{**CAMERAS, "width": 16384, "height": 16384})}
    with pytest.raises(RunFailed, match=r"KronA Cameras: The maps of 6 cameras of 16384 × 16384 pixels have 9,663,676,416 numbers"):
        words(server, graph, link(3, 2))


# ---------------------------------------------------------------------------------------------------------- view condition


def condition(file=FILE, **inputs):
    texts = {"1": checkpoint("tiny-full.safetensors"), "2": node("CLIPTextEncode", clip=link(1, 1), text="a robot")}
    made = node("KronaViewCondition", positive=link(2), negative=link(2), file=file, **{**CONDITION, **inputs})
    return {**texts, "3": node("KronaCameras", **CAMERAS), "5": MAPS, "6": MAPS, "4": made}


def test_the_report_says_for_which_models_and_how_many_views(server, full, files):
    network = reference("sd21")
    count = sum(p.numel() for p in network.parameters())
    for inputs, views in (({"cameras": link(3)}, 6), ({"position": link(5), "normal": link(6)}, 2)):
        assert words(server, condition(**inputs), link(4, 2)) == [
            f"Condition encoder for SD2.1, {count:,} parameters; {views} views: "
            f"row 1 of the batch shows the first, and so on, in groups of {views}."
        ]


REMEDY = "Connect cameras for a t2mv or i2mv file; position and normal, and no cameras, for a tg2mv or ig2mv file."


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "KronA View Condition: Connected are: no maps."),
        ({"position": link(5)}, "KronA View Condition: Connected are: position."),
        ({"normal": link(5)}, "KronA View Condition: Connected are: normal."),
        (
            {"cameras": link(3), "position": link(5), "normal": link(6)},
            "KronA View Condition: Connected are: cameras, position, normal.",
        ),
        ({"cameras": link(3), "normal": link(5)}, "KronA View Condition: Connected are: cameras, normal."),
    ],
)
def test_it_wants_cameras_or_both_maps(server, full, files, inputs, text):
    with pytest.raises(RunFailed) as caught:
        words(server, condition(**inputs), link(4, 2))
    assert f"{text} {REMEDY}" in str(caught.value)


def test_an_end_before_the_start_is_refused(server, full, files):
    with pytest.raises(RunFailed, match=r"It would begin at 0\.6 of the way and end before that, at 0\.3\."):
        words(server, condition(cameras=link(3), start_percent=0.6, end_percent=0.3), link(4, 2))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("views/attention.safetensors", "This file has no condition encoder. Choose a file of MV-Adapter"),
        ("views/mvadapter.pth", ".pth files are never opened, they can run code. Convert it where you trust it: python -c"),
        ("views/nowhere.safetensors", "There is no such adapter file."),
    ],
)
def test_wrong_files_are_refused_before_anything_runs(server, full, files, file, text):
    with pytest.raises(PromptRejected) as caught:
        server.client.post({**condition(file, cameras=link(3)), "9": node("PreviewAny", source=link(4, 2))})
    assert text in str(caught.value)
    assert str(server.base) not in str(caught.value)


def test_a_model_with_other_blocks_is_refused_while_sampling(server, full, files):
    graph = condition(cameras=link(3))
    drawn = render(link(1), start=20)
    drawn["22"]["inputs"] |= {"positive": link(4), "negative": link(4, 1)}
    with pytest.raises(RunFailed, match=r"The condition encoder is for SD2\.1, and the model is another one \(SD15\)"):
        server.client.run({**graph, **drawn})


def test_at_strength_0_the_graph_draws_what_it_draws_without_the_node(server, full, files):
    graph = {**condition(cameras=link(3), strength=0.0), **render(link(1), start=20)}
    pictures = []
    for positive, negative in ((link(2), link(2)), (link(4), link(4, 1))):
        graph["22"]["inputs"] |= {"positive": positive, "negative": negative}
        pictures += picture(server, graph, link(23))
    assert (pictures[0] == pictures[1]).all()
