"""The whole way through a real server: train, save, load, apply, render; cancel; and every kind of bad input."""

import io
import json
import pickle
import re
import shutil
import threading
from pathlib import Path

import graphs
import numpy as np
import pytest
import torch
from graphs import CHECKPOINT, lay_out
from PIL import Image
from safetensors import safe_open

from krona_ops import load as load_adapter
from krona_train.config import from_yaml
from krona_train.run.job import Job
from tools import tiny_models
from tools.comfyui.server import PromptRejected, RunFailed, RunInterrupted, Server

ROOT = Path(__file__).resolve().parents[2]
NODES = (
    *("KronaApply", "KronaBlend", "KronaBranchApply", "KronaBranchSettings", "KronaCompress", "KronaConvert"),
    *("KronaDataset", "KronaEvaluate", "KronaExtract", "KronaCameras", "KronaFirstFrame", "KronaInspect"),
    *("KronaLoad", "KronaPrompts", "KronaViewCondition", "KronaDistill", "KronaGuidance", "KronaOneStep"),
    *("KronaLoadApply", "KronaSave", "KronaScale", "KronaSchedule", "KronaStack", "KronaTargets"),
    *("KronaTrain", "KronaTrainSettings", "KronaWeights", "KronaWorldLoader"),
)


def is_step(event, of):
    """Whether it tells of a step of a training of so many, rather than of its preparation."""
    return event.type == "progress" and event.data["node"] == "3" and event.data["max"] == of


def steps_in(folder):
    """The steps that a run's metrics tell of."""
    return [
        row["step"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if row["event"] == "step"
    ]


@pytest.fixture(scope="module")
def trained(server):
    """One run of the whole graph: the result, and the path of the adapter that was saved."""
    graph = {
        "1": graphs.checkpoint(CHECKPOINT),
        "2": graphs.dataset(folder="krobot"),
        "3": graphs.train(),
        "4": graphs.save(("3", 0)),
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["3", 2]}},
        "6": {"class_type": "PreviewAny", "inputs": {"source": ["3", 3]}},
        "7": {"class_type": "SaveLoRA", "inputs": {"lora": ["3", 4], "prefix": "loras/core"}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": ["2", 1]}},
        **graphs.render(("3", 1), prefix="trained"),
    }
    result = server.client.run(graph)
    [saved] = result.outputs["4"]["files"]
    return result, server.base / "output" / saved["subfolder"] / saved["filename"]


def pixels(server, result, node):
    [file] = result.files(node)
    return np.asarray(Image.open(io.BytesIO(server.client.view(**file))), dtype=np.int16)


def rendered(server, extra, model):
    return pixels(server, server.client.run({"1": graphs.checkpoint(CHECKPOINT), **extra, **graphs.render(model)}), "24")


def test_the_pack_loads_without_a_warning(server):
    log = server.log_of_start
    assert "IMPORT FAILED" not in log
    assert "Import times for custom nodes" in log
    ours = [line for line in log.splitlines() if "krona" in line.lower()]
    assert not [line for line in ours if re.search(r"warn|error|fail|skip|traceback", line, re.IGNORECASE)], ours
    info_of = server.client.object_info()
    assert {name for name, info in info_of.items() if info["category"] == "KronA"} == set(NODES)


def test_every_input_has_a_tooltip(server):
    for name in NODES:
        info = server.client.object_info(name)
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        for label, (_, *options) in inputs.items():
            if label not in ("model", "clip", "vae") or name == "KronaTrain":
                assert options, f"{name}.{label}"
                grown = options[0].get("template", {}).get("input", {}).get("required", {})
                sockets = [options[0], *(settings for _, settings in grown.values())]
                assert max(len(settings.get("tooltip", "")) for settings in sockets) > 15, f"{name}.{label}"


def test_the_server_lists_the_adapter_folder_and_serves_the_web_folder(server):
    assert "krona" in server.client.get_json("/models")
    assert b"# Train KronA" in server.client.get("/extensions/comfyui-krona%20(test)%201.0/docs/KronaTrain.md")


def test_training_leaves_a_run_folder_an_adapter_and_pictures(server, trained):
    result, file = trained
    folder = Path(result.outputs["6"]["text"][0])
    assert folder.parent == server.base / "output" / "krona"
    written = {"run.yaml", "metrics.jsonl", "adapter.safetensors", "loss.png", "state-00000004.safetensors"}
    names = {p.name for p in folder.iterdir()}
    assert len([name for name in names if name.startswith("events.")]) == 1
    assert {name for name in names if not name.startswith("events.")} == written
    assert steps_in(folder) == [1, 2, 3, 4]
    saved, kept = load_adapter(file), load_adapter(folder / "adapter.safetensors")
    assert dict(saved.layers) == dict(kept.layers)
    assert saved.metadata["ss_base_model_version"] == "sd_v1"
    assert json.loads(saved.metadata["ss_tag_frequency"]) == {"robot": {"a photo of sks robot": 5}}
    assert json.loads(saved.metadata["prompt"])["3"]["class_type"] == "KronaTrain"
    assert any(delta.b.value.any() for delta in saved.layers.values())
    assert len(result.files("5")) == len(result.files("8")) == len(result.files("24")) == 1


def test_progress_reaches_the_browser_step_by_step(trained):
    result, _ = trained
    values = [e.data["value"] for e in result.events if is_step(e, of=4)]
    assert values[-1] == 4
    assert values == sorted(values)


def test_texts_on_nodes_name_no_folder_of_this_computer(server, trained):
    result, file = trained
    texts = [event.data["text"] for event in result.events if event.type == "progress_text"]
    assert any(text.startswith(f"Saved as {file.relative_to(server.base).as_posix()}: ") for text in texts)
    assert not [text for text in texts if str(server.base) in text]


def test_the_same_graph_queued_again_does_not_train_again(server, trained):
    graph = {"1": graphs.checkpoint(CHECKPOINT), "2": graphs.dataset(folder="krobot"), "3": graphs.train()}
    runs = set((server.base / "output" / "krona").glob("*/run.yaml"))
    again = server.client.run(graph)
    assert "3" in again.cached
    assert set((server.base / "output" / "krona").glob("*/run.yaml")) == runs


def test_what_the_host_does_not_remember_is_found_in_the_runs_folder_and_more_steps_continue_it(server):
    """As after a restart: save_every makes it another graph to the host's cache, and the same training to the run's folder."""
    client, folder = server.client, server.base / "output" / "krona" / "same"

    def graph(steps, **changes):
        train = graphs.train(name="same", steps=steps, **changes)
        return {"1": graphs.checkpoint(CHECKPOINT), "2": graphs.dataset(folder="krobot"), "3": train}

    client.run(graph(3))
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    again = client.run(graph(3, save_every=50))
    assert "3" not in again.cached
    assert [e for e in again.events if is_step(e, of=3)] == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} == before
    longer = client.run(graph(8))
    assert min(e.data["value"] for e in longer.events if is_step(e, of=8)) >= 4
    assert steps_in(folder) == list(range(1, 9))
    client.run(graph(3, resume="(new run)"))
    assert steps_in(folder.with_name("same-2")) == [1, 2, 3]


def test_cores_own_file_of_the_lora_model_holds_the_same_adapter(server, trained):
    _, file = trained
    [core] = (server.base / "output" / "loras").glob("core*.safetensors")
    assert dict(load_adapter(core).layers) == dict(load_adapter(file).layers)


def test_the_trained_the_loaded_and_the_applied_model_draw_the_same_picture(server, trained):
    result, file = trained
    name = str(file.relative_to(server.base / "output" / "krona"))
    loaded = rendered(server, {"9": graphs.load(name), "10": graphs.apply(("9", 0))}, ("10", 0))
    in_one = rendered(server, {"9": graphs.load_apply(name)}, ("9", 0))
    base = rendered(server, {}, ("1", 0))
    assert np.abs(loaded - pixels(server, result, "24")).max() <= 1
    assert np.array_equal(in_one, loaded)
    assert np.abs(loaded - base).max() > 3
    zero = rendered(server, {"9": graphs.load_apply(name, strength=0.0)}, ("9", 0))
    assert np.array_equal(zero, base)
    beside = rendered(server, {"9": graphs.load(name), "10": graphs.apply(("9", 0), mode="bypass")}, ("10", 0))
    assert np.abs(beside - loaded).max() <= 1


def test_comfyui_without_the_pack_draws_the_same_picture_from_the_file(server, trained, tmp_path):
    _, file = trained
    name = str(file.relative_to(server.base / "output" / "krona"))
    ours = rendered(server, {"9": graphs.load_apply(name, strength=1.3)}, ("9", 0))
    base = lay_out(tmp_path / "plain")
    shutil.copy(file, base / "models" / "loras" / "robot.safetensors")
    with Server(base, cpu=True) as plain:
        assert "KronaLoad" not in plain.client.object_info()
        theirs = rendered(plain, {"9": graphs.load_lora("robot.safetensors", strength=1.3)}, ("9", 0))
        assert "lora key not loaded" not in plain.log()
    assert np.abs(ours - theirs).max() <= 1


def test_a_cancelled_training_stops_within_one_step_and_keeps_what_it_has(server):
    client, steps, cancelled = server.client, [], threading.Event()

    def cancel_at_three(event):
        if is_step(event, of=600):
            steps.append(event.data["value"])
            if event.data["value"] >= 3 and not cancelled.is_set():
                cancelled.set()
                client.interrupt(event.data["prompt_id"])

    graph = {
        "1": graphs.checkpoint(CHECKPOINT),
        "2": graphs.dataset(folder="krobot"),
        "3": graphs.train(steps=600, name="cancelled", seed=5),
    }
    with pytest.raises(RunInterrupted):
        client.run(graph, cancel_at_three)
    folder = server.base / "output" / "krona" / "cancelled"
    lines = steps_in(folder)
    [kept] = folder.glob("adapter-stopped-at-*.safetensors")
    assert int(re.search(r"(\d+)\.safetensors", kept.name).group(1)) == len(lines)
    assert len(load_adapter(kept)) == 8
    assert len(lines) < 600
    assert str(kept) in server.log()


def test_a_cancelled_and_a_finished_run_go_on_as_if_they_had_never_stopped(server):
    client = server.client

    def graph(**changes):
        return {"1": graphs.checkpoint(CHECKPOINT), "2": graphs.dataset(folder="krobot"), "3": graphs.train(seed=9, **changes)}

    def result(name):
        return dict(load_adapter(server.base / "output" / "krona" / name / "adapter.safetensors").layers)

    client.run(graph(name="whole", steps=7))
    client.run(graph(name="parts", steps=3))
    client.run(graph(name="parts", steps=5, resume="parts"))

    def cancel(event):
        if is_step(event, of=400):
            client.interrupt(event.data["prompt_id"])

    with pytest.raises(RunInterrupted):
        client.run(graph(name="parts", steps=400, resume="parts"), cancel)
    done = len(steps_in(server.base / "output" / "krona" / "parts"))
    assert 5 < done < 400
    client.run(graph(name="parts", steps=done + 2, resume="parts"))
    client.run(graph(name="whole", steps=done + 2, resume="whole"))
    assert result("parts") == result("whole")
    assert (server.base / "output" / "krona" / "parts" / "loss.png").exists()
    assert not (server.base / "output" / "krona" / "parts-2").exists()


def test_previews_settings_targets_and_validation_work_in_the_graph(server):
    graph = {
        "1": graphs.checkpoint(CHECKPOINT),
        "2": graphs.dataset(folder="krobot", class_prompt="a photo of a robot", class_pictures=2, bucket_step=64),
        "3": graphs.train(name="watched", steps=4, targets=["10", 0], settings=["11", 0]),
        "4": graphs.node("SaveImage", images=["3", 6], filename_prefix="sheet"),
        "10": graphs.node(
            "KronaTargets",
            preset="cross-attention only",
            factor_out=32,
            factor_in=8,
            rules="attn1; q; 16x16; 0.5",
            init_std=0.01,
        ),
        "11": graphs.node(
            "KronaTrainSettings",
            preview_every=2,
            preview_prompts="a photo of sks robot\na robot on the moon",
            preview_steps=2,
            prior="auto",
            ema=0.9,
            validate_every=2,
            checkpointing="blocks",
            schedule="cosine",
            weighting="min_snr",
        ),
    }
    graph["2"]["inputs"].pop("bucket_step")
    result = server.client.run(graph)
    folder = server.base / "output" / "krona" / "watched"
    assert sorted(p.name for p in (folder / "previews").iterdir()) == [
        f"step-{s:06}-{n}.png" for s in (0, 2, 4) for n in (1, 2)
    ]
    assert (folder / "adapter-best.safetensors").exists()
    assert (folder / "previews.png").exists()
    assert len(result.files("4")) == 1
    config = from_yaml((folder / "run.yaml").read_text(), Job).training
    assert (config.prior.source, config.prior.weight, config.ema.decay) == ("pictures", 1.0, 0.9)
    assert config.adapter.init_std == 0.01
    adapter = load_adapter(folder / "adapter.safetensors")
    assert {tuple(d.a.shape) for name, d in adapter.layers.items() if "attn2" in name} == {(32, 8)}
    assert [tuple(d.a.shape) for name, d in adapter.layers.items() if "attn1" in name] == [(16, 16)]
    made = list((server.base / "output" / "krona" / "class pictures").glob("*/class-*.png"))
    assert len(made) == 2


def defaults(server, node_id):
    """What the editor fills in when the node is dropped on the canvas."""
    inputs = server.client.object_info(node_id)["input"]
    values = {}
    for name, (kind, *options) in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
        settings = options[0] if options else {}
        if "default" in settings:
            values[name] = settings["default"]
        elif kind == "COMBO" or isinstance(kind, list):
            values[name] = (settings.get("options") or kind)[0]
    return values


def test_a_newcomer_types_only_the_prompt(server):
    """An SDXL-type model, two pictures of different shapes, every other input as the editor gives it; only a step for each.

    At 1024 × 1024 pixels each picture takes 7 s of a core to encode, and each step 12.
    """
    folder = server.base / "input" / "of a newcomer"
    folder.mkdir()
    for name, size in (("beach", (512, 512)), ("grass", (512, 384))):
        Image.open(ROOT / "samples" / "krobot" / f"{name}.jpg").crop((0, 0, *size)).save(folder / f"{name}.jpg")
    checkpoint = server.base / "models" / "checkpoints" / "sdxl.safetensors"
    checkpoint.symlink_to(tiny_models.cached("sdxl", clip=True, vae=True))
    graph = {
        "1": graphs.checkpoint("sdxl.safetensors"),
        "2": graphs.node(
            "KronaDataset", **{**defaults(server, "KronaDataset"), "folder": folder.name, "prompt": "a photo of sks robot"}
        ),
        "3": graphs.node(
            "KronaTrain",
            **{**defaults(server, "KronaTrain"), "steps": 2},
            **{name: ["1", slot] for slot, name in enumerate(("model", "clip", "vae"))},
            dataset=["2", 0],
        ),
    }
    result = server.client.run(graph, timeout=900)
    adapter = load_adapter(server.base / "output" / "krona" / "my subject" / "adapter.safetensors")
    assert adapter.metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert adapter.metadata["ss_resolution"] == "(1024, 1024)"
    assert all(torch.isfinite(d.b.value).all() and d.b.value.any() for d in adapter.layers.values())
    assert result.files("3")


def test_a_trained_text_encoder_comes_out_of_the_node_and_into_another_graph(server):
    graph = {
        "1": graphs.checkpoint(CHECKPOINT),
        "2": graphs.dataset(folder="krobot"),
        "10": graphs.node("KronaTargets", preset="attention (the paper's)", factor_out=64, factor_in=4, text_encoder=True),
        "3": graphs.train(name="words", steps=2, targets=["10", 0], preview_every=2),
        **graphs.render(("3", 1), clip=("3", 7), prefix="words"),
    }
    inside = server.client.run(graph)
    folder = server.base / "output" / "krona" / "words"
    adapter = load_adapter(folder / "adapter.safetensors")
    text = {name for name in adapter.layers if not name.startswith("diffusion_model.")}
    assert len(text) == 12 * 4  # q, k, v, out of CLIP-L
    assert all(adapter.layers[name].b.value.any() for name in text)
    first, last = (np.asarray(Image.open(folder / "previews" / f"step-{n:06}-1.png")) for n in (0, 2))
    assert (first != last).any()
    other = {
        "1": graphs.checkpoint(CHECKPOINT),
        "5": graphs.load_apply("words/adapter.safetensors"),
        **graphs.render(("5", 0), clip=("5", 1), prefix="words-loaded"),
    }
    other["5"]["inputs"]["clip"] = ["1", 1]
    loaded = server.client.run(other)
    pictures = [pixels(server, result, "24") for result in (inside, loaded)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_a_separate_process_trains_the_same_adapter_and_can_be_cancelled_and_gone_on_with(server):
    client = server.client

    def graph(**changes):
        return {"1": graphs.checkpoint(CHECKPOINT), "2": graphs.dataset(folder="krobot"), "3": graphs.train(seed=3, **changes)}

    def result(name):
        return dict(load_adapter(server.base / "output" / "krona" / name / "adapter.safetensors").layers)

    client.run(graph(name="inside", steps=9))
    first = client.run(graph(name="outside", steps=9, where="separate process"))
    assert [e.data["value"] for e in first.events if is_step(e, of=9)][-1] == 9
    inside, outside = result("inside"), result("outside")
    assert inside.keys() == outside.keys()
    for name, delta in inside.items():
        assert torch.allclose(outside[name].dense(), delta.dense(), rtol=1e-3, atol=1e-6)

    def cancel(event):
        if is_step(event, of=500) and event.data["value"] >= 2:
            client.interrupt(event.data["prompt_id"])

    with pytest.raises(RunInterrupted):
        client.run(graph(name="stopped", steps=500, where="separate process"), cancel)
    folder = server.base / "output" / "krona" / "stopped"
    [kept] = folder.glob("adapter-stopped-at-*.safetensors")
    done = int(re.search(r"(\d+)\.safetensors", kept.name).group(1))
    assert 2 <= done < 500
    client.run(graph(name="stopped", steps=done + 1, where="separate process"))
    assert len(steps_in(folder)) == done + 1
    assert not folder.with_name("stopped-2").exists()


def test_what_cannot_be_loaded_again_is_not_trained_in_a_separate_process(server, trained):
    graph = {
        "1": graphs.checkpoint(CHECKPOINT),
        "2": graphs.dataset(folder="krobot"),
        "5": graphs.load_apply("robot_00001_.safetensors"),
        "3": {**graphs.train(name="refused", where="separate process")},
    }
    graph["3"]["inputs"]["model"] = ["5", 0]
    assert "cannot be loaded again in a process of its own: it has a LoRA" in refused(server, graph)


def test_going_on_with_something_else_is_an_error_that_names_it(server, trained):
    def graph(**changes):
        return {
            "1": graphs.checkpoint(CHECKPOINT),
            "2": graphs.dataset(folder="krobot"),
            "3": graphs.train(resume="robot", **changes),
        }

    assert "has done 4 steps already" in refused(server, graph(steps=3))
    assert "The saved training has seed = 0" in refused(server, graph(steps=9, seed=1))
    other = graph(steps=9)
    other["2"] = graphs.dataset(folder="krobot", prompt="another")
    assert "had other pictures or captions" in refused(server, other)
    missing = graph(steps=9)
    missing["3"]["inputs"]["resume"] = "nowhere"
    assert "There is no run of this name" in validated(server, missing)


def refused(server, graph):
    with pytest.raises((PromptRejected, RunFailed)) as caught:
        server.client.run(graph)
    return str(caught.value)


def validated(server, graph):
    """The text of a refusal that came before anything of the graph ran."""
    with pytest.raises(PromptRejected) as caught:
        server.client.post(graph)
    return str(caught.value)


def training_graph(**changes):
    return {"1": graphs.checkpoint(CHECKPOINT), "2": graphs.dataset(**changes), "3": graphs.train(name="bad")}


def test_one_mistake_is_one_error_on_the_input_that_is_wrong(server):
    graph = {
        **training_graph(folder="nowhere"),
        "4": {
            "class_type": "KronaTargets",
            "inputs": {
                "preset": "attention (the paper's)",
                "factor_out": 64,
                "factor_in": 4,
                "rules": "a; q; 1x1; 1; too many",
            },
        },
    }
    graph["3"]["inputs"].update(targets=["4", 0], resume="no such run")
    with pytest.raises(PromptRejected) as caught:
        server.client.post(graph)
    wrong_inputs = {
        node: [error["extra_info"]["input_name"] for error in of["errors"]] for node, of in caught.value.node_errors.items()
    }
    assert wrong_inputs == {"2": ["folder"], "3": ["resume"], "4": ["rules"]}


def test_a_folder_without_pictures_is_refused_before_anything_runs(server):
    (server.base / "input" / "empty").mkdir()
    (server.base / "input" / "empty" / "notes.txt").write_text("none")
    text = validated(server, training_graph(folder="empty"))
    assert "folder - empty: There are no pictures in the folder" in text
    assert str(server.base) not in text
    assert "There is no such folder" in validated(server, training_graph(folder="nowhere"))


def test_an_unreadable_picture_is_left_out_with_a_warning_that_names_it(server):
    folder = server.base / "input" / "mixed"
    shutil.copytree(ROOT / "samples" / "krobot", folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    whole = (ROOT / "samples" / "krobot" / "beach.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    result = server.client.run(
        {"2": graphs.dataset(folder="mixed"), "8": {"class_type": "PreviewImage", "inputs": {"images": ["2", 1]}}}
    )
    assert result.status == "success"
    log = server.log()
    for name in ("broken.png", "cut.jpg"):
        assert re.search(rf"Left out \(1\), it cannot be read: .*: {name}", log)
        assert re.search(rf"Left out \(1\), it cannot be read: .*: {name}", result.texts("2")[-1])


def test_what_is_read_and_what_is_not_used_is_on_the_data_set_node(server):
    folder = server.base / "input" / "told"
    shutil.copytree(ROOT / "samples" / "krobot", folder)
    (folder / "IMG_1.xcf").write_bytes(b"gimp xcf file")
    (folder / "of nothing.txt").write_text("a caption")
    result = server.client.run(
        {"2": graphs.dataset(folder="told"), "8": {"class_type": "PreviewImage", "inputs": {"images": ["2", 1]}}}
    )
    shown = result.texts("2")
    assert any(re.match(r"reading \d of 5: \w+\.jpg", text) for text in shown)
    assert shown[-1].startswith("5 pictures.\n")
    for name in ("IMG_1.xcf", "of nothing.txt"):
        assert re.search(rf"Left out \(1\), .*: {re.escape(name)}", shown[-1]), shown[-1]


def test_a_folder_with_only_unreadable_pictures_is_refused(server):
    folder = server.base / "input" / "unreadable"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no")
    assert "None of the 1 pictures can be read" in validated(server, training_graph(folder="unreadable"))


def test_an_empty_prompt_is_refused(server):
    assert "The prompt is empty" in refused(server, training_graph(folder="krobot", prompt="  "))


def test_no_pictures_at_all_is_refused(server):
    assert "There are no pictures" in refused(server, training_graph())


def test_a_missing_truncated_or_foreign_file_is_refused_before_anything_runs(server, trained):
    _, good = trained
    folder = server.base / "models" / "krona"
    folder.mkdir(exist_ok=True)
    data = good.read_bytes()
    (folder / "cut.safetensors").write_bytes(data[: len(data) // 2])
    (folder / "text.safetensors").write_text("this is no safetensors file at all")
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "adapter.pt").write_bytes(pickle.dumps({"a": 1}))
    for name in ("cut", "text", "pickle", "empty"):
        text = validated(
            server,
            {"1": graphs.checkpoint(CHECKPOINT), "9": graphs.load_apply(f"{name}.safetensors"), **graphs.render(("9", 0))},
        )
        assert f"{name}.safetensors" in text
        assert "This file cannot be read" in text
    listed = server.client.object_info("KronaLoad")["input"]["required"]["file"][1]["options"]
    assert "adapter.pt" not in listed
    for name in ("nowhere.safetensors", "../../../etc/passwd"):
        text = validated(server, {"1": graphs.checkpoint(CHECKPOINT), "9": graphs.load_apply(name), **graphs.render(("9", 0))})
        assert "There is no such adapter file" in text
    text = validated(
        server, {"1": graphs.checkpoint(CHECKPOINT), "9": graphs.load_apply("adapter.pt"), **graphs.render(("9", 0))}
    )
    assert ".pt files are never opened, they can run code" in text


def test_a_checkpoint_is_no_adapter_and_an_adapter_for_another_base_names_the_layer(server):
    from safetensors.torch import save_file
    from torch import randn

    folder = server.base / "models" / "krona"
    folder.mkdir(exist_ok=True)
    save_file({"model.diffusion_model.out.weight": randn(3, 2)}, folder / "checkpoint.safetensors")
    layer = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    save_file({f"{layer}.lokr_w1": randn(4, 4), f"{layer}.lokr_w2": randn(160, 160)}, folder / "other.safetensors")

    def graph(file):
        return {"1": graphs.checkpoint(CHECKPOINT), "9": graphs.load_apply(file), **graphs.render(("9", 0))}

    assert "No known adapter format" in refused(server, graph("checkpoint.safetensors"))
    text = refused(server, graph("other.safetensors"))
    assert f"{layer}: Its update is 640 × 640, {layer} is 320 × 320; 1 of 1 layers have another shape" in text


def test_pictures_from_the_graph_can_be_trained_on_without_a_folder(server):
    shutil.copy(ROOT / "samples" / "krobot" / "beach.jpg", server.base / "input" / "beach.jpg")
    graph = {
        "1": graphs.checkpoint(CHECKPOINT),
        "8": {"class_type": "LoadImage", "inputs": {"image": "beach.jpg"}},
        "2": graphs.dataset(images=["8", 0]),
        "3": graphs.train(steps=1, name="graph"),
    }
    assert server.client.run(graph).status == "success"
    with safe_open(server.base / "output" / "krona" / "graph" / "adapter.safetensors", "pt") as file:
        assert file.metadata()["ss_num_train_images"] == "1"
