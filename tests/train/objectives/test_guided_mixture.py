"""Guidance in an adapter where the truth is known: points of the plane, each of one of eight classes."""

from contextlib import contextmanager
from functools import cache

import pytest
import torch

from benchmarks.plane import PlaneBackbone, drawn, learn, ring, rolled_out
from krona_ops import TargetRule
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.config import EmaConfig
from krona_train.objectives.guidance_config import GuidanceConfig

CLASSES, STEPS, HIGHEST = 8, 12, 6.0


@pytest.fixture(scope="module")
def model():
    """A denoiser that has learnt the ring, with classes and without."""
    backbone = PlaneBackbone(CLASSES)
    learn(backbone, ring(CLASSES, spread=0.3), steps=1200, batch=256)
    return backbone


@pytest.fixture(scope="module")
def learnt(model):
    """Adapters that have learnt from guided drawings, and from plain ones; each is trained once."""

    @cache
    def of(guided):
        config = TrainConfig(
            steps=500,
            batch_size=128,
            save_every=0,
            adapter=AdapterConfig(targets=(TargetRule((4, 4), projections=(), pattern="hidden|proj_out"),)),
            optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, weight_decay=0.0, schedule="cosine", warmup=50),
            objective=GuidanceConfig(highest=HIGHEST, at_strength_1=4.0),
            ema=EmaConfig(0.98),
        )
        return fit(model, rolled_out(model, CLASSES, 400, STEPS, HIGHEST, guided=guided), config)

    return of


@torch.no_grad()
def error(model, adapter, seed=9):
    """Of guided states that nothing was trained on, against the model without an adapter; each with its own guidance."""
    mistakes = torch.zeros(2, dtype=torch.float64)
    for item in rolled_out(model, CLASSES, 60, STEPS, HIGHEST, seed=seed):
        batch = model.collate(item.forms)
        gate = (batch.seen.guidance[0] - 1) / 3.0
        for n, strength in enumerate((gate, torch.tensor(0.0))):
            with merged(model, adapter, strength):
                x0 = model.predict(batch.seen.x_t, batch.seen.sigma, batch.conditions)
            weight = model.loss_weight(batch.seen.sigma)
            mistakes[n] += ((x0 - batch.seen.x0).flatten(1).square().mean(1) * weight).sum()
    return float(mistakes[0] / mistakes[1])


@contextmanager
def merged(model, adapter, strength):
    """An adapter in the model's weights, as a loader merges it; they are as they were afterwards, to the bit."""
    before = {name: model.module(name).weight.clone() for name in adapter.layers}
    for name, delta in adapter.layers.items():
        model.module(name).weight += float(strength) * delta.dense()
    yield
    for name, weight in before.items():
        model.module(name).weight.copy_(weight)


def test_one_pass_is_within_a_tenth_of_the_guided_prediction(model, learnt):
    assert error(model, learnt(True)) <= 0.1


def test_guided_drawings_teach_it_better_than_plain_ones(model, learnt):
    assert error(model, learnt(False)) >= 2 * error(model, learnt(True))


@torch.no_grad()
def test_what_is_drawn_with_a_strength_is_what_is_drawn_with_the_guidance(model, learnt):
    classes = torch.arange(200) % CLASSES + 1
    for guidance in (2.0, 5.0):
        guided, plain = drawn(model, classes, STEPS, guidance=guidance), drawn(model, classes, STEPS)
        with merged(model, learnt(True), (guidance - 1) / 3.0):
            ours = drawn(model, classes, STEPS)
        assert (ours - guided).norm(dim=1).mean() <= 0.25 * (plain - guided).norm(dim=1).mean()
