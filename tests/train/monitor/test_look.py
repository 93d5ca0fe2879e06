"""Validation and previews: they come when asked, find the best, stop what no longer improves, and change nothing."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from test_loop import config, examples
from test_state import record, settings

from krona_ops.errors import ConfigError, DataError
from krona_ops.live.attach import patched
from krona_train import OptimizerConfig, TrainConfig, fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.samples import as_items
from krona_train.config import DenoisingConfig, EmaConfig, PreviewConfig, ValidationConfig
from krona_train.monitor.validation import keep_out, validation_loss
from krona_train.objectives.denoising import Denoising
from krona_train.run.events import Ended, Previewed, Saved, Stepped, Validated
from krona_train.run.state import TrainState


def watched(**changes):
    chosen = {"validation": ValidationConfig(every=3, pictures=2), "preview": PreviewConfig(every=5)}
    return settings(**{**chosen, **changes})


class Painter:
    """A preview that shows the adapter's own numbers: their sum as a colour."""

    def __init__(self, backbone):
        self.backbone = backbone

    def __call__(self, adapter):
        x = torch.ones(1, 3, 48)
        with torch.no_grad():
            value = self.backbone.net.attn1.to_q(x).abs().mean().item()
        return (Image.new("RGB", (4, 3), (int(value * 1e6) % 256, int(value * 1e4) % 256, 7)),)


def run(chosen, resume=None, stop_after=None, data=None):
    backbone, events = ToyBackbone(), []

    def sink(event):
        events.append(event)
        if isinstance(event, Stepped) and event.step == stop_after:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        fit(backbone, data or examples(), chosen, sink, resume, preview=Painter(backbone))
    return events


def looks(events):
    return [
        (e.step, e.loss, e.is_best) if isinstance(e, Validated) else (e.step, e.pictures[0].tobytes())
        for e in events
        if isinstance(e, Validated | Previewed)
    ]


def test_looks_come_before_the_first_step_every_so_often_and_at_the_end():
    events = run(watched(steps=11))
    assert [e.step for e in events if isinstance(e, Validated)] == [0, 3, 6, 9, 11]
    assert [e.step for e in events if isinstance(e, Previewed)] == [0, 5, 10, 11]
    assert len({e.pictures[0].tobytes() for e in events if isinstance(e, Previewed)}) == 4


def test_looking_changes_nothing():
    with_previews, without = run(settings(preview=PreviewConfig(every=1))), record(settings())
    assert with_previews[-1].adapter == without[-1].adapter
    often, rarely = (run(watched(validation=ValidationConfig(every=n, pictures=2))) for n in (1, 12))
    assert often[-1].adapter == rarely[-1].adapter


@pytest.mark.parametrize("k", [1, 3, 5, 8, 11])
def test_with_average_accumulation_previews_and_validation_the_rest_is_bitwise_the_same(k, tmp_path):
    chosen = watched(ema=EmaConfig(decay=0.9), objective=DenoisingConfig(weighting="min_snr", levels="logit_normal"))
    whole, stopped = run(chosen), run(chosen, stop_after=k)
    state = TrainState.load(stopped[-1].state.save(tmp_path / "state.safetensors"))
    rest = run(chosen, resume=state)
    assert looks(stopped) + looks(rest) == looks(whole)
    assert rest[-1].adapter == whole[-1].adapter
    ours, theirs = rest[-1].state, whole[-1].state
    assert ours.numbers == theirs.numbers
    assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in theirs.tensors)


def test_a_run_that_crashed_after_saving_looks_again_at_the_same():
    chosen = watched(save_every=3)
    whole = run(chosen)
    saved = next(e.state for e in whole if isinstance(e, Saved) and e.state.step == 6)
    again = looks(run(chosen, resume=saved))
    assert again == [look for look in looks(whole) if look[0] >= 6]


def test_the_validation_loss_is_that_of_the_adapter_on_pictures_it_never_saw():
    chosen = watched(steps=6)
    validated = [e for e in run(chosen) if isinstance(e, Validated)][-1]
    trained_on, kept = keep_out(as_items(examples()), chosen)
    assert len(trained_on) == 3
    assert not {id(item) for item in trained_on} & {id(item) for item in kept}
    backbone = ToyBackbone()

    def adding(delta):
        return lambda original, x: original(x) + delta.apply(x)

    updates = {backbone.module(name): adding(delta) for name, delta in validated.adapter.layers.items()}
    with backbone.ready(), patched(updates):
        scene = SimpleNamespace(backbone=backbone, bank=None, objective=Denoising(chosen.objective), config=chosen)
        assert validation_loss(scene, kept) == pytest.approx(validated.loss, rel=1e-6)


def test_the_best_is_the_lowest_after_the_start():
    all_events = run(watched(steps=40, optimizer=OptimizerConfig(learning_rate=5e-2)))
    events = [event for event in all_events if isinstance(event, Validated)]
    best = [e for e in events if e.is_best]
    assert best[-1].loss == min(e.loss for e in events if e.step)
    assert best[0].step == 3
    assert len(best) < len(events) - 1


def test_training_stops_when_validation_no_longer_improves():
    chosen = watched(
        steps=400,
        optimizer=OptimizerConfig(learning_rate=5e-2),
        validation=ValidationConfig(every=2, pictures=2, patience=3),
        preview=PreviewConfig(),
    )
    events = run(chosen)
    validated = [e for e in events if isinstance(e, Validated)]
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert ended.error is None
    assert ended.step < 400
    assert [e.is_best for e in validated[-4:]] == [True, False, False, False]


def test_validation_needs_pictures_to_spare():
    with pytest.raises(DataError, match=r"Keeping 5 of 5 pictures out.*leaves none to train on"):
        fit(ToyBackbone(), examples(), config(validation=ValidationConfig(every=1, pictures=5)))
    with pytest.raises(ConfigError, match="Early stopping needs a validation loss"):
        TrainConfig(validation=ValidationConfig(patience=2))
