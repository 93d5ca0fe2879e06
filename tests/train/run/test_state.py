"""A training that stops and goes on is the training that never stopped: bitwise, after any stop, kill -9 included."""

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forks import KILLED, Forked, train_toy
from test_loop import config, examples
from torch.testing import assert_close

from krona_ops import TargetRule, load
from krona_ops.errors import AdapterFileError, ConfigError, KronaError, NonFiniteError
from krona_ops.files import load_tensors, save_tensors
from krona_ops.formats.header import read_header
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example
from krona_train.config import BranchConfig, DenoisingConfig
from krona_train.run import folder as runs
from krona_train.run.events import Ended, Noted, Saved, Stepped
from krona_train.run.folder import Run
from krona_train.run.state import AS_THEN, TrainState, newest, newest_whole, same_run, states

ROOT = Path(__file__).resolve().parents[3]


def settings(**changes):
    return config(**{"steps": 12, "batch_size": 2, "accumulate": 2, "save_every": 1, **changes})


def steps_in(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["event"] == "step"]


def record(settings, resume=None, stop_after=None, backbone=None, data=None):
    events = []

    def sink(event):
        events.append(event)
        if isinstance(event, Stepped) and event.step == stop_after:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        fit(backbone or ToyBackbone(), data or examples(), settings, sink, resume)
    return events


@pytest.mark.parametrize("k", [1, 2, 5, 8, 11])
def test_k_steps_and_the_rest_are_bitwise_all_steps(k, tmp_path):
    whole = record(settings())
    stopped = record(settings(), stop_after=k)[-1]
    state = TrainState.load(stopped.state.save(tmp_path / "state.safetensors"))
    rest = record(settings(), resume=state)
    assert rest[0].done == k
    losses = [e.loss for e in whole if isinstance(e, Stepped)]
    assert [e.loss for e in rest if isinstance(e, Stepped)] == losses[k:]
    assert rest[-1].adapter == whole[-1].adapter
    ours, theirs = rest[-1].state.tensors, whole[-1].state.tensors
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert any(key.startswith("optimizer.") for key in theirs)


def test_a_state_that_was_read_as_nodes_read_goes_on_too_and_stays_as_it_was(tmp_path):
    """Nodes run under inference mode; nothing may move a tensor that was made there, nor need it."""
    stopped = record(settings(), stop_after=5)[-1]
    with torch.inference_mode():
        state = TrainState.load(stopped.state.save(tmp_path / "state.safetensors"))
        assert all(tensor.is_inference() for tensor in state.tensors.values())
        assert any(key.startswith("ema.") for key in state.tensors)
    assert record(settings(), resume=state)[-1].adapter == record(settings())[-1].adapter
    assert all(torch.equal(state.tensors[key], tensor) for key, tensor in stopped.state.tensors.items())


def test_a_finished_run_goes_on_for_more_steps():
    short = record(settings(steps=7))[-1]
    assert record(settings(steps=12), resume=short.state)[-1].adapter == record(settings())[-1].adapter


def test_accumulating_is_a_larger_batch():
    small = record(settings(batch_size=1, accumulate=4, steps=5))[-1].adapter
    large = record(settings(batch_size=4, accumulate=1, steps=5))[-1].adapter
    for name, delta in large.layers.items():
        assert_close(small.layers[name].dense(), delta.dense(), rtol=1e-3, atol=1e-6)


def test_states_come_as_often_as_asked_and_looking_changes_nothing():
    events = record(settings(save_every=4))
    assert [e.state.step for e in events if isinstance(e, Saved)] == [4, 8]
    assert events[-1].adapter == record(settings(save_every=0))[-1].adapter
    assert [e for e in record(settings(save_every=0)) if isinstance(e, Saved)] == []


CHANGES = {
    "seed": (settings(seed=1), "has seed = 0"),
    "batch_size": (settings(batch_size=3), "has batch_size = 2"),
    "accumulate": (settings(accumulate=1), "has accumulate = 2"),
    "targets": (settings(adapter=AdapterConfig(targets=(TargetRule(factors=(4, 4)),))), "has adapter.targets = "),
    "rate": (settings(optimizer=OptimizerConfig(learning_rate=1e-3)), "has optimizer.learning_rate = 0.01"),
    "steps": (settings(steps=4), "has done 5 steps already.*Set as many to get its result"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_going_on_with_other_settings_is_an_error_that_names_them(name):
    state = record(settings(steps=5))[-1].state
    changed, message = CHANGES[name]
    with pytest.raises(ConfigError, match=message):
        fit(ToyBackbone(), examples(), changed, resume=state)


def test_a_training_from_before_widths_counted_goes_on_only_without_them(tmp_path):
    plain = settings(optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0))
    path = record(plain, stop_after=3)[-1].state.save(tmp_path / "state-1.safetensors")
    header = read_header(path).metadata
    told = json.loads(header["krona.config"])
    del told["optimizer"]["rate_by_width"]
    save_tensors(load_tensors(path), path, {**header, "krona.config": json.dumps(told)})
    assert record(plain, resume=TrainState.load(path))[-1].adapter == fit(ToyBackbone(), examples(), plain)
    with pytest.raises(ConfigError, match=r"optimizer\.rate_by_width = 0\.0"):
        record(replace(plain, optimizer=OptimizerConfig(learning_rate=1e-2)), resume=TrainState.load(path))


def test_a_training_from_before_embedded_guidance_goes_on_as_it_began_and_another_value_is_another_training(tmp_path):
    """A graph or run.yaml of that time does not name the setting, so its default must not make another training of the run."""
    then = settings(objective=DenoisingConfig(embedded_guidance=0.0))
    folder = tmp_path / "run"
    path = record(then, stop_after=3)[-1].state.save(folder / "state-00000003.safetensors")
    header = read_header(path).metadata
    told, numbers = json.loads(header["krona.config"]), json.loads(header["krona.numbers"])
    del told["objective"]["embedded_guidance"], told["preview"]["embedded_guidance"], numbers[AS_THEN], numbers["start"]
    older = {**header, "krona.config": json.dumps(told), "krona.numbers": json.dumps(numbers)}
    save_tensors(load_tensors(path), path, older)
    state = TrainState.load(path)
    assert state.adopted(settings()) == then
    assert same_run([folder], settings(), state.base, state.data) is not None
    on_purpose = settings(objective=DenoisingConfig(embedded_guidance=2.0))
    assert state.adopted(on_purpose) == on_purpose
    assert same_run([folder], on_purpose, state.base, state.data) is None
    with pytest.raises(ConfigError, match=r"objective\.embedded_guidance = 0\.0"):
        record(on_purpose, resume=state)
    # Stopped once more, it is still the run of that graph; a run that was begun at 0 on purpose is not.
    later = record(state.adopted(settings()), resume=state, stop_after=5)[-1].state
    later = TrainState.load(later.save(folder / "state-00000005.safetensors"))
    assert later.adopted(settings()) == then
    assert record(then, resume=later)[-1].adapter == record(then)[-1].adapter
    assert record(then, stop_after=3)[-1].state.adopted(settings()) == settings()


@pytest.mark.parametrize(("mode", "then"), [("first", "with the others"), ("views", "alone")])
def test_a_branch_from_before_there_was_a_choice_goes_on_reading_the_first_frame_with_the_others(tmp_path, mode, then):
    """The default has changed for those that look at a first frame; others never ask."""
    began = settings(objective=BranchConfig(mode=mode, reading=then))
    state = replace(record(settings(), stop_after=3)[-1].state, config=began)
    path = state.save(tmp_path / "state-00000003.safetensors")
    header = read_header(path).metadata
    told, numbers = json.loads(header["krona.config"]), json.loads(header["krona.numbers"])
    del told["objective"]["reading"], numbers[AS_THEN]
    older = {**header, "krona.config": json.dumps(told), "krona.numbers": json.dumps(numbers)}
    save_tensors(load_tensors(path), path, older)
    state = TrainState.load(path)
    assert state.config == began
    assert state.adopted(settings(objective=BranchConfig(mode=mode))) == began
    assert state.numbers[AS_THEN] == (["objective.reading"] if mode == "first" else [])


JUMPS = {"constant": "", "linear": "rises", "cosine": "rises", "polynomial": "rises"}


@pytest.mark.parametrize("schedule", JUMPS)
def test_a_schedule_over_more_steps_than_the_run_began_with_says_that_the_rate_jumps(schedule):
    def with_steps(steps):
        return settings(steps=steps, optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, schedule=schedule))

    short = record(with_steps(4))
    rates = [event.learning_rate for event in short if isinstance(event, Stepped)]
    longer = record(with_steps(8), resume=short[-1].state)
    after = [event.learning_rate for event in longer if isinstance(event, Stepped)]
    assert (
        after == [event.learning_rate for event in record(with_steps(8)) if isinstance(event, Stepped)][4:]
    )  # the longer curve
    notes = [event.text for event in longer if isinstance(event, Noted)]
    assert len(notes) == bool(JUMPS[schedule])
    if notes:
        assert after[0] > rates[-1]
        wanted = f"schedule {schedule} spreads over all steps, now 8 instead of 4: after step 4 the learning rate rises from "
        assert wanted in notes[0]
        assert f"to {after[0]:.3g}, where the curve of 8 steps stands" in notes[0]
    again = record(with_steps(8), resume=record(with_steps(8), stop_after=3)[-1].state)
    assert not any(isinstance(event, Noted) for event in again)  # as many steps as before


def test_another_base_or_other_pictures_are_refused():
    state = record(settings(steps=5))[-1].state
    with pytest.raises(ConfigError, match="had another base model"):
        fit(ToyBackbone(seed=1), examples(), settings(), resume=state)
    with pytest.raises(ConfigError, match="had other pictures or captions"):
        fit(ToyBackbone(), examples(4), settings(), resume=state)
    other = [Example(e.latent, e.condition, e.caption.upper()) for e in examples()]
    with pytest.raises(ConfigError, match="had other pictures or captions"):
        fit(ToyBackbone(), other, settings(), resume=state)


def test_a_state_of_other_layers_is_refused_by_name():
    narrow, wide = ToyBackbone(width=48), ToyBackbone(width=64)
    state = record(settings(steps=5), backbone=narrow)[-1].state
    forged = TrainState(
        5, state.tensors, state.numbers, settings(), wide.fingerprint(), record(settings(steps=5), backbone=wide)[-1].state.data
    )
    with pytest.raises(ConfigError, match=r"attn1\.to_q\.b: The saved training adapts other layers, or with other factors"):
        fit(wide, examples(), settings(), resume=forged)


def test_what_is_no_state_is_refused(tmp_path):
    path = tmp_path / "state-00000001.safetensors"
    with pytest.raises(AdapterFileError, match="cannot be opened"):
        TrainState.load(path)
    run = Run(tmp_path / "run", settings(steps=2), {})
    fit(ToyBackbone(), examples(), settings(steps=2), run)
    with pytest.raises(AdapterFileError, match="no saved training of this version"):
        TrainState.load(run.adapter_file)
    whole = newest(run.folder).read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(AdapterFileError, match="This file cannot be read"):
        TrainState.load(path)


def test_a_state_after_the_last_step_is_the_result(tmp_path):
    """A training that was killed between its last state and its result."""
    folder = tmp_path / "run"
    adapter = fit(ToyBackbone(), examples(), settings(steps=5), Run(folder, settings(steps=5), {}))
    (folder / "adapter.safetensors").unlink()
    again = Run(folder, settings(steps=5), {})
    assert fit(ToyBackbone(), examples(), settings(steps=5), again, newest_whole(folder)) == adapter
    assert dict(load(again.adapter_file).layers) == dict(adapter.layers)
    assert [row["step"] for row in steps_in(folder)] == [1, 2, 3, 4, 5]


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def retell(path, **changes):
    header = {**read_header(path).metadata, **{f"krona.{key}": value for key, value in changes.items()}}
    save_tensors(load_tensors(path), path, {key: value for key, value in header.items() if value is not None})


NUMBERS = {
    "no number of processes": {"processes": None},
    "processes of text": {"processes": "1"},
    "a look that is no number": {"looked": [1]},
    "a best without its loss": {"best": {"misses": 1}},
    "a best of lists": {"best": {"loss": [], "misses": {}}},
    "another plan": {"plan": {"checkpointing": "all", "pieces": 1}},
    "a plan of no pieces": {"plan": {"checkpointing": "none", "pieces": 0}},
    "groups that are none": {"groups": 5},
    "an optimizer of names": {"optimizer": {"a": {}}},
    "settings of the future": {"as then": ["objective.__class__"]},
    "settings that are no names": {"as then": [["x"]]},
    "a start of numbers": {"start": 7},
}
DAMAGE = {
    "cut short": cut_short,
    "one bit of a number": flip,
    "empty": lambda path: path.write_bytes(b""),
    "no settings": lambda path: retell(path, config=None),
    "settings that are no JSON": lambda path: retell(path, config="x"),
    "settings that are a list": lambda path: retell(path, config="[]"),
    "settings of settings": lambda path: retell(path, config='{"objective": 5, "optimizer": []}'),
    "unknown settings": lambda path: retell(path, config='{"dreams": 5}'),
    "settings without end": lambda path: retell(path, config="[" * 5000),
    "a step of four hundred digits": lambda path: retell(path, step="9" * 400),
    "no step": lambda path: retell(path, step=""),
    "numbers without end": lambda path: retell(path, numbers='{"a":' * 3000),
    **{
        what: lambda path, change=change: retell(
            path, numbers=json.dumps({**json.loads(read_header(path).metadata["krona.numbers"]), **change})
        )
        for what, change in NUMBERS.items()
    },
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of five steps with all its states."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    kept = settings(steps=5, keep_states=9)
    fit(ToyBackbone(), examples(), kept, Run(folder, kept, {}))
    return folder


@pytest.mark.parametrize("what", DAMAGE)
def test_the_newest_whole_state_is_taken_and_the_damaged_one_named(what, finished, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    damaged = newest(folder)
    DAMAGE[what](damaged)
    with pytest.raises(KronaError):
        TrainState.load(damaged)
    state = newest_whole(folder)
    assert state.step == 4
    assert "state-00000005.safetensors" in caplog.text
    found = same_run([folder], settings(steps=5), state.base, state.data)
    assert found is not None
    for path in states(folder)[:-1]:
        path.unlink()
    with pytest.raises(AdapterFileError, match=r"None of the run's saved states can be read: state-00000005\.safetensors"):
        newest_whole(folder)


def test_a_run_whose_newest_state_is_damaged_goes_on_and_keeps_what_is_whole(finished, tmp_path):
    folder, kept = tmp_path / "run", settings(steps=8, keep_states=1, save_every=1)
    shutil.copytree(finished, folder)
    for path in states(folder)[:2]:
        path.unlink()
    cut_short(newest(folder))

    run = Run(folder, kept, {})

    def stop(event):
        run(event)
        if isinstance(event, Saved):  # of step 5: written over the damaged one
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(ToyBackbone(), examples(), kept, stop, newest_whole(folder))
    assert newest_whole(folder).step == 5
    assert (
        fit(ToyBackbone(), examples(), kept, Run(folder, kept, {}), newest_whole(folder))
        == record(settings(steps=8))[-1].adapter
    )


def test_pruning_never_counts_a_damaged_state_of_a_later_step(finished, tmp_path):
    folder, kept = tmp_path / "run", settings(steps=5, keep_states=1)
    shutil.copytree(finished, folder)
    for path in states(folder)[1:-1]:
        path.unlink()
    cut_short(newest(folder))
    run = Run(folder, kept, {})
    seen = []

    def look(event):
        run(event)
        if isinstance(event, Saved):
            seen.append(newest_whole(folder).step)

    fit(ToyBackbone(), examples(), kept, look, newest_whole(folder))
    assert seen == [2, 3, 4]
    assert [path.name for path in states(folder)] == ["state-00000005.safetensors"]


MOMENTS = {
    "groups of another number": lambda tensors, numbers: numbers["groups"].append({}),
    "a rate of text": lambda tensors, numbers: numbers["groups"][0].update(lr="fast"),
    "betas of another length": lambda tensors, numbers: numbers["groups"][0].update(betas=[0.9]),
    "parameters of its own": lambda tensors, numbers: numbers["groups"][0].update(params=[0]),
    "a moment of another shape": lambda tensors, numbers: tensors.update({"optimizer.0.exp_avg": torch.zeros(3, 3)}),
    "a moment that is missing": lambda tensors, numbers: tensors.pop("optimizer.0.exp_avg_sq"),
    "a step that is missing": lambda tensors, numbers: tensors.pop("optimizer.0.step"),
    "a moment of a factor that is none": lambda tensors, numbers: tensors.update({"optimizer.999.exp_avg": torch.zeros(1)}),
    "a moment of no factor": lambda tensors, numbers: tensors.update({"optimizer.x.exp_avg": torch.zeros(1)}),
    "an average that is missing": lambda tensors, numbers: tensors.pop(next(key for key in tensors if key.startswith("ema."))),
}


@pytest.mark.parametrize("what", MOMENTS)
def test_an_optimizer_that_does_not_fit_is_refused(what, finished):
    state = newest_whole(finished)
    tensors, numbers = dict(state.tensors), json.loads(json.dumps(state.numbers))
    MOMENTS[what](tensors, numbers)
    forged = replace(state, tensors=tensors, numbers=numbers)
    with pytest.raises(ConfigError, match=r"optimizer is another one, or damaged|adapts other layers"):
        fit(ToyBackbone(), examples(), settings(steps=9), resume=forged)


def test_layers_that_learn_at_rates_of_their_own_go_on_too(tmp_path):
    """The optimizer numbers its factors by groups, which are not in the layers' order then."""
    rates = settings(optimizer=OptimizerConfig(learning_rate=1e-3, rate_b=2.0, rate_by_width=0.8))
    stopped = record(rates, stop_after=5)[-1]
    assert len(stopped.state.numbers["groups"]) > 1
    state = TrainState.load(stopped.state.save(tmp_path / "state.safetensors"))
    assert record(rates, resume=state)[-1].adapter == record(rates)[-1].adapter


def test_a_folder_that_was_killed_before_its_first_state_can_begin_again(tmp_path):
    folder = tmp_path / "run"

    def die(event):
        run(event)
        if isinstance(event, Stepped) and event.step == 3:
            raise SystemExit  # as a kill: nothing is told of the end

    run = Run(folder, settings(save_every=0), {})
    with pytest.raises(SystemExit):
        fit(ToyBackbone(), examples(), settings(save_every=0), die)
    for path in (*states(folder), *folder.glob("adapter*")):
        path.unlink()
    assert newest_whole(folder) is None
    again = Run(folder, settings(save_every=0), {})
    adapter = fit(ToyBackbone(), examples(), settings(save_every=0), again)
    assert adapter == record(settings())[-1].adapter
    assert [row["step"] for row in steps_in(folder)] == list(range(1, 13))


def test_a_folder_that_goes_while_it_is_written_is_an_error_of_ours(tmp_path):
    folder = tmp_path / "run"
    run = Run(folder, settings(), {})

    def lose(event):
        if isinstance(event, Stepped) and event.step == 3:
            shutil.rmtree(folder)
        run(event)

    with pytest.raises(AdapterFileError, match="The run's folder cannot be written: No such file"):
        fit(ToyBackbone(), examples(), settings(), lose)


def test_states_that_somebody_else_removed_are_no_reason_to_stop(tmp_path, monkeypatch):
    real = runs.states
    monkeypatch.setattr(runs, "states", lambda folder: [folder / "state-00000000.safetensors", *real(folder)])
    fit(ToyBackbone(), examples(), settings(steps=4), Run(tmp_path / "run", settings(steps=4), {}))
    assert (tmp_path / "run" / "adapter.safetensors").exists()


def test_nan_leaves_the_state_of_the_last_good_step():
    data = examples()
    data[3] = Example(data[3].latent * torch.nan, data[3].condition, data[3].caption)
    events = []
    with pytest.raises(NonFiniteError):
        fit(ToyBackbone(), data, settings(batch_size=1, accumulate=1), events.append)
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert all(torch.isfinite(t).all() for t in ended.state.tensors.values())
    assert ended.state.step == ended.step < 5


def test_a_run_folder_keeps_the_newest_states_and_its_history_when_it_goes_on(tmp_path):
    whole = Run(tmp_path / "whole", settings(), {})
    fit(ToyBackbone(), examples(), settings(), whole)
    assert [p.name for p in states(whole.folder)] == ["state-00000011.safetensors", "state-00000012.safetensors"]

    folder = tmp_path / "parts"
    first = Run(folder, settings(), {})

    def stop(event):
        first(event)
        if isinstance(event, Stepped) and event.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(ToyBackbone(), examples(), settings(), stop)
    assert first.adapter_file.name == "adapter-stopped-at-000007.safetensors"
    newest(folder).unlink()  # as if the last save had not been reached: step 7 is done again
    second = Run(folder, settings(), {})
    fit(ToyBackbone(), examples(), settings(), second, TrainState.load(newest(folder)))
    assert second.losses == whole.losses
    assert [(row["step"], row["loss"]) for row in steps_in(folder)] == list(enumerate(whole.losses, 1))
    assert dict(load(second.adapter_file).layers) == dict(load(whole.adapter_file).layers)
    assert not list(folder.glob("adapter-stopped-*"))


@pytest.mark.parametrize("damage", [None, b"", b"\x00\x00\x00", b'{"step": 3, "lo'])
def test_lost_or_damaged_metrics_do_not_keep_a_run_from_going_on(tmp_path, damage, caplog):
    """What a power cut may leave of a file that is not forced to the disk at every step."""
    folder = tmp_path / "run"
    fit(ToyBackbone(), examples(), settings(steps=5), Run(folder, settings(steps=5), {}))
    metrics = folder / "metrics.jsonl"
    if damage is None:
        metrics.unlink()
    else:
        metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:4]) + damage)
    rest = Run(folder, settings(), {})
    adapter = fit(ToyBackbone(), examples(), settings(), rest, TrainState.load(newest(folder)))
    assert adapter == record(settings())[-1].adapter
    assert f"metrics of {5 if damage is None else 3} of 5 steps are lost" in caplog.text
    steps = [row["step"] for row in steps_in(folder)]
    assert steps == ([] if damage is None else [1, 2]) + list(range(6, 13))


KILLS = 6
"""`make test-slow` kills trainings seventy times more."""


def heard_out(process):
    """The status of a process that is heard to its end."""
    with contextlib.suppress(EOFError):
        while process.hear():
            pass
    return process.wait()


def test_killed_again_and_again_the_finished_adapter_is_bitwise_that_of_a_run_in_peace(tmp_path):
    """Each kill comes after a random number of events and a random moment more, wherever the run is then."""
    expected = fit(ToyBackbone(), examples(), settings(steps=60, keep_states=2))
    rng, folder, reached = torch.Generator().manual_seed(1), tmp_path / "run", []
    for _ in range(KILLS):
        process = Forked(train_toy, folder)
        for _ in range(int(torch.randint(1, 10, (), generator=rng))):
            process.hear()  # the run does not end by itself
        process.wait(float(torch.rand((), generator=rng)) * 0.02)
        assert process.kill() == KILLED
        state = newest(folder)
        if state is not None:
            reached.append(TrainState.load(state).step)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # killed before the first state: nothing to go on from
    assert reached == sorted(reached)
    assert 0 < reached[-1] < 60
    assert heard_out(Forked(train_toy, folder)) == 0
    assert dict(load(folder / "adapter.safetensors").layers) == dict(expected.layers)
    assert len(states(folder)) == 2  # also what kills between writing one and deleting the oldest had left
    assert [row["step"] for row in steps_in(folder)] == list(range(1, 61))


FULL = """
import resource, signal, sys
sys.path[:0] = ["tests/support", "tests/train", "tests/train/run", "."]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from test_state import settings
from test_loop import examples
from krona_ops.errors import AdapterFileError
from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.run.events import Saved
from krona_train.run.folder import Run
run = Run(Path(sys.argv[1]), settings(), {})
def sink(event):
    if isinstance(event, Saved) and event.state.step == 5:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    run(event)
try:
    fit(ToyBackbone(), examples(), settings(), sink)
except AdapterFileError as error:
    print(error)
"""


def test_a_full_disk_stops_the_training_and_the_state_before_it_still_goes_on(tmp_path):
    folder = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "cannot be written: File too large" in done.stdout
    assert newest(folder).name == "state-00000004.safetensors"
    assert not list(folder.glob(".*.part"))
    rest = Run(folder, settings(), {})
    adapter = fit(ToyBackbone(), examples(), settings(), rest, TrainState.load(newest(folder)))
    assert adapter == record(settings())[-1].adapter


def test_settings_of_states_are_checked():
    with pytest.raises(ConfigError, match="accumulate is 0"):
        TrainConfig(accumulate=0)
    with pytest.raises(ConfigError, match="keep_states is 0"):
        TrainConfig(keep_states=0)
