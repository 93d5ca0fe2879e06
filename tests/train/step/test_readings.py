"""Steps that are told one step late are the same steps: same numbers, same order, and nothing moves after a NaN."""

import contextlib

import pytest
import torch
from PIL import Image
from test_loop import config, examples

from krona_ops.errors import NonFiniteError
from krona_train import OptimizerConfig, fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example
from krona_train.config import EmaConfig, MemoryConfig, PreviewConfig, ValidationConfig
from krona_train.run.events import Ended, Previewed, Saved, Stepped, Validated
from krona_train.run.requests import Ask


class Counting(ToyBackbone):
    """Counts the forward passes."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def predict(self, *told):
        self.passes += 1
        return super().predict(*told)


def events_of(settings, late, *, data=None, stop=(), **options):
    """All events of a training, and how many passes there had been at each; ``stop`` has the steps at which the sink
    raises."""
    backbone, found, passes = Counting(), [], []

    def sink(event):
        found.append(event)
        passes.append(backbone.passes)
        if isinstance(event, Stepped) and event.step in stop:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt, NonFiniteError):
        fit(backbone, data or examples(), settings, sink, late=late, **options)
    return found[1:], passes[1:]


def told(event):
    """What an event says, without the clock."""
    match event:
        case Stepped():
            return event.step, event.loss, event.grad_norm, event.learning_rate
        case Saved():
            return event.state.step, *(t.tolist() for t in event.state.tensors.values())
        case Validated():
            return event.step, event.loss, event.is_best, [d.b.value.tolist() for d in event.adapter.layers.values()]
        case Previewed():
            return (event.step,)
        case Ended():
            tensors = {name: tensor.tolist() for name, tensor in event.state.tensors.items()}
            return event.step, str(event.error), tensors, event.state.numbers["optimizer"]


def same(these, those):
    assert [type(e) for e in these] == [type(e) for e in those]
    for this, that in zip(these, those, strict=True):
        assert told(this) == told(that)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"save_every": 3},
        {"accumulate": 2, "save_every": 1},
        {"preview": PreviewConfig(every=4), "validation": ValidationConfig(every=2, pictures=2)},
        {"optimizer": OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, schedule="cosine", warmup=3)},
        {"ema": EmaConfig(decay=0.0), "save_every": 3},
    ],
    ids=["plain", "saved", "always saved", "looked at", "schedule", "no average"],
)
def test_a_late_training_tells_the_same_in_the_same_order(changes):
    settings = config(**changes)
    draw = {"preview": lambda adapter: [Image.new("RGB", (8, 8))]} if "preview" in changes else {}
    same(events_of(settings, True, **draw)[0], events_of(settings, False, **draw)[0])


def test_a_step_is_told_while_the_next_one_is_under_way_and_at_once_before_a_state_is_saved():
    at = {e.step: n for e, n in zip(*events_of(config(save_every=5), True), strict=True) if isinstance(e, Stepped)}
    assert at == {1: 2, 2: 3, 3: 4, 4: 5, 5: 5, 6: 7, 7: 8, 8: 9, 9: 10, 10: 10, 11: 12, 12: 12}
    at = {e.step: n for e, n in zip(*events_of(config(), None), strict=True) if isinstance(e, Stepped)}
    assert at == {step: step for step in range(1, 13)}  # a CPU computes with Python, not beside it


def poisoned():
    data = examples()
    data[3] = Example(data[3].latent * torch.nan, data[3].condition, data[3].caption)
    return data


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("save_every", [0, 1])
def test_after_a_nan_nothing_moves(save_every, decay):
    settings = config(batch_size=1, save_every=save_every, ema=EmaConfig(decay))
    late, at_once = (events_of(settings, choice, data=poisoned())[0] for choice in (True, False))
    assert isinstance(late[-1].error, NonFiniteError)
    assert 0 < late[-1].step < 5
    same(late, at_once)


def test_a_nan_in_the_last_step_is_seen():
    first_bad = events_of(config(batch_size=1), False, data=poisoned())[0][-1].step + 1
    settings = config(batch_size=1, steps=first_bad)
    late, at_once = (events_of(settings, choice, data=poisoned())[0] for choice in (True, False))
    assert isinstance(late[-1].error, NonFiniteError)
    same(late, at_once)


def test_an_interrupt_keeps_the_step_that_was_done_meanwhile():
    found, _ = events_of(config(), True, stop={5})
    assert [e.step for e in found] == [1, 2, 3, 4, 5, 6, 6]
    assert found[-1].adapter == fit(ToyBackbone(), examples(), config(steps=6))


def test_a_second_interrupt_while_the_last_step_is_told_loses_nothing():
    found, _ = events_of(config(), True, stop={5, 6})
    assert [e.step for e in found] == [1, 2, 3, 4, 5, 6, 6]
    assert isinstance(found[-1].error, KeyboardInterrupt)
    assert found[-1].adapter == fit(ToyBackbone(), examples(), config(steps=6))


@pytest.mark.parametrize("ask", [Ask.SAVE, Ask.FINISH, Ask.STOP])
def test_what_is_asked_is_done_after_the_steps_before_are_told(ask):
    def asking():
        calls = iter(range(100))
        return lambda: ask if next(calls) == 4 else Ask.NOTHING

    same(events_of(config(), True, asked=asking())[0], events_of(config(), False, asked=asking())[0])


@pytest.mark.parametrize(
    "changes",
    [{"memory": MemoryConfig(compute="fp16")}, {"optimizer": OptimizerConfig(name="prodigy", learning_rate=1.0)}],
    ids=["loss scaling", "prodigy"],
)
def test_what_cannot_hold_still_is_read_at_once(changes):
    found, passes = events_of(config(**changes), True)
    assert [n for e, n in zip(found, passes, strict=True) if isinstance(e, Stepped)] == list(range(1, 13))
