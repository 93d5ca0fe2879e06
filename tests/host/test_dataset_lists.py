"""Lists in a real server: what ComfyUI's own data set nodes give is one data set, and one training."""

import io
import shutil

import graphs
import numpy as np
import pytest
import yaml
from graphs import link, node
from PIL import Image

from tools.comfyui.server import RunFailed, RunInterrupted

COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250)]
SIZES = [(64, 64), (96, 64), (64, 96)]


@pytest.fixture(scope="module")
def pictures(server):
    folder = server.base / "input" / "three"
    folder.mkdir()
    for number, (colour, size) in enumerate(zip(COLOURS, SIZES, strict=True)):
        Image.new("RGB", size, colour).save(folder / f"{number}.png")
    for number, text in enumerate(["sks robot, red", "sks robot, green"]):
        (folder / f"{number}.txt").write_text(text)
    return "three"


def run(server, name, loader, **inputs):
    """The runs that a graph leaves, as their settings and the captions that were trained."""
    graph = {
        "1": node("KronaWorldLoader"),
        "9": loader,
        "2": graphs.dataset(resolution=0, **inputs),
        "3": graphs.train(name=name, steps=1, batch_size=1, factor_out=4, factor_in=2),
        "8": node("PreviewImage", images=link(2, 1)),
    }
    result = server.client.run(graph)
    runs = sorted(path for path in (server.base / "output" / "krona").glob(f"{name}*") if path.is_dir())
    return result, runs


def captions(run):
    from safetensors import safe_open

    with safe_open(run / "adapter.safetensors", "pt") as file:
        import json

        [tags] = json.loads(file.metadata()["ss_tag_frequency"]).values()
        return tags


def sheet(server, result):
    [file] = result.files("8")
    return np.asarray(Image.open(io.BytesIO(server.client.view(**file))).convert("RGB"))


def test_a_list_of_pictures_of_several_sizes_is_one_training(server, pictures):
    result, runs = run(server, "list", node("LoadImageDataSetFromFolder", folder=pictures), images=link(9))
    assert [path.name for path in runs] == ["list"]
    assert captions(runs[0]) == {"a photo of sks robot": 3}
    drawn = sheet(server, result)
    middles = {tuple(drawn[132, 132 + 264 * n]) for n in range(3)}
    assert len(middles) == 3
    again = server.client.run(
        {
            "1": node("KronaWorldLoader"),
            "9": node("LoadImageDataSetFromFolder", folder=pictures),
            "2": graphs.dataset(resolution=0, images=link(9)),
            "3": graphs.train(name="list", steps=1, batch_size=1, factor_out=4, factor_in=2),
        }
    )
    assert {"2", "3"} <= set(again.cached)


def test_a_list_of_texts_gives_each_picture_its_own_caption(server, pictures):
    loader = node("LoadImageTextDataSetFromFolder", folder=pictures)
    _, runs = run(server, "texts", loader, images=link(9), texts=link(9, 1))
    assert [path.name for path in runs] == ["texts"]
    assert captions(runs[0]) == {"sks robot, red": 1, "sks robot, green": 1, "a photo of sks robot": 1}
    with pytest.raises(RunFailed, match="3 values are connected to 'prompt', which takes one"):
        run(server, "prompts", loader, images=link(9), prompt=link(9, 1), folder=pictures)


def test_what_a_folder_holds_besides_is_on_the_node_in_the_console_and_in_the_runs_log(server, pictures):
    folder = server.base / "input" / "more"
    shutil.copytree(server.base / "input" / pictures, folder)
    (folder / "IMG_1.HEIC").write_bytes(b"")
    result, [path] = run(server, "left out", node("KronaWorldLoader"), folder="more")
    sentence = "Left out (1), HEIC needs a package, pip install pillow-heif; or save them as JPEG or PNG: IMG_1.HEIC"
    assert sentence in server.log()
    assert sentence in (path / "metrics.jsonl").read_text()
    strip = sheet(server, result)[352:]
    assert len(np.unique(strip.reshape(-1, 3), axis=0)) > 20  # words
    settings = yaml.safe_load((path / "run.yaml").read_text())
    assert settings["pictures"]["folder"] == str(folder)
    assert settings["training"]["prior"]["weight"] == 0
    (folder / "more.zip").write_bytes(b"")  # noticed, although no picture has changed
    result, _ = run(server, "left out", node("KronaWorldLoader"), folder="more")
    assert "2" not in result.cached
    assert "an archive: unpack it: more.zip" in server.log()


def test_reading_can_be_cancelled(server):
    folder = server.base / "input" / "many"
    folder.mkdir()
    Image.new("RGB", (1500, 1200), (9, 99, 199)).save(folder / "0.png")
    for number in range(1, 200):
        (folder / f"{number}.png").write_bytes((folder / "0.png").read_bytes())
    seen = []

    def cancel(event):
        if event.type == "progress" and event.data["node"] == "2" and not seen:
            seen.append(event)
            server.client.interrupt()

    with pytest.raises(RunInterrupted):
        server.client.run({"2": graphs.dataset(folder="many"), "8": node("PreviewImage", images=link(2, 1))}, on_event=cancel)
    assert seen
