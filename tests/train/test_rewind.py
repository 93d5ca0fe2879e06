"""A step that does not end leaves nothing behind: a training that goes on there is the one that never stopped."""

import contextlib

import pytest
import torch
from extension import train
from extension.critic import CRITIC, Critic
from extension.outer import OuterLayer
from test_loop import config, examples

from krona_ops.errors import NonFiniteError
from krona_train import fit
from krona_train.adapters import layers
from krona_train.backbone.toy import ToyBackbone
from krona_train.objectives import kinds
from krona_train.objectives.denoising import Denoising
from krona_train.run.events import Ended
from krona_train.run.requests import Ask
from krona_train.settings.groups import MAIN

STEP = 4
"""Steps done before the one that does not end."""


class Interrupted(Critic):
    """Ends the training in a turn of one step, after its first term."""

    adapter, error = MAIN, KeyboardInterrupt

    def losses(self, piece):
        terms = super().losses(piece)
        yield next(terms)
        if piece.step == STEP and piece.turn.adapter == self.adapter:
            raise self.error
        yield from terms


class InterruptedFirst(Interrupted):
    adapter = CRITIC


class OutOfReach(Interrupted):
    error = RuntimeError


class NotFinite(Critic):
    """A loss of the second turn is NaN, and what the objective remembers of it."""

    def losses(self, piece):
        for loss in super().losses(piece):
            if piece.step == STEP and piece.turn.adapter == MAIN:
                self.mean += torch.nan
                loss = loss._replace(values=loss.values * torch.nan)
            yield loss


@pytest.fixture
def with_objective(monkeypatch):
    monkeypatch.setattr(layers, "LAYERS", (*layers.LAYERS, OuterLayer))

    def use(objective):
        monkeypatch.setattr(kinds, "OBJECTIVES", (objective, Denoising))

    return use


def ended(data=None, settings=None, resume=None, **options):
    events = []
    with contextlib.suppress(KeyboardInterrupt, NonFiniteError, RuntimeError):
        fit(ToyBackbone(), data or train.examples(), settings or train.config(), events.append, resume, **options)
    assert isinstance(events[-1], Ended)
    return events[-1]


def same(one, other):
    """Whether two trainings have ended at the same numbers, everything that goes on included."""
    assert (one.step, one.adapter, one.others) == (other.step, other.adapter, other.others)
    assert one.state.numbers == other.state.numbers
    assert one.state.tensors.keys() == other.state.tensors.keys()
    assert all(torch.equal(one.state.tensors[key], other.state.tensors[key]) for key in other.state.tensors)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("objective", [Interrupted, InterruptedFirst, OutOfReach, NotFinite])
def test_a_step_that_ends_between_its_turns_is_taken_back_and_goes_on_bit_for_bit(objective, late, with_objective):
    with_objective(Critic)
    whole = ended(late=late)
    there = ended(settings=train.config(), asked=_finish_after(STEP), late=late)
    with_objective(objective)
    stopped = ended(late=late)
    assert stopped.error is not None
    assert (stopped.step, there.step) == (STEP, STEP)
    assert (stopped.adapter, stopped.others) == (there.adapter, there.others)
    assert all(torch.equal(stopped.state.tensors[key], value) for key, value in there.state.tensors.items())
    assert stopped.state.numbers["objective"] == {"seen": 2 * STEP}
    with_objective(Critic)
    same(ended(resume=stopped.state, late=late), whole)


class Counting(Denoising):
    """Counts the pieces that it has seen, and fails after one of a step, as often as it is told."""

    fails = 0
    error = KeyboardInterrupt

    def __init__(self, settings):
        super().__init__(settings)
        self.seen = 0

    def losses(self, piece):
        self.seen += len(piece.samples)
        yield from super().losses(piece)
        if self.fails and piece.step == STEP:
            type(self).fails -= 1
            raise self.error

    def capture(self):
        return {}, {"seen": self.seen}

    def restore(self, tensors, numbers):
        self.seen = numbers["seen"]


def test_a_step_of_one_turn_takes_back_what_its_objective_has_noted(with_objective, monkeypatch):
    with_objective(Counting)
    settings = config(steps=7, batch_size=2)
    whole = ended(examples(), settings)
    monkeypatch.setattr(Counting, "fails", 1)
    stopped = ended(examples(), settings)
    assert stopped.state.numbers["objective"] == {"seen": 2 * STEP}
    same(ended(examples(), settings, stopped.state), whole)


def test_a_step_that_is_computed_again_in_less_memory_is_noted_once(with_objective, monkeypatch):
    with_objective(Counting)
    monkeypatch.setattr(Counting, "fails", 2)
    monkeypatch.setattr(Counting, "error", torch.OutOfMemoryError)
    end = ended(examples(), config(steps=7, batch_size=2))
    assert end.error is None
    assert end.state.numbers["plan"] == {"checkpointing": "blocks", "pieces": 2}
    assert end.state.numbers["objective"] == {"seen": 2 * 7}


def _finish_after(steps):
    """What a training is asked that shall end after so many steps."""
    asked = []

    def ask():
        asked.append(None)
        return Ask.FINISH if len(asked) > steps else Ask.NOTHING

    return ask
