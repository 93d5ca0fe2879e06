"""Several processes that train together are one process with the larger batch; whatever happens in one of them, all end.

The processes are real ones, on the CPU. This file is also the program that they run: all that they can go on after is done in
one launch, because starting takes longer than training.
"""

import contextlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import config, examples
from torch import nn

from krona_ops.errors import ConfigError, NonFiniteError
from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example, Item, Seen
from krona_train.config import EmaConfig, OptimizerConfig, PriorConfig, ValidationConfig
from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.objectives.score_matching_config import ScoreMatchingConfig
from krona_train.processes.together import Accelerated, OneProcess
from krona_train.run.events import Ended, Noted, Saved, Stepped, Validated
from krona_train.run.requests import Ask
from krona_train.run.state import TrainState
from krona_train.settings.groups import SparseConfig

ROOT = Path(__file__).resolve().parents[3]
LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"),
    *("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "--multi_gpu"),
)
GUARD = 240.0
"""Seconds; only a failing test waits for them."""


class Backbone(ToyBackbone):
    """In float64, so that what is compared is the arithmetic of the processes and not the order of float32 sums."""

    def __init__(self, fault=lambda pictures: None):
        super().__init__()
        self.net.double()
        self._fault = fault

    def predict(self, x_t, sigma, conditions):
        if torch.is_grad_enabled():
            self._fault(len(x_t))
        return super().predict(x_t.double(), sigma, conditions)  # drawings are kept in float32


def pictures(count=7, seed=1):
    return [
        Item((Example(e.latent.double(), e.condition.double(), e.caption, None, 0.5 * e.condition.double()),))
        for e in examples(count, seed)
    ]


def two_sizes():
    tall = [
        Item((Example(f.latent.mT.contiguous(), f.condition, f"tall {f.caption}"),)) for i in pictures(4, 2) for f in i.forms
    ]
    return [*pictures(4), *tall]


def drawings(moments):
    """Five drawings in so many moments, as an objective has them that learns from what the model has drawn."""
    rng, items = torch.Generator().manual_seed(4), []
    for item in pictures(5, 3):
        [form] = item.forms
        shape = form.latent.shape
        seen = [
            Seen(
                torch.randn(shape, generator=rng, dtype=torch.float64), 0.9 - 0.2 * n, 1.5 + n,
                torch.randn(shape, generator=rng, dtype=torch.float64),
            )
            for n in range(moments)
        ]  # fmt: skip
        items.append(Item(tuple(Example(None, form.condition, form.caption, shape=shape, seen=each) for each in seen)))
    return items


def train(
    runtime, data=None, class_data=(), fault=lambda pictures: None, resume=None, asked=lambda events: Ask.NOTHING, **changes
):
    """What a training tells, as plain values."""
    per_process = changes.pop("per_process", 1)
    settings = config(**{"steps": 20, "batch_size": per_process * 2 // runtime.count, **changes})
    events, error = [], None
    try:
        fit(
            Backbone(fault), data or pictures(), settings, events.append, resume,
            class_data=class_data, runtime=runtime, asked=lambda: asked(events),
        )  # fmt: skip
    except (Exception, KeyboardInterrupt) as raised:  # noqa: BLE001 (it is looked at where the processes meet)
        error = raised
    ended = events[-1] if events and isinstance(events[-1], Ended) else None
    return {
        "weights": {} if ended is None else {name: delta.dense() for name, delta in ended.adapter.layers.items()},
        "state": None if ended is None else ended.state,
        "saved": {e.state.step: e.state for e in events if isinstance(e, Saved)},
        "losses": [e.loss for e in events if isinstance(e, Stepped)],
        "validations": [(e.step, e.loss, e.is_best) for e in events if isinstance(e, Validated)],
        "notes": [e.text for e in events if isinstance(e, Noted)],
        "error": error,
    }


PRIOR = {"class_data": pictures(3, 5), "prior": PriorConfig(0.7, "pictures")}
LAWS = {
    "the default": {},
    "accumulated batches": {"accumulate": 3},
    "pictures of two sizes": {"data": two_sizes()},
    "class pictures": PRIOR,
    "the model's own prior": {"prior": PriorConfig(0.7, "model")},
    "an average": {"ema": EmaConfig(0.9)},
    "a learning rate that moves": {"optimizer": OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, schedule="cosine", warmup=3)},
    "validation": {"validation": ValidationConfig(every=4, pictures=2, levels=3)},
    "an early stop": {
        "validation": ValidationConfig(every=2, pictures=2, levels=1, patience=2),
        "optimizer": OptimizerConfig(learning_rate=0.2, rate_by_width=0.0),
        "steps": 60,
    },
    "two adapters, by score matching": {"objective": ScoreMatchingConfig(), "steps": 10},
    "guidance, of drawings": {"objective": GuidanceConfig(), "data": drawings(3), "steps": 10},
    "pairs": {"objective": PairsConfig(edges=1.0, frequencies=1.0), "data": drawings(1), "steps": 10},
    "pairs in pixels": {"objective": PairsConfig(where="pixels"), "data": drawings(1), "steps": 10},
    "parts of the factors": {"adapter": replace(config().adapter, sparse=SparseConfig(3, 0.5)), "accumulate": 2},
    "everything at once": {
        "data": two_sizes(), **PRIOR, "accumulate": 2, "ema": EmaConfig(0.9), "per_process": 3,
        "validation": ValidationConfig(every=5, pictures=1, levels=2),
    },
}  # fmt: skip
"""Trainings of any number of processes; one process gets the whole batch."""


def poisoned():
    data = pictures()
    form = data[2].forms[0]
    return [
        *data[:2],
        Item((Example(form.latent * math.nan, form.condition, form.caption, None, form.class_condition),)),
        *data[3:],
    ]


def does_not_fit(number):
    """Out of memory in the second process alone, with more than one picture at a time."""

    def fault(pictures):
        if number == 1 and pictures > 1:
            raise torch.OutOfMemoryError("CUDA out of memory (as one says)")

    return fault


def talk(runtime):
    """What processes tell each other, without a training."""
    here = runtime.number
    values = [
        f"process {here} Käfer 🤖",
        0.1 + here,
        -0.0,
        math.nan,
        None,
        {"a": [here, True]},
        2**70 + here,
        "x" * 100_000 * here,
    ]
    parameters = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(4))]
    parameters[0].grad = torch.full((2, 3), 1.0 + here)
    if here:
        parameters[1].grad = torch.tensor(5.0)
    runtime.average_gradients(parameters)
    return {
        "first": [runtime.from_first(value) for value in values],
        "largest": [runtime.largest(here == n) for n in range(3)]
        + [runtime.largest(n) for n in (7 - here, here, -here, 2**40)],
        "mean": runtime.mean(torch.tensor([1.0, 7.0])[here]).item(),
        "gradients": [p.grad for p in parameters],
    }


def everything(runtime):
    done = {name: train(runtime, **options) for name, options in LAWS.items()}
    number = runtime.number
    done["talk"] = talk(runtime)
    done["out of memory"] = train(runtime, fault=does_not_fit(number), per_process=2)
    done["the same in peace"] = train(runtime, per_process=2)
    done["never fits"] = train(runtime, fault=lambda n: does_not_fit(number)(2), per_process=2)
    done["not a number"] = train(runtime, data=poisoned())
    done["stopped"] = train(runtime, asked=lambda events: Ask.STOP if number == 1 and len(events) > 5 else Ask.NOTHING)
    done["finished"] = train(runtime, asked=lambda events: Ask.FINISH if number == 1 and len(events) > 5 else Ask.NOTHING)
    done["asked to save"] = train(runtime, asked=lambda events: Ask.SAVE if number == 0 and len(events) == 7 else Ask.NOTHING)
    done["whole"] = train(runtime, save_every=8, ema=EmaConfig(0.9))
    state = TrainState.load(done["whole"]["saved"][8].save(Path(sys.argv[1]) / f"state-{number}.safetensors"))
    done["rest"] = train(runtime, resume=state, save_every=8, ema=EmaConfig(0.9))
    alone = TrainState(**{**vars(state), "numbers": {**state.numbers, "processes": 1}})
    done["rest of one process"] = train(runtime, resume=alone, save_every=8, ema=EmaConfig(0.9))
    return done


def main():
    torch.set_num_threads(1)
    runtime = Accelerated(cpu=True)
    if sys.argv[2:] == ["fail"]:

        def fail(pictures):
            if runtime.number == 1:
                raise ValueError("something that nobody expects")

        error = train(runtime, fault=fail)["error"]
        sys.stdout.write(f"process {runtime.number}: {type(error).__name__}\n")
        raise error
    torch.save(everything(runtime), Path(sys.argv[1]) / f"{runtime.number}.pt")
    runtime.close()


def launch(folder, *more):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "train")])}
    return subprocess.run(
        [*LAUNCH, __file__, str(folder), *more], env=environment, timeout=GUARD, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes has seen."""
    folder = tmp_path_factory.mktemp("two")
    done = launch(folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in (0, 1)]


@pytest.fixture
def one():
    """One process, with the threads that the others have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield OneProcess()
    torch.set_num_threads(threads)


def joined(weights):
    return torch.cat([weight.flatten().double() for weight in weights.values()])


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("what", LAWS)
def test_two_processes_are_one_with_the_batch_of_both(what, two, one):
    """Model and pictures in float64, so that only what is float32 by design can differ: factors, gradients, optimizer."""
    ours, theirs = two[0][what], train(one, **LAWS[what])
    assert ours["error"] is theirs["error"] is None
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
    a, b = joined(ours["weights"]), joined(theirs["weights"])
    assert (a - b).norm() <= 1e-5 * b.norm()
    assert b.norm() > 0.1
    for name, weight in theirs["weights"].items():
        assert (ours["weights"][name] - weight).norm() <= 1e-5 * weight.norm(), name
    assert [(step, best) for step, _, best in ours["validations"]] == [(step, best) for step, _, best in theirs["validations"]]
    if what == "an early stop":
        assert len(ours["losses"]) < 60
    if what == "validation":
        assert [step for step, *_ in ours["validations"]] == [0, 4, 8, 12, 16, 20]


def test_all_processes_have_the_same_factors_bitwise(two):
    for what, ours in two[0].items():
        if what != "talk":
            assert same(ours["weights"], two[1][what]["weights"]), what
            assert ours["losses"] == pytest.approx(two[1][what]["losses"], rel=0, abs=0), what


def test_each_batch_is_shared_out_and_none_is_seen_twice(two, one):
    """Otherwise two processes would be two copies of one."""
    copies = train(one, batch_size=1)
    assert (joined(two[0]["the default"]["weights"]) - joined(copies["weights"])).norm() > 1e-2


def test_the_first_processs_values_reach_the_others_as_they_were(two):
    expected = ["process 0 Käfer 🤖", 0.1, -0.0, math.nan, None, {"a": [0, True]}, 2**70, ""]
    for number in (0, 1):
        assert repr(two[number]["talk"]["first"]) == repr(expected)
        assert two[number]["talk"]["largest"] == [True, True, False, 7, 1, 0, 2**40]
        assert two[number]["talk"]["mean"] == 4.0


def test_gradients_are_averaged_and_missing_ones_count_as_zero_unless_all_miss_them(two):
    for number in (0, 1):
        both, one_of_two, none = two[number]["talk"]["gradients"]
        assert torch.equal(both, torch.full((2, 3), 1.5))
        assert torch.equal(one_of_two, torch.tensor(2.5))
        assert none is None


def test_one_process_alone_asks_nobody():
    runtime = OneProcess()
    values = [nn.Parameter(torch.ones(2))]
    runtime.average_gradients(values)
    assert values[0].grad is None
    assert (runtime.largest(True), runtime.largest(0), runtime.from_first("x"), runtime.mean(values[0])) == (
        True,
        False,
        "x",
        values[0],
    )


def test_out_of_memory_in_one_process_is_a_smaller_plan_in_all_and_the_same_result(two):
    notes = [
        "Out of memory: going on with checkpointing, 2 pictures at a time. The result is the same.",
        "Out of memory: going on with checkpointing, 1 picture at a time. The result is the same.",
    ]
    for number in (0, 1):
        assert two[number]["out of memory"]["notes"] == notes
        assert two[number]["out of memory"]["error"] is None
    ours, theirs = (joined(two[0][what]["weights"]) for what in ("out of memory", "the same in peace"))
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_what_does_not_fit_in_one_process_in_any_way_ends_all_with_one_error(two):
    errors = [two[number]["never fits"]["error"] for number in (0, 1)]
    assert [type(error).__name__ for error in errors] == ["OutOfMemoryError"] * 2
    assert str(errors[0]) == str(errors[1])
    assert "Step 1 does not fit in memory" in str(errors[0])


def test_a_nan_in_one_process_stops_all_before_it_reaches_the_factors(two):
    errors = [two[number]["not a number"]["error"] for number in (0, 1)]
    assert all(isinstance(error, NonFiniteError) for error in errors)
    assert str(errors[0]) == str(errors[1])
    state = two[0]["not a number"]["state"]
    assert 0 <= state.step < 7
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())


def test_one_process_that_is_asked_to_stop_stops_all_after_the_same_step(two):
    for number in (0, 1):
        assert isinstance(two[number]["stopped"]["error"], KeyboardInterrupt)
        assert two[number]["stopped"]["state"].step == 5


def test_one_process_that_is_asked_to_finish_or_to_save_has_all_of_them_do_it(two):
    for number in range(2):
        finished, saved, whole = (two[number][name] for name in ("finished", "asked to save", "the default"))
        assert finished["error"] is None
        assert finished["state"].step == 5
        assert finished["losses"] == whole["losses"][:5]
        assert list(saved["saved"]) == [6]
        assert saved["losses"] == whole["losses"]
        assert all(torch.equal(value, whole["weights"][name]) for name, value in saved["weights"].items())


def test_processes_go_on_together_bitwise(two):
    whole, rest = two[0]["whole"], two[0]["rest"]
    assert rest["losses"] == whole["losses"][8:]
    assert same(rest["weights"], whole["weights"])
    assert same(rest["state"].tensors, whole["state"].tensors)


def test_going_on_with_another_number_of_processes_is_refused_by_name(two, one):
    with pytest.raises(
        ConfigError, match=r"The saved training ran in 2 processes, which share out the batches\. Go on with as many"
    ):
        fit(
            Backbone(),
            pictures(),
            config(steps=20, batch_size=1, save_every=8, ema=EmaConfig(0.9)),
            resume=two[0]["whole"]["saved"][8],
        )
    for number in (0, 1):
        assert "ran in 1 processes" in str(two[number]["rest of one process"]["error"])


def test_an_error_that_nobody_expects_in_one_process_ends_all(tmp_path):
    done = launch(tmp_path, "fail")
    assert done.returncode != 0
    assert "process 1: ValueError" in done.stdout
    assert "something that nobody expects" in done.stderr


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
