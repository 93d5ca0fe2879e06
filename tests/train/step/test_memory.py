"""A step that does not fit is computed again in a smaller way, with the same result."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_loop import config, examples
from test_state import record
from torch.testing import assert_close

from krona_ops.errors import OutOfMemoryError
from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import MemoryConfig
from krona_train.run.events import Noted, Stepped
from krona_train.step.plan import Plan, is_out_of_memory

ROOT = Path(__file__).resolve().parents[3]


class Tight(ToyBackbone):
    """A toy on a device that holds the activations of so many samples, five times as many with checkpointing."""

    room = 100

    def predict(self, x_t, sigma, conditions):
        is_checkpointed = "forward" in self.net.attn1.__dict__
        if len(x_t) > self.room * (5 if is_checkpointed else 1):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().predict(x_t, sigma, conditions)


def tight(room):
    backbone = Tight()
    backbone.room = room
    return backbone


@pytest.mark.parametrize(
    ("room", "told"),
    [
        (2, ["checkpointing, 8 pictures at a time"]),
        (1, ["checkpointing, 8 pictures at a time", "checkpointing, 4 pictures at a time"]),
        (0.5, [f"checkpointing, {n} picture{'s' if n > 1 else ''} at a time" for n in (8, 4, 2)]),
    ],
)
def test_the_step_is_retried_smaller_and_the_adapter_is_the_same(room, told):
    chosen = config(batch_size=8, steps=6)
    events = record(chosen, backbone=tight(room))
    assert [e.text.split("going on with ")[1].split(".")[0] for e in events if isinstance(e, Noted)] == told
    plain = record(chosen)
    for name, delta in plain[-1].adapter.layers.items():
        assert_close(events[-1].adapter.layers[name].dense(), delta.dense(), rtol=1e-3, atol=1e-6)
    losses = [[e.loss for e in run if isinstance(e, Stepped)] for run in (events, plain)]
    assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_at_all_says_what_to_do_and_loses_nothing():
    events = []
    backbone = tight(3)

    def sink(event):
        events.append(event)
        if isinstance(event, Stepped) and event.step == 4:
            backbone.room = 0

    expected = r"Step 5 does not fit in memory.*1 picture at a time.*Lower the resolution"
    with pytest.raises(OutOfMemoryError, match=expected):
        fit(backbone, examples(), config(batch_size=3), sink)
    assert events[-1].step == events[-1].state.step == 4
    rest, whole = record(config(batch_size=3), resume=events[-1].state)[-1], record(config(batch_size=3))[-1]
    for name, delta in whole.adapter.layers.items():  # it goes on with one picture at a time: the same up to rounding
        assert_close(rest.adapter.layers[name].dense(), delta.dense(), rtol=1e-3, atol=1e-6)


def test_a_run_that_goes_on_keeps_the_smaller_plan():
    stopped = record(config(batch_size=8, steps=6), backbone=tight(0.5), stop_after=3)[-1].state
    whole = record(config(batch_size=8, steps=6), backbone=tight(0.5))
    rest = record(config(batch_size=8, steps=6), backbone=tight(0.5), resume=stopped)
    assert [e for e in rest if isinstance(e, Noted)] == []
    assert rest[-1].adapter == whole[-1].adapter


def test_other_errors_pass():
    class Broken(ToyBackbone):
        def predict(self, x_t, sigma, conditions):
            raise RuntimeError("expected scalar type Half")

    with pytest.raises(RuntimeError, match="scalar type Half"):
        fit(Broken(), examples(), config())


def test_plans_go_down_to_one_picture_and_then_offload():
    plan, seen = Plan("none"), []
    while plan is not None:
        seen.append((plan.checkpointing, plan.pieces))
        plan = plan.smaller(6)
    assert seen == [("none", 1), ("blocks", 1), ("blocks", 2), ("blocks", 4), ("blocks", 6), ("offloaded", 6)]


@pytest.mark.parametrize("mode", ["blocks", "offloaded"])
def test_checkpointing_gives_the_same_adapter(mode):
    plain, ours = (
        fit(ToyBackbone(), examples(), config()),
        fit(ToyBackbone(), examples(), config(memory=MemoryConfig(checkpointing=mode))),
    )
    for name, delta in plain.layers.items():
        assert_close(ours.layers[name].dense(), delta.dense(), rtol=1e-4, atol=1e-7)


REAL = """
import resource
import torch
try:
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    torch.empty(1 << 40)
except RuntimeError as error:
    from krona_train.step.plan import is_out_of_memory
    print(type(error).__name__, is_out_of_memory(error))
"""


def test_the_cpus_own_refusal_is_recognised():
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["RuntimeError", "True"]
    assert not is_out_of_memory(RuntimeError("size mismatch"))
