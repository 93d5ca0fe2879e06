"""A training that is asked to save, to finish or to stop: it does so at the next step, and what is trained stays the same."""

import json

import pytest
from test_loop import config, examples

from krona_ops import load
from krona_train import OptimizerConfig, fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import EmaConfig, ValidationConfig
from krona_train.run.events import Ended, Saved, Started, Stepped, to_all
from krona_train.run.folder import Run
from krona_train.run.requests import Ask, ask, asked, file_of, forget
from krona_train.run.state import TrainState, newest


def settings(**changes):
    return config(**{"steps": 12, "save_every": 0, **changes})


def train(folder, *wishes, resume=None, at=5, **changes):
    """A run that is asked for something while it is in step ``at``; its events."""
    events, run = [], Run(folder, settings(**changes), {})

    def wish(event):
        events.append(event)
        if isinstance(event, Stepped) and event.step == at:
            for what in wishes:
                ask(folder, what)

    fit(ToyBackbone(), examples(), settings(**changes), to_all(run, wish), resume, asked=lambda: asked(folder))
    return events


def layers(path):
    return dict(load(path).layers)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_nothing_is_asked_of_a_folder_that_has_no_requests_or_is_not_there(tmp_path):
    assert asked(tmp_path) is asked(tmp_path / "nowhere") is Ask.NOTHING
    forget(tmp_path / "nowhere")


def test_of_several_requests_the_largest_counts_until_it_is_forgotten(tmp_path):
    for what in (Ask.SAVE, Ask.STOP, Ask.FINISH):
        ask(tmp_path, what)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finish", "save", "stop"]
    assert asked(tmp_path) is Ask.STOP
    forget(tmp_path, Ask.STOP)
    assert asked(tmp_path) is Ask.FINISH
    forget(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", [1, 5])
def test_a_training_that_is_asked_to_finish_ends_after_that_step_with_its_adapter_as_the_result(tmp_path, at):
    events = train(tmp_path / "run", Ask.FINISH, at=at)
    ended = events[-1]
    assert (type(ended), ended.step, ended.steps, ended.error) == (Ended, at, 12, None)
    assert [e.step for e in events if isinstance(e, Stepped)] == list(range(1, at + 1))
    assert layers(tmp_path / "run" / "adapter.safetensors") == dict(fit(ToyBackbone(), examples(), settings(steps=at)).layers)
    assert not list((tmp_path / "run").glob("adapter-stopped-*"))
    assert asked(tmp_path / "run") is Ask.NOTHING
    told = {"event": "ended", "step": at, "steps": 12, "error": None, "stopped": False}
    assert told.items() <= rows(tmp_path / "run")[-1].items()


def test_a_training_that_is_asked_to_finish_before_its_first_step_does_that_step(tmp_path):
    events = []
    fit(ToyBackbone(), examples(), settings(), events.append, asked=lambda: Ask.FINISH)
    assert events[-1].step == 1


LAWS = {
    "the default": {},
    "an average": {"ema": EmaConfig(0.9)},
    "a schedule": {"optimizer": OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, schedule="cosine", warmup=3)},
    "validation": {"validation": ValidationConfig(every=5, pictures=1, levels=2)},
}


@pytest.mark.parametrize("law", LAWS)
def test_finishing_and_going_on_to_the_end_is_bitwise_a_training_that_was_never_asked(tmp_path, law):
    train(tmp_path / "whole", **LAWS[law])
    train(tmp_path / "parts", Ask.FINISH, **LAWS[law])
    train(tmp_path / "parts", at=0, resume=TrainState.load(newest(tmp_path / "parts")), **LAWS[law])
    assert layers(tmp_path / "parts" / "adapter.safetensors") == layers(tmp_path / "whole" / "adapter.safetensors")

    def measured(folder):
        kinds = {"step": "loss", "validation": "validation"}
        return [(row["step"], row[kinds[row["event"]]]) for row in rows(folder) if row["event"] in kinds]

    assert measured(tmp_path / "parts") == measured(tmp_path / "whole")
    parts = [(row["event"], row["step"]) for row in rows(tmp_path / "parts") if row["event"] in ("started", "ended")]
    assert parts == [("started", 0), ("ended", 5), ("started", 5), ("ended", 12)]


@pytest.mark.parametrize("law", LAWS)
def test_saving_on_request_keeps_state_and_adapter_of_that_step_and_never_changes_what_is_trained(tmp_path, law):
    train(tmp_path / "whole", **LAWS[law])
    events = train(tmp_path / "saved", Ask.SAVE, **LAWS[law])
    assert [e.state.step for e in events if isinstance(e, Saved)] == [5]
    folder = tmp_path / "saved"
    assert layers(folder / "adapter.safetensors") == layers(tmp_path / "whole" / "adapter.safetensors")
    train(tmp_path / "five", Ask.FINISH, **LAWS[law])
    assert layers(folder / "adapter-step-000005.safetensors") == layers(tmp_path / "five" / "adapter.safetensors")
    assert {"event": "saved", "step": 5, "adapter": True}.items() <= next(
        r for r in rows(folder) if r["event"] == "saved"
    ).items()
    assert TrainState.peek(folder / "state-00000005.safetensors").step == 5
    assert not file_of(folder, Ask.SAVE).exists()


def test_a_save_that_is_due_anyway_leaves_no_adapter_and_does_not_count_as_obeyed(tmp_path):
    events = train(tmp_path / "run", Ask.SAVE, save_every=3, at=3)
    assert [(e.state.step, e.adapter is not None) for e in events if isinstance(e, Saved)] == [
        (3, False), (3, True), (6, False), (9, False),
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "run").glob("adapter-step-*")] == ["adapter-step-000003.safetensors"]


def test_whoever_is_asked_to_save_and_to_finish_finishes_and_whoever_is_asked_to_stop_too_stops(tmp_path):
    assert train(tmp_path / "finished", Ask.SAVE, Ask.FINISH)[-1].error is None
    with pytest.raises(KeyboardInterrupt, match="Asked to stop after step 5"):
        train(tmp_path / "stopped", Ask.SAVE, Ask.FINISH, Ask.STOP)
    assert not (tmp_path / "stopped" / "adapter.safetensors").exists()
    for name in ("finished", "stopped"):
        assert asked(tmp_path / name) is Ask.NOTHING
        assert rows(tmp_path / name)[-1]["stopped"] is (name == "stopped")


def test_every_row_has_its_time_and_every_step_its_memory(tmp_path):
    events = train(tmp_path / "run", Ask.SAVE)
    told = rows(tmp_path / "run")
    assert [row["event"] for row in told] == ["started", *["step"] * 5, "saved", *["step"] * 7, "ended"]
    times = [row["time"] for row in told]
    assert times == sorted(times)
    assert all(row["memory"] > 1_000_000 for row in told if row["event"] == "step")
    [started] = [e for e in events if isinstance(e, Started)]
    assert told[0] | {"time": 0} == {
        "event": "started", "step": 0, "steps": 12, "layers": started.layers, "parameters": started.parameters,
        "notes": list(started.notes), "time": 0,
    }  # fmt: skip


def test_a_failure_is_told_from_an_interrupt(tmp_path):
    def fail(event):
        if isinstance(event, Stepped) and event.step == 2:
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        fit(ToyBackbone(), examples(), settings(), to_all(Run(tmp_path / "run", settings(), {}), fail))
    told = {"error": "ValueError: the reason", "stopped": False}
    assert told.items() <= rows(tmp_path / "run")[-1].items()
