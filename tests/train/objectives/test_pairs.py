"""One step by pairs, on the toy: the loss against its formula, and everything that a training must keep."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from krona_ops import TargetRule
from krona_ops.errors import AdapterFileError, ConfigError, DataError
from krona_ops.formats.one_step import KEY, OneStep, one_step_of
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example, Item, Seen
from krona_train.batches.samples import Samples
from krona_train.config import EmaConfig, MemoryConfig, PriorConfig, ValidationConfig, from_yaml, to_yaml
from krona_train.monitor.validation import keep_out
from krona_train.objectives.pairs import PairDistillation
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.objectives.rollouts import Rollouts
from krona_train.run.events import Ended, Saved, Stepped, Validated
from krona_train.run.metadata import describe

RULE = TargetRule((4, 2))
SHAPE = (4, 5, 6)


def pairs(backbone, count=6, steps=4, guidance=2.0):
    """Noises, and what Euler's method with guidance makes of them, written out."""
    rng = torch.Generator().manual_seed(5)
    items = []
    with torch.no_grad():
        for n in range(count):
            condition, levels = torch.randn(7, 24, generator=rng), backbone.levels(steps).tolist()
            x = noise = torch.randn(SHAPE, generator=rng) * levels[0]
            for sigma, after in itertools.pairwise(levels):
                at = torch.tensor([sigma, sigma])
                plain, without = backbone.predict(torch.stack([x, x]), at, [condition, torch.zeros_like(condition)])
                x = x + (x - without - guidance * (plain - without)) / sigma * (after - sigma)
            seen = Seen(noise, levels[0], guidance, x)
            items.append(Item((Example(None, condition, f"{n}", shape=SHAPE, seen=seen),)))
    return items


def config(steps=6, **changed):
    own = {key: changed.pop(key) for key in list(changed) if key in PairsConfig.__dataclass_fields__}
    return TrainConfig(
        steps=steps,
        batch_size=3,
        save_every=2,
        adapter=AdapterConfig(targets=(RULE,)),
        optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0),
        objective=PairsConfig(**own),
        **changed,
    )


def train(settings, data=None, resume=None, backbone=None):
    events, backbone = [], backbone or ToyBackbone()
    fit(backbone, pairs(ToyBackbone()) if data is None else data, settings, events.append, resume)
    return events


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def terms(p, q, settings):
    """Of edges and high frequencies by numpy, ``(C, H, W)`` each: Sobel's kernels as they stand in textbooks."""
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    height, width = p.shape[1:]
    padded = np.pad(p - q, ((0, 0), (1, 1), (1, 1)), mode="edge")
    slopes = [
        sum(k[i, j] * padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3))
        for k in (kernel, kernel.T)
    ]
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    above = np.sqrt(fy**2 + fx**2) > settings.cut
    a, b = (np.fft.fft2(x)[:, above] / np.sqrt(height * width) for x in (p, q))
    high = np.abs(a - b) if settings.compare == "complex" else np.abs(np.abs(a) - np.abs(b))
    power = 2 if settings.distance == "squared" else 1
    edges = (np.abs(np.stack(slopes)) ** power).mean()
    return settings.edges * edges + settings.frequencies * (high**power).mean()


@pytest.mark.parametrize(
    "own",
    [
        {"edges": 0.0, "frequencies": 0.0},
        {"edges": 0.5, "frequencies": 2.0, "cut": 0.3},
        {"edges": 0.0, "frequencies": 3.0, "compare": "magnitude"},
        {"edges": 2.0, "frequencies": 1.0, "distance": "squared"},
        {"edges": 0.5, "frequencies": 2.0, "where": "pixels"},
        {"edges": 0.0, "frequencies": 0.0, "where": "pixels"},
    ],
    ids=lambda own: " ".join(f"{key} {value}" for key, value in own.items()),
)
def test_the_loss_is_the_squared_error_and_the_terms_of_what_one_step_blurs(own):
    """Of the third step, dense and in float64, with the adapter that two steps give."""
    settings = config(steps=3, ema=EmaConfig(0.0), **own)
    adapter = of_kind(train(replace(settings, steps=2)), Ended)[0].adapter
    [step] = [event for event in of_kind(train(settings), Stepped) if event.step == 3]
    twin = ToyBackbone()
    twin.net.double()
    for name, delta in adapter.layers.items():
        twin.module(name).weight += delta.dense().double()
    wanted = []
    for sample in Samples(pairs(ToyBackbone()), settings).batch(2):
        seen = sample.example.seen
        with torch.no_grad():
            sigma = torch.tensor([seen.sigma], dtype=torch.float64)
            p = twin.predict(seen.x_t.double()[None], sigma, [sample.example.condition.double()])
            q = seen.x0.double()[None]
            squared = (p - q).square().mean().item()
            if settings.objective.where == "pixels":
                p, q = twin.decode(p), twin.decode(q)
        wanted.append(squared + terms(p[0].numpy(), q[0].numpy(), settings.objective))
    assert step.loss == pytest.approx(np.mean(wanted), rel=1e-5)
    assert adapter.layers
    assert all(delta.dense().any() for delta in adapter.layers.values())


def test_it_learns_and_is_judged_by_the_squared_error_of_pairs_that_are_kept_out():
    settings = config(80, validation=ValidationConfig(every=80, pictures=2))
    data = pairs(ToyBackbone(), count=12)
    events = train(settings, data)
    first, last = (event.loss for event in of_kind(events, Validated))
    _, kept_out = keep_out(data, settings)
    backbone, errors = ToyBackbone(), []
    with torch.no_grad():
        for item in kept_out:
            seen = item.forms[0].seen
            x0 = backbone.predict(seen.x_t[None], torch.tensor([seen.sigma]), [item.forms[0].condition])[0]
            errors.append((x0 - seen.x0).square().mean())
    assert first == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    assert last < 0.9 * first


@pytest.mark.parametrize("where", ["latents", "pixels"])
@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
def test_a_training_that_was_killed_goes_on_bit_for_bit(checkpointing, where):
    settings = config(where=where, memory=MemoryConfig(checkpointing=checkpointing))
    whole = train(settings)
    state = next(event.state for event in of_kind(whole, Saved) if event.state.step == 4)
    on = train(settings, resume=state)
    a, b = (of_kind(events, Ended)[0].adapter for events in (whole, on))
    assert all(torch.equal(a.layers[name].dense(), b.layers[name].dense()) for name in a.layers)


def test_recomputation_changes_nothing():
    plain, again = (
        [event.loss for event in of_kind(train(config(memory=MemoryConfig(checkpointing=how))), Stepped)]
        for how in ("none", "blocks")
    )
    assert plain == pytest.approx(again, rel=1e-6)


def test_the_way_back_from_pixels_goes_through_the_decoder():
    """Channels that the decoder does not show get no gradient of the terms, and the others do."""
    backbone, data = ToyBackbone(), pairs(ToyBackbone(), count=2)
    batch = backbone.collate([item.forms[0] for item in data])
    objective = PairDistillation(PairsConfig(where="pixels"))
    p = (batch.seen.x0 + torch.randn_like(batch.seen.x0)).requires_grad_()
    objective._terms(backbone, p, batch.seen.x0).sum().backward()
    assert p.grad[:, :3].abs().sum() > 0
    assert not p.grad[:, 3].any()


def test_what_is_drawn_before_is_what_the_settings_say():
    settings = PairsConfig(drawings=9, drawing_steps=7, guidance=3.0, negative="blurry", sampler="dpmpp_2m", scheduler="karras")
    wanted = Rollouts(9, 7, 3.0, 3.0, "blurry", keep="ends", sampler="dpmpp_2m", scheduler="karras")
    assert PairDistillation(settings).rollouts == wanted


@pytest.mark.parametrize(
    ("own", "needs_decoder"),
    [({}, False), ({"where": "pixels"}, True), ({"where": "pixels", "edges": 0, "frequencies": 0}, False)],
)
def test_a_decoder_is_needed_for_terms_in_pixels_alone(own, needs_decoder):
    backbone = ToyBackbone()
    backbone.has_decoder = False
    if needs_decoder:
        with pytest.raises(ConfigError, match="looks at pixels"):
            train(config(1, **own), backbone=backbone)
    else:
        assert of_kind(train(config(1, **own), backbone=backbone), Ended)


def test_prompts_that_were_not_drawn_are_refused():
    bare = [Item((Example(None, torch.zeros(7, 24), "a prompt", shape=SHAPE),))]
    with pytest.raises(DataError, match="saw when it drew"):
        train(config(), bare)


def test_there_is_nothing_to_preserve():
    with pytest.raises(ConfigError, match="not with pairs"):
        train(config(prior=PriorConfig(1.0)))


def test_a_state_of_guidance_is_not_continued_with_pairs():
    from krona_train.objectives.guidance_config import GuidanceConfig

    settings = config()
    state = of_kind(train(replace(settings, objective=GuidanceConfig())), Saved)[0].state
    with pytest.raises(ConfigError, match="objective"):
        train(settings, resume=state)


@pytest.mark.parametrize(
    "wrong", [{"cut": 0.5}, {"cut": -0.1}, {"guidance": 0.5}, {"drawings": 0}, {"drawing_steps": 0}, {"edges": -1.0}]
)
def test_settings_out_of_their_bounds_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PairsConfig(**wrong)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "lcm", "seeds_2"])
def test_a_sampler_that_adds_noise_makes_no_pairs(sampler):
    with pytest.raises(ConfigError, match="adds noise"):
        PairsConfig(sampler=sampler)


def test_the_settings_are_told_apart_by_their_kind():
    settings = config(where="pixels", compare="magnitude", cut=0.2, sampler="dpmpp_2m")
    text = to_yaml(settings)
    assert "kind: pairs" in text
    assert from_yaml(text) == settings


def test_the_file_says_that_it_draws_in_one_step():
    metadata = describe(config(), name="p", family="toy", captions=(), resolution=64)
    assert one_step_of(metadata) == OneStep(0.0)
    assert one_step_of(OneStep(2.5).metadata()) == OneStep(2.5)
    assert KEY not in describe(TrainConfig(), name="p", family="toy", captions=(), resolution=64)


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"sigma": "x"}', '{"sigma": -1}', '{"sigma": 1e9}', '{"sigma": NaN}'])
def test_what_a_stranger_writes_there_is_no_noise_level(text):
    with pytest.raises(AdapterFileError, match="its one step"):
        one_step_of({KEY: text})


def test_an_adapter_of_something_else_has_no_one_step():
    with pytest.raises(ConfigError, match="not learnt to draw in one step"):
        one_step_of({})
