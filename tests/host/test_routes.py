"""What the pages ask the server for, as docs/api.md says, in a real server with real trainings."""

import base64
import contextlib
import http.client
import io
import json
import math
import queue
import re
import time
import urllib.error
import urllib.parse
from pathlib import Path

import graphs
import pytest
import torch
from graphs import CHECKPOINT
from PIL import Image

from krona_ops import Adapter, Full, Kron
from krona_ops import load as load_adapter
from krona_ops import save as save_adapter
from krona_train.run.requests import Ask, file_of
from tools.comfyui.client import _listen


def graph(**changes):
    return {"1": graphs.checkpoint(CHECKPOINT), "2": graphs.dataset(folder="krobot"), "3": graphs.train(**changes)}


def runs_folder(server):
    return server.base / "output" / "krona"


def rows_in(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps_in(folder):
    return [row["step"] for row in rows_in(folder) if row["event"] == "step"]


def get(server, path, **query):
    """Status and JSON value of a GET."""
    try:
        return 200, server.client.get_json(path, **query)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def post(server, path, body, kind="application/json", **headers):
    """Status and JSON value of a POST; ``None`` where the answer is empty."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", path, body, {"Content-Type": kind, **headers})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def ask(server, run, what):
    return post(server, f"/krona/runs/{urllib.parse.quote(run)}/requests", json.dumps({"ask": what}))


def once_in(server, run, at, act):
    """A listener that acts once, as soon as the run has done so many steps."""
    done = []

    def listen(event):
        is_step = not done and event.type == "progress" and event.data["node"] == "3"
        if (
            is_step
            and (runs_folder(server) / run / "metrics.jsonl").exists()
            and len(steps_in(runs_folder(server) / run)) >= at
        ):
            done.append(act())

    listen.done = done
    return listen


def layers(server, name):
    return dict(load_adapter(runs_folder(server) / name).layers)


@contextlib.contextmanager
def messages(server):
    """The ``krona.run`` messages that any page gets; complete when the block has ended."""
    received = []
    with _listen(server.url) as (_, heard):
        yield received
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and (not received or received[-1]["state"] == "training"):
            with contextlib.suppress(queue.Empty):
                event = heard.get(timeout=0.2)
                if event.type == "krona.run":
                    received.append(event.data)


@pytest.mark.parametrize("where", ["in ComfyUI", "separate process"])
def test_a_training_that_is_asked_to_finish_ends_within_a_step_and_the_graph_goes_on_with_its_adapter(server, where):
    name = f"finished {where}"
    asked = {}

    def finish():
        asked["answer"] = ask(server, name, "finish")
        asked["time"] = time.time()
        asked["next"] = server.client.post({"1": graphs.node("PreviewAny", source="the next prompt")})

    listen = once_in(server, name, 8, finish)
    result = server.client.run(
        {**graph(name=name, steps=400, where=where), "4": graphs.save(("3", 0), "krona/of the finished")}, listen
    )
    assert asked["answer"] == (202, {"run": name, "ask": "finish"})
    assert result.outputs["3"]["krona_run"] == [name]
    folder = runs_folder(server) / name
    rows = rows_in(folder)
    assert len([row for row in rows if row["event"] == "step" and row["time"] > asked["time"]]) <= 1
    ended = rows[-1]
    assert (ended["event"], ended["error"], ended["stopped"], ended["steps"]) == ("ended", None, False, 400)
    assert ended["step"] == max(steps_in(folder)) < 400
    assert layers(server, f"{name}/adapter.safetensors") == layers(server, Path(result.outputs["4"]["files"][0]["filename"]))
    assert not list(folder.glob("adapter-stopped-*"))
    assert not file_of(folder, Ask.FINISH).exists()
    _, run = get(server, f"/krona/runs/{urllib.parse.quote(name)}")
    assert (run["state"], run["step"], run["steps"]) == ("finished", ended["step"], 400)
    deadline = time.monotonic() + 60
    while not server.client.history(asked["next"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.client.history(asked["next"])["status"]["status_str"] == "success"


def test_the_graph_of_a_finished_training_queued_again_goes_on_bitwise_and_then_is_remembered(server):
    whole, parts = graph(name="whole of parts", steps=20, seed=4), graph(name="parts of whole", steps=20, seed=4)
    server.client.run(whole)
    server.client.run(parts, once_in(server, "parts of whole", 3, lambda: ask(server, "parts of whole", "finish")))
    folder = runs_folder(server) / "parts of whole"
    early = max(steps_in(folder))
    assert 3 <= early < 20
    again = server.client.run(parts)
    assert "3" not in again.cached
    assert steps_in(folder) == list(range(1, 21))
    assert layers(server, "parts of whole/adapter.safetensors") == layers(server, "whole of parts/adapter.safetensors")
    starts = [row["step"] for row in rows_in(folder) if row["event"] == "started"]
    assert starts == [0, early]
    server.client.run(parts)  # nothing is trained; from here on the host remembers it
    assert "3" in server.client.run(parts).cached
    assert len(rows_in(folder)) == 20 + 4


def test_saving_on_request_leaves_an_adapter_and_a_state_and_trains_the_same(server):
    server.client.run(graph(name="unsaved", steps=25, seed=6))
    listen = once_in(server, "saved", 4, lambda: ask(server, "saved", "save"))
    server.client.run(graph(name="saved", steps=25, seed=6), listen)
    assert listen.done == [(202, {"run": "saved", "ask": "save"})]
    folder = runs_folder(server) / "saved"
    [saved] = [row for row in rows_in(folder) if row["event"] == "saved"]
    assert saved["adapter"] is True
    assert len(layers(server, f"saved/adapter-step-{saved['step']:06}.safetensors")) == 8
    assert layers(server, "saved/adapter.safetensors") == layers(server, "unsaved/adapter.safetensors")
    assert (
        f"saved/adapter-step-{saved['step']:06}.safetensors"
        in server.client.object_info("KronaLoad")["input"]["required"]["file"][1]["options"]
    )


@pytest.mark.parametrize("where", ["in ComfyUI", "separate process"])
def test_messages_hold_row_for_row_what_the_server_answers(server, where):
    name, states = f"told {where}", []
    listen = once_in(
        server, name, 2, lambda: states.extend(run for run in get(server, "/krona/runs")[1]["runs"] if run["id"] == name)
    )
    with messages(server) as received:
        server.client.run(graph(name=name, steps=12, preview_every=6, where=where), listen)
    assert [(run["state"], run["node"]) for run in states] == [("training", "3")]
    _, answer = get(server, f"/krona/runs/{urllib.parse.quote(name)}")
    assert {(message["run"], message["node"]) for message in received} == {(name, "3")}
    assert [message["state"] for message in received] == ["training"] * (len(received) - 1) + ["finished"]
    rows = []
    for message in received:
        assert message["from"] == len(rows)
        rows += message["rows"]
    assert rows == answer["rows"]
    assert rows[0]["event"] == "started"
    assert answer["node"] is None
    with messages(server) as received:
        server.client.run(graph(name=name, steps=15, preview_every=6, where=where))
    assert received[0]["from"] == len(rows)
    assert received[0]["rows"][0]["event"] == "started"
    assert received[-1]["from"] + len(received[-1]["rows"]) == len(rows_in(runs_folder(server) / name))


def test_an_interrupted_training_is_told_as_stopped(server):
    from tools.comfyui.client import RunInterrupted

    def cancel(event):
        if event.type == "progress" and event.data["node"] == "3" and event.data["max"] == 300 and event.data["value"] >= 2:
            server.client.interrupt(event.data["prompt_id"])

    with messages(server) as received, pytest.raises(RunInterrupted):
        server.client.run(graph(name="interrupted", steps=300), cancel)
    assert received[-1]["state"] == "stopped"
    assert (received[-1]["rows"][-1]["stopped"], received[-1]["rows"][-1]["error"]) == (True, None)
    _, run = get(server, "/krona/runs/interrupted")
    assert (run["state"], run["node"]) == ("stopped", None)
    assert re.fullmatch(r"interrupted/adapter-stopped-at-\d{6}\.safetensors", run["adapter"])
    assert ask(server, "interrupted", "save")[0] == 409
    assert not file_of(runs_folder(server) / "interrupted", Ask.SAVE).exists()


@pytest.fixture(scope="module")
def trained(server):
    """A run with previews and validation."""
    whole = graph(name="a run", steps=6, settings=["11", 0])
    settings = {"preview_every": 3, "preview_prompts": "one\ntwo", "preview_steps": 1, "validate_every": 2}
    whole["11"] = graphs.node("KronaTrainSettings", **settings)
    server.client.run(whole)
    return runs_folder(server) / "a run"


def test_a_run_is_answered_with_its_settings_and_its_rows_in_parts(server, trained):
    status, run = get(server, "/krona/runs/a%20run")
    assert status == 200
    rows = rows_in(trained)
    assert run["rows"] == rows
    assert run["next"] == run["total"] == len(rows)
    assert (run["settings"]["steps"], run["settings"]["validation"]["every"]) == (6, 2)
    validations = [row["validation"] for row in rows if row["event"] == "validation"]
    losses = [row["loss"] for row in rows if row["event"] == "step"]
    facts = {"id": "a run", "state": "finished", "step": 6, "steps": 6, "loss": losses[-1], "validation": validations[-1]}
    assert facts.items() <= run.items()
    assert run["adapter"] == "a run/adapter.safetensors"
    listed = get(server, "/krona/runs")[1]["runs"]
    assert [each["modified"] for each in listed] == sorted((each["modified"] for each in listed), reverse=True)
    [short] = [each for each in listed if each["id"] == "a run"]
    assert short.items() <= run.items()
    for first in (1, len(rows) - 1, len(rows), len(rows) + 50):
        part = get(server, "/krona/runs/a%20run", **{"from": str(first)})[1]
        assert part["rows"] == rows[first:]
        assert part["next"] == part["total"] == len(rows)
    for wrong in ("-1", "x", "1.5", "", "²", "9" * 40):
        assert get(server, "/krona/runs/a%20run", **{"from": wrong})[0] == 400


def test_more_rows_than_one_answer_holds_are_asked_for_in_parts(server):
    folder = runs_folder(server) / "long"
    folder.mkdir()
    row = {"event": "step", "steps": 20_001, "loss": 1.0, "learning_rate": 1.0}
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**row, "step": n}) + "\n" for n in range(1, 20_002)))
    rows, first, asked = [], 0, 0
    while True:
        part = get(server, "/krona/runs/long", **{"from": str(first)})[1]
        rows, first, asked = rows + part["rows"], part["next"], asked + 1
        if first == part["total"]:
            break
    assert [row["step"] for row in rows] == list(range(1, 20_002))
    assert asked == 3


def test_previews_are_pictures_of_that_run_and_nothing_else(server, trained):
    for step, number in ((0, 1), (3, 2), (6, 1)):
        data = server.client.get(f"/krona/runs/a%20run/previews/{step}/{number}")
        assert data == (trained / "previews" / f"step-{step:06}-{number}.png").read_bytes()
    (trained / "previews" / "step-000001-1.png").write_bytes(b"<svg onload='alert(1)'>")
    (trained / "previews" / "step-000002-1.png").symlink_to(Path("/etc/passwd"))
    for wrong in ("1/1", "2/1", "3/3", "3/0", "4/1", "x/1", "3/../3/1", "-3/1"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.client.get(f"/krona/runs/a%20run/previews/{wrong}")
        assert caught.value.code == 404


@pytest.fixture
def damaged(server, tmp_path):
    """Folders beside the runs that are no runs, or were some."""
    parent, outside = runs_folder(server), tmp_path / "outside"
    parent.mkdir(exist_ok=True)
    outside.mkdir()
    (outside / "metrics.jsonl").write_text('{"event": "note", "step": 1, "text": "secret"}\n')
    rows = [
        b'{"event": "started", "step": 0, "steps": 9}', b"\x00\xff\x00", b"{", b"[" * 100_000, b'"text"', b"3",
        b'{"event": ["step"], "step": 1}', b'{"event": "step", "step": "1", "loss": 1.0, "learning_rate": 1.0}',
        b'{"event": "step", "step": 1, "loss": NaN, "learning_rate": 1.0, "grad_norm": Infinity}', b'{"event": "step", "st',
    ]  # fmt: skip
    texts = {
        "rows": b"\n".join(rows),
        "yaml": b"- [",
        "depth": b"[" * 100_000,
        "no settings": b"training: {steps: soon}",
        "bytes": b"\xff\xfe\x00",
    }
    for name, text in texts.items():
        (parent / f"damaged {name}").mkdir()
        (parent / f"damaged {name}" / ("metrics.jsonl" if name == "rows" else "run.yaml")).write_bytes(text)
    (parent / "damaged folder" / "metrics.jsonl").mkdir(parents=True)
    (parent / "damaged empty").mkdir()
    (parent / "damaged link").symlink_to(outside, target_is_directory=True)
    (parent / "damaged file link").mkdir()
    (parent / "damaged file link" / "metrics.jsonl").symlink_to(outside / "metrics.jsonl")
    (parent / "damaged loop").symlink_to(parent / "damaged loop")
    (parent / "damaged file").write_text("")
    return parent


def test_damaged_runs_are_listed_or_passed_over_and_links_are_not_followed(server, damaged):
    status, answer = get(server, "/krona/runs")
    assert status == 200
    runs = {run["id"]: run for run in answer["runs"] if run["id"].startswith("damaged")}
    assert runs.keys() == {f"damaged {name}" for name in ("rows", "yaml", "depth", "no settings", "bytes")}
    assert (runs["damaged rows"]["state"], runs["damaged rows"]["step"], runs["damaged rows"]["loss"]) == (
        "stopped",
        1,
        None,
    )
    for name in runs:
        status, run = get(server, f"/krona/runs/{urllib.parse.quote(name)}")
        assert (status, run["settings"]) == (200, {})
        assert len(run["rows"]) == (2 if name == "damaged rows" else 0)
        assert not any(isinstance(value, float) and not math.isfinite(value) for row in run["rows"] for value in row.values())
    for name in ("damaged link", "damaged file link", "damaged loop", "damaged file", "damaged empty", "damaged folder"):
        assert get(server, f"/krona/runs/{urllib.parse.quote(name)}")[0] == 404


@pytest.mark.parametrize(
    "name", ["nowhere", "..", ".", "../krona/a run", "/etc", "a run/previews", "a run\0", "x" * 3000, "a ru?"]
)
def test_names_that_are_not_listed_are_not_found_and_never_become_paths(server, trained, name):
    quoted = urllib.parse.quote(name, safe="")
    for path in (f"/krona/runs/{quoted}", f"/krona/runs/{quoted}/previews/3/1"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.putrequest("GET", path)
        connection.endheaders()
        assert connection.getresponse().status == 404
    for path in ("/krona/adapter", "/krona/adapter/thumbnail"):
        status, answer = get(server, path, name=name)
        assert (status, answer["error"]["type"]) == (404, "Refused")
    assert post(server, f"/krona/runs/{quoted}/requests", '{"ask": "save"}')[0] == 404


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ('{"ask": "save"}', "application/json", 409),
        ('{"ask": "stop"}', "application/json", 400),
        ('{"ask": "../x"}', "application/json", 400),
        ('{"ask": ["save"]}', "application/json", 400),
        ('["save"]', "application/json", 400),
        ("", "application/json", 400),
        ("[" * 900, "application/json", 400),
        (" " * 2000 + '{"ask": "save"}', "application/json", 400),
        ('{"ask": "save"}', "text/plain", 415),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_leaves_nothing(server, trained, body, kind, status):
    before = sorted(trained.iterdir())
    code, answer = post(server, "/krona/runs/a%20run/requests", body, kind)
    assert code == status
    assert len(answer["error"]["message"]) > 20
    assert sorted(trained.iterdir()) == before


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_request_from_another_site_is_refused(server, trained, headers):
    assert post(server, "/krona/runs/a%20run/requests", '{"ask": "save"}', **headers)[0] == 403


PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


@pytest.fixture
def adapter_file(server):
    """Saves an adapter with metadata into ``models/krona``; its name in the menu."""

    def save(name, **metadata):
        folder = server.base / "models" / "krona"
        folder.mkdir(exist_ok=True)
        names = ("input_blocks.4.1.transformer_blocks.0.attn1.to_q", "input_blocks.4.1.transformer_blocks.0.attn2.to_q")
        layers = {f"diffusion_model.{layer}": Kron(Full(torch.ones(2, 3)), Full(torch.ones(5, 7))) for layer in names}
        adapter = Adapter(layers, metadata)
        save_adapter(adapter, folder / f"{name}.safetensors")
        return f"{name}.safetensors"

    return save


def uri(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_an_adapter_is_described_from_its_header(server, adapter_file):
    metadata = {
        "modelspec.title": "My <b>robot</b>", "modelspec.trigger_phrase": "sks robot", "modelspec.description": "About it.",
        "ss_base_model_version": "sdxl_base_v1-0", "modelspec.thumbnail": uri(PNG), "workflow": "{}",
    }  # fmt: skip
    name = adapter_file("described", **metadata)
    path = server.base / "models" / "krona" / name
    status, description = get(server, "/krona/adapter", name=name)
    assert status == 200
    assert description == {
        "name": name, "title": "My <b>robot</b>", "base": "SDXL", "format": "lokr", "method": "LoKr", "layers": 2, "parameters": 82,
        "factors": [{"a": [2, 3], "b": [5, 7], "layers": 2}], "rank": None, "bytes": path.stat().st_size,
        "modified": path.stat().st_mtime, "trigger": ["sks robot"], "description": "About it.", "has_thumbnail": True,
        "has_workflow": True, "left_out": [], "branches": [], "half": "", "levels": 0,
    }  # fmt: skip
    with server.client._open(f"{server.url}/krona/adapter/thumbnail?name={name}") as answer:
        assert (answer.headers["Content-Type"], answer.headers["X-Content-Type-Options"]) == ("image/png", "nosniff")
        assert answer.read() == PNG


def test_what_a_file_says_at_length_is_told_in_short(server, adapter_file):
    """Nobody reads it on a card, and the whole server stands still while megabytes of text are written as JSON."""
    metadata = {f"modelspec.{part}": f"{part[0]}ä語" * 200_000 for part in ("title", "trigger_phrase", "description")}
    _, description = get(server, "/krona/adapter", name=adapter_file("long", **metadata))
    for text, first in ((description["title"], "t"), (description["trigger"][0], "t"), (description["description"], "d")):
        assert (text[:3], text[-1], len(text)) == (f"{first}ä語", "…", 4_000)


@pytest.mark.parametrize("ending", [".png", ".preview.png", ".jpg", ".jpeg", ".webp", ".gif"])
def test_a_picture_beside_the_file_is_its_thumbnail(server, adapter_file, ending):
    name = adapter_file(f"beside{ending}")
    kind = {"jpg": "JPEG", "jpeg": "JPEG"}.get(ending.rpartition(".")[2], ending.rpartition(".")[2].upper())
    made = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(made, kind)
    (server.base / "models" / "krona" / f"beside{ending}{ending}").write_bytes(made.getvalue())
    assert get(server, "/krona/adapter", name=name)[1]["has_thumbnail"]
    assert server.client.get("/krona/adapter/thumbnail", name=name) == made.getvalue()


NO_PICTURES = {
    "nothing": "", "text": "hello", "another kind": uri(b"<svg onload='alert(1)'/>", "image/svg+xml"),
    "a lie about the kind": uri(b"<html><script>"), "damaged base64": "data:image/png;base64,%%%",
    "a sound in a RIFF": uri(b"RIFF\x00\x00\x00\x00WAVE", "image/webp"), "an address": "http://127.0.0.1/x.png",
    "too much": uri(PNG + b"\0" * 4_000_000),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_PICTURES)
def test_a_thumbnail_that_is_no_picture_is_none(server, adapter_file, what, tmp_path):
    name = adapter_file("pictureless", **{"modelspec.thumbnail": NO_PICTURES[what]})
    beside = server.base / "models" / "krona" / "pictureless.png"
    beside.unlink(missing_ok=True)
    (tmp_path / "elsewhere.png").write_bytes(PNG)
    beside.symlink_to(tmp_path / "elsewhere.png")
    assert get(server, "/krona/adapter", name=name)[1]["has_thumbnail"] is False
    status, answer = get(server, "/krona/adapter/thumbnail", name=name)
    assert (status, answer["error"]["message"].startswith("This adapter has no picture. ")) == (404, True)


def test_a_file_that_cannot_be_read_is_an_error_in_words(server):
    folder = server.base / "models" / "krona"
    folder.mkdir(exist_ok=True)
    (folder / "unreadable.safetensors").write_bytes(b"PK\x03\x04")
    for path in ("/krona/adapter", "/krona/adapter/thumbnail"):
        status, answer = get(server, path, name="unreadable.safetensors")
        assert (status, answer["error"]["type"]) == (422, "AdapterFileError")
        assert "This file cannot be read" in answer["error"]["message"]


def test_loaders_tell_the_trigger_words_and_how_much_of_the_adapter_the_model_has(server, adapter_file):
    server.client.run(graph(name="words of it", steps=1))
    show = {
        "5": graphs.load_apply("words of it/adapter.safetensors"),
        "6": graphs.load("words of it/adapter.safetensors"),
        "7": graphs.apply(("6", 0)),
        **{str(n): graphs.node("PreviewAny", source=link) for n, link in ((8, ["5", 3]), (9, ["6", 1]), (10, ["7", 2]))},
        "12": graphs.node("KronaInspect", krona=["6", 0], measure="how far weights move", table_by="block"),
    }
    result = server.client.run({"1": graphs.checkpoint(CHECKPOINT), **show})
    assert [result.outputs[n]["text"] for n in ("8", "9")] == [["a photo of sks robot"]] * 2
    for node in ("5", "7"):
        [coverage] = result.outputs[node]["krona_coverage"]
        assert coverage == {"matched": 8, "layers": 8, "report": "8 of 8 layers matched."}
    [grid] = result.outputs["12"]["krona_grid"]
    assert len(grid["selectors"]) == len(grid["blocks"]) == len(grid["values"]) >= 1
    again = server.client.run({"1": graphs.checkpoint(CHECKPOINT), **show})
    assert again.outputs["5"]["krona_coverage"] == result.outputs["5"]["krona_coverage"]


def test_whether_a_training_goes_on_when_queued_again_is_told_by_its_newest_state(comfy, tmp_path):
    import folder_paths
    from krona_pack.nodes.train import KronaTrain
    from test_loop import config, examples

    from krona_train import fit
    from krona_train.backbone.toy import ToyBackbone
    from krona_train.run.folder import Run

    output = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    try:
        fingerprint = KronaTrain.fingerprint_inputs
        same = {"resume": "(go on if it is the same)", "model": None}
        assert fingerprint(name="toy", steps=9, **same) == ""
        fit(ToyBackbone(), examples(), config(steps=3), Run(tmp_path / "krona" / "toy", config(steps=3), {}))
        assert fingerprint(name="toy", steps=9, **same) == fingerprint(name="toy", steps=9) == "toy@3"
        assert fingerprint(name="toy", steps=3, **same) == fingerprint(name="toy", steps=9, resume="(new run)") == ""
        assert fingerprint(name="toy", steps=9, resume="toy") == fingerprint(name="toy", steps=9, resume=None) == ""
        assert {fingerprint(name=name, steps=9, **same) for name in (None, "")} == {""}
        assert fingerprint(name="toy", steps=None, **same) == ""
        (tmp_path / "krona" / "toy" / "state-00000005.safetensors").write_bytes(b"no state")
        assert fingerprint(name="toy", steps=9, **same) == "toy@3"  # the newest whole one is gone on from
        (tmp_path / "krona" / "toy" / "state-00000003.safetensors").write_bytes(b"no state")
        assert fingerprint(name="toy", steps=9, **same) == ""
    finally:
        folder_paths.set_output_directory(output)
