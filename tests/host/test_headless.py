"""Training from a file, in real processes: the same adapter as inside ComfyUI, whatever stops it in between."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from krona_ops import load
from krona_train.__main__ import STOPPED, main
from krona_train.config import from_yaml
from krona_train.data.source import read_pictures
from krona_train.processes.launch import command, follow
from krona_train.processes.wire import from_line
from krona_train.run.events import Ended, Stepped
from krona_train.run.job import Job, load_job
from krona_train.run.requests import Ask, ask, asked
from krona_train.run.state import TrainState, newest, states
from tools import tiny_models

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
GUARD = 300.0
"""Seconds; only a failing test waits for them."""
TRAINING = f"""
training:
  steps: {STEPS}
  batch_size: 2
  save_every: 1
  optimizer: {{learning_rate: 5e-3}}
  ema: {{decay: 0.9}}
  data: {{resolution: 64, bucket_step: 8}}
  preview: {{every: 10, steps: 1}}
  validation: {{every: 8, levels: 2}}
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many threads in all processes, or float32 sums differ in the last bit; one, as the launcher gives each of several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint, pictures and a file that names them."""
    folder = tmp_path_factory.mktemp("headless")
    (folder / "tiny.safetensors").symlink_to(tiny_models.cached("sd15"))
    shutil.copytree(ROOT / "samples" / "krobot", folder / "pictures")
    (folder / "run.yaml").write_text(
        "name: robot\noutput: runs\nmodel: {checkpoint: tiny.safetensors}\n"
        f"pictures: {{folder: pictures, prompt: a photo of sks robot}}\n{TRAINING}"
    )
    return folder


@pytest.fixture(scope="module")
def inside(comfy, place):
    """The training of that file in this process: its data, and a function that trains with other settings."""
    from krona_train.session.material import Places, prepare
    from krona_train.session.training import HostTraining

    job = load_job(place / "run.yaml")
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(job.model.checkpoint)
        places = Places(place / "cache", place / "class")
        pictures = read_pictures(job.pictures, job.training.data)
        material = prepare(model, clip, vae, pictures, job.training, places, lambda *progress: None)

        def train(folder, config=job.training):
            with torch.inference_mode():
                return HostTraining(model, clip, vae, material, config, "").run(folder)[0]

        return material, train, job


@pytest.fixture(scope="module")
def expected(inside, place):
    """The adapter that it gives."""
    return inside[1](place / "inside")


def environment(**changes):
    """A shell's, without what this test session knows."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COMFYUI_PATH", "PWD")}
    return {**kept, "COMFYUI_PATH": os.environ["COMFYUI_PATH"], "OMP_NUM_THREADS": "1", **changes}


def run(*arguments, cwd=ROOT, **changes):
    return subprocess.run(
        [sys.executable, "-m", "krona_train", *map(str, arguments)],
        cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=GUARD, check=False,
    )  # fmt: skip


@contextlib.contextmanager
def started(log, *arguments):
    """A training that tells its events on the way; ended when the block is left, whatever happens in it."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "krona_train", *map(str, arguments), "--events"],
            cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_a_step(process):
    for line in process.stdout:
        if isinstance(from_line(line, Path()), Stepped):
            return
    pytest.fail("the training ended before its first step")


def layers(file):
    return dict(load(file).layers)


@pytest.fixture(scope="module")
def outside(place):
    """The folder of the same training in a process of its own, started from another folder."""
    done = run(place / "run.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return place / "runs" / "robot"


def test_a_process_of_its_own_trains_the_same_adapter_bitwise(expected, outside, place):
    assert layers(outside / "adapter.safetensors") == dict(expected.layers)
    ours, theirs = TrainState.load(newest(outside)), TrainState.load(newest(place / "inside"))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in theirs.tensors)
    assert (ours.base, ours.data, ours.numbers) == (theirs.base, theirs.data, theirs.numbers)


def test_relative_paths_start_at_the_files_folder(outside, place):
    assert sorted(path.name for path in place.iterdir()) == [
        "cache",
        "inside",
        "pictures",
        "run.yaml",
        "runs",
        "tiny.safetensors",
    ]
    written = from_yaml((outside / "run.yaml").read_text(), Job)
    assert (written.model.checkpoint, written.output) == (str(place / "tiny.safetensors"), str(place / "runs"))


def test_the_runs_folder_has_what_that_of_a_node_has(outside, place):
    ours, theirs = ({re.sub(r"tfevents.*", "", p.name) for p in folder.iterdir()} for folder in (outside, place / "inside"))
    assert ours == theirs | {"encoded.safetensors"}
    names = sorted(path.name for path in (outside / "previews").iterdir())
    assert names == [f"step-{step:06}-1.png" for step in (0, 10, 20)]
    for name in names:
        assert (outside / "previews" / name).read_bytes() == (place / "inside" / "previews" / name).read_bytes()


def test_the_file_that_a_run_has_written_runs_again_as_it_is_from_inside_custom_nodes(expected, outside, place):
    """What a user types: cd ComfyUI/custom_nodes/PACK; python -m krona_train RUN.yaml. ComfyUI is found above the pack."""
    host = place.parent / "ComfyUI"
    (host / "custom_nodes" / "krona").mkdir(parents=True)
    for name in ("krona_ops", "krona_host", "krona_train"):
        shutil.copytree(ROOT / name, host / "custom_nodes" / "krona" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in Path(os.environ["COMFYUI_PATH"]).iterdir():
        if path.name != "custom_nodes":
            (host / path.name).symlink_to(path)
    before = (outside / "run.yaml").read_bytes()
    done = run(outside / "run.yaml", cwd=host / "custom_nodes" / "krona", COMFYUI_PATH="")
    assert done.returncode == 0, done.stderr[-3000:]
    assert layers(outside.with_name("robot-2") / "adapter.safetensors") == dict(expected.layers)
    assert (outside / "run.yaml").read_bytes() == before
    assert not (outside / "robot").exists()


def test_a_run_stopped_in_every_way_goes_on_bitwise(expected, place):
    """One run: asked by SIGTERM, by SIGINT, by the file, then killed; each time it goes on, at last to its end."""
    folder, log = place / "runs" / "stopped", place.parent / "log.txt"
    file, resume, done = place / "run.yaml", ("--folder", folder), []
    for how in (signal.SIGTERM, signal.SIGINT, Ask.STOP, signal.SIGKILL):
        with started(log, file, *resume) as process:
            wait_for_a_step(process)
            if how is Ask.STOP:
                ask(folder, Ask.STOP)
            else:
                process.send_signal(how)
            output, _ = process.communicate(timeout=GUARD)
            if how == signal.SIGKILL:
                assert process.returncode == -signal.SIGKILL
            else:
                assert process.returncode == STOPPED == 130, log.read_text()[-3000:]
                last = from_line(output.splitlines()[-1], folder)
                assert isinstance(last, Ended)
                assert str(last.error) == f"It was stopped after step {newest_step(folder)}."
                assert (folder / f"adapter-stopped-at-{newest_step(folder):06}.safetensors").exists()
        assert asked(folder) is Ask.NOTHING
        done.append(newest_step(folder))
        file, resume = folder / "run.yaml", ("--resume",)
    assert done == sorted(done)  # killed between a step and the saving of its state, it does that step again
    assert 0 < done[0] <= done[-1] < STEPS
    assert "Traceback" not in log.read_text()
    last = run(file, "--resume")
    assert last.returncode == 0, last.stderr[-3000:]
    assert layers(folder / "adapter.safetensors") == dict(expected.layers)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["event"] == "step"] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if row["event"] == "validation"] == [0, 8, 16, 20]
    assert len(states(folder)) == 2
    assert not list(folder.glob("adapter-stopped-*"))


def newest_step(folder):
    return TrainState.peek(newest(folder)).step


def two_processes(place, folder, encoded):
    """A run of two processes and what they are to be compared with; its file is written."""
    folder.mkdir()
    changes = {"batch_size: 2": "batch_size: 1", "save_every: 1": "save_every: 0", "5e-3}": "5e-3, eps: 1e-3}"}
    text = (place / "run.yaml").read_text()
    for before, after in changes.items():
        text = text.replace(before, after)
    file = place / f"{folder.name}.yaml"
    file.write_text(text)
    return command(file, folder, processes=2, encoded=encoded, host_arguments=["--cpu"])


def test_two_processes_are_one_with_the_batch_of_both(inside, place, tmp_path):
    """On a model in float32.

    AdamW divides each gradient by its own size, so where a layer has nearly none, rounding is all that is left of it and moves
    the factors as far as a gradient would: with eps 1e-8 the worst layer is off by 2e-5. An eps of the gradients' size keeps
    the step in proportion to the gradient. The law itself, with every eps, is held in float64 by tests/train/processes/test_processes.py.
    """
    material, train, job = inside
    encoded, folder = material.save(tmp_path / "encoded.safetensors"), place / "two"
    events = []
    follow(two_processes(place, folder, encoded), folder, events.append)
    optimizer = dataclasses.replace(job.training.optimizer, eps=1e-3)
    whole = train(place / "one", dataclasses.replace(job.training, optimizer=optimizer, save_every=0))
    ours, theirs = load(folder / "adapter.safetensors").layers, whole.layers
    assert ours.keys() == theirs.keys()
    for name, delta in theirs.items():
        assert (ours[name].dense() - delta.dense()).norm() <= 1e-5 * delta.dense().norm(), name
        assert delta.dense().norm() > 1e-3
    assert [event.step for event in events if isinstance(event, Stepped)] == list(range(1, STEPS + 1))
    assert len(list((folder / "previews").iterdir())) == 3  # by the first process alone


class Interrupted(Exception):
    pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups")
def test_ctrl_c_in_the_terminal_of_two_processes_keeps_their_state(inside, place, tmp_path):
    """A terminal tells the launcher and its processes at once, and a launcher may pass it on once more."""
    folder, log = place / "both", tmp_path / "log.txt"
    arguments = two_processes(place, folder, inside[0].save(tmp_path / "encoded.safetensors"))
    with log.open("wb") as errors:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    try:
        wait_for_a_step(process)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=GUARD)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert 0 < newest_step(folder) < STEPS, log.read_text()[-3000:]
    assert TrainState.peek(newest(folder)).numbers["processes"] == 2
    [kept] = folder.glob("adapter-stopped-at-*.safetensors")
    assert int(re.search(r"(\d+)\.saf", kept.name)[1]) == newest_step(folder)


@pytest.fixture
def said(comfy, monkeypatch, caplog, place, tmp_path):
    """What the command says and returns, in this process: all these errors come before the first step."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    caplog.set_level(logging.INFO)

    def _said(text, *arguments, file=None):
        path = file or tmp_path / "run.yaml"
        if text is not None:
            path.write_text(text)
        with torch.inference_mode():
            code = main([str(path), *arguments])
        errors = [
            record.getMessage() for record in caplog.records if record.name == "krona_train" and record.levelno >= logging.ERROR
        ]
        return code, errors

    return _said


def text_of(place, **changes):
    parts = {
        "model": f"{{checkpoint: {place}/tiny.safetensors}}",
        "pictures": f"{{folder: {place}/pictures, prompt: a robot}}",
        "training": "{steps: 2, data: {resolution: 64, bucket_step: 8}}",
        **changes,
    }
    return "".join(f"{name}: {value}\n" for name, value in parts.items())


ERRORS = {
    "a setting that does not exist": ({"training": "{stepps: 3}"}, r"run\.yaml: There is no setting training\.stepps"),
    "a ComfyUI that is none": ({"comfyui": "nowhere"}, r"nowhere: ComfyUI is not found\. Write comfyui: "),
    "no model": ({"model": "{}"}, r"^model: No model is named"),
    "a model that is not there": ({"model": "{checkpoint: gone.safetensors}"}, r"gone\.safetensors: ComfyUI cannot load it: .*No such"),
    "a diffusion model that is not there": ({"model": "{diffusion_model: gone.safetensors}"}, r"gone\.safetensors: ComfyUI cannot"),
    "a model that is a text": ({"model": "{checkpoint: text.safetensors}"}, r"text\.safetensors: ComfyUI cannot load it"),
    "a model that is empty": ({"model": "{checkpoint: empty.safetensors}"}, r"empty\.safetensors: ComfyUI cannot load it"),
    "a model that is cut short": ({"model": "{checkpoint: cut.safetensors}"}, r"cut\.safetensors: ComfyUI cannot load it"),
    "a model that is a pickle": ({"model": "{checkpoint: pickle.ckpt}"}, r"pickle\.ckpt: ComfyUI cannot load it"),
    "a model that is a folder": ({"model": "{checkpoint: .}"}, "ComfyUI cannot load it"),
    "a file that is no model": ({"model": "{checkpoint: weights.safetensors}"}, r"weights\.safetensors: ComfyUI cannot load it"),
    "a diffusion model that is none": (
        {"model": "{diffusion_model: weights.safetensors}"},
        r"weights\.safetensors: ComfyUI cannot load it",
    ),
    "a weight type that is none": ({"model": "{diffusion_model: a, weight_dtype: int1}"}, "There is no weight_dtype int1"),
    "a checkpoint without a text encoder": ({"model": "{checkpoint: bare.safetensors}"}, "brings no text encoder"),
    "a checkpoint without a VAE": ({"model": "{checkpoint: bare.safetensors}"}, "and no VAE. Load them .* or name their file"),
    "a VAE of another family": (
        {"model": "{checkpoint: tiny.safetensors, vae: wide-vae.safetensors}"},
        "vae: The VAE belongs to another family: it makes latents of 16 channels and 2 dimensions, and this sd_v1 model draws latents of 4 ",
    ),
    "a start that is not there": (
        {"model": "{checkpoint: tiny.safetensors}", "start": "gone.safetensors"},
        r"gone\.safetensors: This file cannot be read: the file cannot be opened",
    ),
    "a start of another model": ({"model": "{checkpoint: tiny.safetensors}", "start": "other.safetensors"}, "None of the adapter's 1 layers"),
    "no name": ({"name": "''"}, "run.yaml: name is ''; it must be a text that a folder can be called"),
    "a name of dots": ({"name": "../.."}, r"run.yaml: name is '\.\./\.\.'"),
    "repeats of zero": ({"pictures": "{folder: a, prompt: a, repeats: 0}"}, "pictures.repeats is 0; it must be from 1 to 10000"),
    "class pictures below zero": ({"pictures": "{folder: a, class_count: -1}"}, "pictures.class_count is -1; it must be from 0"),
    "a rate of zero": ({"training": "{optimizer: {learning_rate: 0}}"}, r"training\.optimizer\.learning_rate is 0\.0; it must be above 0"),
    "rates that train nothing": (
        {"training": "{optimizer: {rate_b: 0.0}, data: {resolution: 64, bucket_step: 8}}"},
        "Nothing would be trained: rate_b is 0",
    ),
    "text encoders of no kind": (
        {"model": "{checkpoint: bare.safetensors, text_encoders: [a], clip_type: NONE}"},
        "There is no clip_type NONE",
    ),
    "a text encoder that is not there": (
        {"model": "{checkpoint: bare.safetensors, text_encoders: [gone.safetensors]}"},
        r"gone\.safetensors: ComfyUI cannot load it",
    ),
    "a VAE that is not there": ({"model": "{checkpoint: bare.safetensors, vae: gone.safetensors}"}, "gone.safetensors: ComfyUI"),
    "a VAE that is none": ({"model": "{checkpoint: bare.safetensors, vae: weights.safetensors}"}, "weights.safetensors: ComfyUI"),
    "a sampler that is none": (
        {"training": "{steps: 2, preview: {every: 1, sampler: magic}, data: {resolution: 64}}"},
        "preview.sampler: ComfyUI has no sampler 'magic'",
    ),
    "no pictures": ({"pictures": "{}"}, "No folder with pictures is named"),
    "pictures that are not there": ({"pictures": "{folder: gone, prompt: a}"}, "gone: There is no such folder"),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRORS)
def test_what_cannot_work_is_said_in_one_line_with_exit_code_2_and_leaves_nothing(what, said, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, message = ERRORS[what]
    (tmp_path / "text.safetensors").write_text("this is no model at all, only a text that is long enough")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "cut.safetensors").write_bytes((place / "tiny.safetensors").open("rb").read(100_000))
    (tmp_path / "pickle.ckpt").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    (tmp_path / "bare.safetensors").symlink_to(tiny_models.cached("sd15", clip=False, vae=False))
    (tmp_path / "tiny.safetensors").symlink_to(place / "tiny.safetensors")
    from safetensors.torch import save_file

    save_file(
        {name: t.contiguous() for name, t in tiny_models.picture_vae(16, 1.0, 0.0).items()}, tmp_path / "wide-vae.safetensors"
    )
    save_file({f"elsewhere.lora_{end}.weight": torch.ones(3, 3) for end in ("up", "down")}, tmp_path / "other.safetensors")
    save_file({"weight": torch.ones(3, 2)}, tmp_path / "weights.safetensors")
    before = set(tmp_path.iterdir())
    code, errors = said(text_of(place, **changes))
    assert code == 2
    assert len(errors) == 1
    assert "\n" not in errors[0]
    assert re.search(message, errors[0]), errors[0]
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "run.yaml", tmp_path / ".cache"}


def test_what_a_run_cannot_go_on_with_is_said_in_one_line(said, place, outside, tmp_path):
    folder = tmp_path / "robot"
    shutil.copytree(outside, folder)
    text = (folder / "run.yaml").read_text()

    def refused(before, after):
        assert before in text
        code, errors = said(text.replace(before, after), "--resume", file=folder / "run.yaml")
        assert code == 2
        return errors[-1]

    longer = f"steps: {STEPS + 1}"
    assert f"has done {STEPS} steps already" in refused(f"steps: {STEPS}", f"steps: {STEPS - 1}")
    assert "The saved training has seed = 0" in refused("seed: 0", "seed: 1")
    assert "has optimizer.learning_rate = 0.005" in refused("learning_rate: 0.005", "learning_rate: 0.001")
    other = refused("prompt: a photo of sks robot", "prompt: a photo of a robot")
    assert "The saved training had other pictures or captions" in other
    assert 'It had "a photo of sks robot" where there is "a photo of a robot" now' in other
    shutil.copytree(place / "pictures", tmp_path / "fewer")
    (tmp_path / "fewer" / "beach.jpg").unlink()
    assert '"no picture"' in refused(f"folder: {place}/pictures", f"folder: {tmp_path}/fewer")
    for state in states(folder):
        state.write_bytes(b"no state")
    assert "can be read" in refused(f"steps: {STEPS}", longer)
    for state in states(folder):
        state.unlink()
    assert "There is no saved state to go on from" in refused(f"steps: {STEPS}", longer)


def test_an_error_reaches_the_shell(place, tmp_path):
    (tmp_path / "run.yaml").write_text(text_of(place, training="{steps: none}"))
    done = run(tmp_path / "run.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"{tmp_path}/run.yaml: training.steps is 'none'; it must be a whole number. Correct it or leave the line out.\n"
    )
