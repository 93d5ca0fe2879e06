"""Guidance in an adapter, on the toy: the loss against its formula, and everything that a training must keep."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from krona_ops import TargetRule
from krona_ops.errors import ConfigError, DataError
from krona_ops.formats.guidance import KEY, Guided, guidance_of
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example, Item, Seen
from krona_train.batches.fingerprint import fingerprint
from krona_train.batches.samples import Samples
from krona_train.config import EmaConfig, MemoryConfig, PriorConfig, ValidationConfig, from_yaml, to_yaml
from krona_train.data.packed import pack, unpack
from krona_train.monitor.validation import keep_out
from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.kinds import objective_of
from krona_train.run.events import Ended, Saved, Stepped, Validated
from krona_train.run.metadata import describe

RULE = TargetRule((4, 2))
SHAPE = (4, 4, 6)


def rolled(backbone, count=4, steps=3, lowest=1.0, highest=6.0, guidance=None):
    """Guided drawings by Euler's method, written out."""
    rng = torch.Generator().manual_seed(5)
    items = []
    with torch.no_grad():
        for n in range(count):
            w = guidance or lowest + (highest - lowest) * torch.rand((), generator=rng).item()
            condition, forms, levels = torch.randn(7, 24, generator=rng), [], backbone.levels(steps).tolist()
            x = torch.randn(SHAPE, generator=rng) * levels[0]
            for sigma, after in itertools.pairwise(levels):
                at = torch.tensor([sigma, sigma])
                plain, without = backbone.predict(torch.stack([x, x]), at, [condition, torch.zeros_like(condition)])
                x0 = without + w * (plain - without)
                forms.append(Example(None, condition, f"{n}", shape=SHAPE, seen=Seen(x, sigma, w, x0)))
                x = x + (x - x0) / sigma * (after - sigma)
            items.append(Item(tuple(forms)))
    return items


def config(steps=6, **changed):
    own = {key: changed.pop(key) for key in list(changed) if key in GuidanceConfig.__dataclass_fields__}
    return TrainConfig(
        steps=steps,
        batch_size=3,
        save_every=2,
        adapter=AdapterConfig(targets=(RULE,)),
        optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0),
        objective=GuidanceConfig(**own),
        **changed,
    )


def train(settings, data=None, resume=None):
    events, backbone = [], ToyBackbone()
    fit(backbone, rolled(backbone) if data is None else data, settings, events.append, resume)
    return events


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_the_loss_is_the_error_of_the_base_with_the_update_as_strong_as_the_guidance():
    """Of the third step, dense and in float64, with the adapter that two steps give."""
    settings = config(steps=3, at_strength_1=4.0, ema=EmaConfig(0.0))
    adapter = of_kind(train(replace(settings, steps=2)), Ended)[0].adapter
    [step] = [event for event in of_kind(train(settings), Stepped) if event.step == 3]
    wanted = []
    for sample in Samples(rolled(ToyBackbone()), settings).batch(2):
        seen, twin = sample.example.seen, ToyBackbone()
        twin.net.double()
        for name, delta in adapter.layers.items():
            twin.module(name).weight += (seen.guidance - 1) / 3.0 * delta.dense().double()
        with torch.no_grad():
            sigma = torch.tensor([seen.sigma], dtype=torch.float64)
            x0 = twin.predict(seen.x_t.double()[None], sigma, [sample.example.condition.double()])[0]
        wanted.append((x0 - seen.x0).square().mean() / seen.sigma**2)
    assert step.loss == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-5)
    assert adapter.layers
    assert all(delta.dense().any() for delta in adapter.layers.values())


def test_without_guidance_the_adapter_counts_for_nothing():
    """States with guidance 1 are learnt perfectly by the base, whatever is trained; nothing moves."""
    data = rolled(ToyBackbone(), guidance=1.0)
    events = train(replace(config(), optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.0)), data)
    assert all(event.loss < 1e-10 for event in of_kind(events, Stepped))
    assert not any(delta.dense().any() for delta in of_kind(events, Ended)[0].adapter.layers.values())


def test_it_learns_and_is_judged_on_all_states_of_drawings_that_are_kept_out():
    settings = config(60, validation=ValidationConfig(every=60, pictures=1))
    backbone = ToyBackbone()
    data = rolled(backbone, count=9, highest=3.0)
    events = train(replace(settings, objective=GuidanceConfig(highest=3.0, at_strength_1=3.0)), data)
    first, last = (event.loss for event in of_kind(events, Validated))
    _, [kept_out] = keep_out(data, settings)
    errors = []
    with torch.no_grad():
        for form in kept_out.forms:
            seen, at = form.seen, torch.tensor([form.seen.sigma])
            x0 = backbone.predict(seen.x_t[None], at, [form.condition])[0]
            errors.append((x0 - seen.x0).square().mean() / seen.sigma**2)
    assert first == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    assert last < 0.8 * first


@pytest.mark.parametrize("memory", [MemoryConfig(), MemoryConfig(checkpointing="blocks")])
def test_a_training_that_was_killed_goes_on_bit_for_bit(memory):
    settings = replace(config(), memory=memory)
    whole = train(settings)
    state = next(event.state for event in of_kind(whole, Saved) if event.state.step == 4)
    on = train(settings, resume=state)
    a, b = (of_kind(events, Ended)[0].adapter for events in (whole, on))
    assert all(torch.equal(a.layers[name].dense(), b.layers[name].dense()) for name in a.layers)


def test_recomputation_computes_with_the_same_gates():
    plain, again = (
        [event.loss for event in of_kind(train(replace(config(), memory=MemoryConfig(checkpointing=how))), Stepped)]
        for how in ("none", "blocks")
    )
    assert plain == pytest.approx(again, rel=1e-6)


def test_a_state_belongs_to_its_drawings():
    data = rolled(ToyBackbone())
    [moment, *rest] = data[0].forms
    other = replace(moment, seen=replace(moment.seen, x0=moment.seen.x0 + 1))
    changed = [Item((other, *rest)), *data[1:]]
    assert fingerprint(changed) != fingerprint(data)
    state = of_kind(train(config(), data), Saved)[0].state
    with pytest.raises(ConfigError, match="pictures"):
        train(config(), changed, state)


def test_drawings_go_to_another_process_and_back(tmp_path):
    data = tuple(rolled(ToyBackbone(), count=2))
    file = pack(data, tmp_path / "drawings.safetensors", (Item, Example, Seen))
    for a, b in zip(unpack(file, tuple, (Item, Example, Seen)), data, strict=True):
        for x, y in zip(a.forms, b.forms, strict=True):
            assert torch.equal(x.seen.x_t, y.seen.x_t)
            assert torch.equal(x.seen.x0, y.seen.x0)
            assert (x.seen.sigma, x.seen.guidance, x.shape) == (y.seen.sigma, y.seen.guidance, y.shape)


def test_prompts_that_were_not_drawn_are_refused():
    bare = [Item((Example(None, torch.zeros(7, 24), "a prompt", shape=SHAPE),))]
    with pytest.raises(DataError, match="saw when it drew"):
        train(config(), bare)


def test_there_is_nothing_to_preserve():
    with pytest.raises(ConfigError, match="not with guidance"):
        train(config(prior=PriorConfig(1.0)))


@pytest.mark.parametrize(("lowest", "highest"), [(3.0, 3.0), (4.0, 2.0)])
def test_a_range_that_is_empty_is_refused(lowest, highest):
    with pytest.raises(ConfigError, match="is empty"):
        GuidanceConfig(lowest=lowest, highest=highest)


@pytest.mark.parametrize("name", ["lowest", "highest"])
def test_guidance_below_one_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        GuidanceConfig(**{name: 0.5})


def test_the_settings_are_told_apart_by_their_kind():
    settings = config(lowest=2.0, states="plain", negative="blurry", sampler="dpmpp_2m", scheduler="karras")
    text = to_yaml(settings)
    assert "kind: guidance" in text
    assert from_yaml(text) == settings


def test_the_drawings_are_made_by_the_sampler_of_the_settings_and_as_before_without_one():
    made = [objective_of(each.objective, each.prior).rollouts for each in (config(), config(sampler="heun", scheduler="beta"))]
    assert [(how.sampler, how.scheduler) for how in made] == [("euler", "normal"), ("heun", "beta")]
    objective_of(config(sampler="euler_ancestral").objective, PriorConfig())  # chance on the way does no harm here


def test_the_file_says_which_guidance_a_strength_is():
    metadata = describe(config(at_strength_1=5.0, negative="blurry"), name="g", family="toy", captions=(), resolution=64)
    guided = guidance_of(metadata)
    assert guided == Guided(1.0, 6.0, 5.0, "blurry")
    assert [guided.strength(w) for w in (1.0, 3.0, 5.0, 9.0)] == [0.0, 0.5, 1.0, 2.0]
    assert KEY not in describe(TrainConfig(), name="g", family="toy", captions=(), resolution=64)


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"lowest": 1, "highest": 6, "at_strength_1": 1}', '{"lowest": 1, "highest": "x", "at_strength_1": 4}',
     '{"lowest": 1, "at_strength_1": 4}', json.dumps({"lowest": 1, "highest": 6, "at_strength_1": 4, "negative": 5})],
)  # fmt: skip
def test_what_a_stranger_writes_there_is_no_guidance(text):
    from krona_ops.errors import AdapterFileError

    with pytest.raises(AdapterFileError, match="its guidance"):
        guidance_of({KEY: text})


def test_an_adapter_of_something_else_has_none():
    with pytest.raises(ConfigError, match="learnt no guidance"):
        guidance_of({})
