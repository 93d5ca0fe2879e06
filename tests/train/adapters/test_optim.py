"""Optimizers, schedules and the moving average: those of the original libraries, and bitwise the same after a stop."""

import dataclasses

import pytest
import torch
from test_loop import config, examples
from test_state import record, settings
from torch.testing import assert_close

from krona_ops import TargetRule, select
from krona_ops.errors import ConfigError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.adapters.average import Average
from krona_train.adapters.layers import LAYERS
from krona_train.adapters.optim import PACKAGES
from krona_train.adapters.rate_schedules import rate_factor
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import EmaConfig, MemoryConfig
from krona_train.run.events import Ended, Stepped
from krona_train.run.state import TrainState

FAST = OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0)
EVERY_KIND = {
    "adamw": FAST,
    "cosine with warmup": OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, schedule="cosine", warmup=3),
    "rates": OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, rate_a=0.5, rate_b=4.0),
    "prodigy": OptimizerConfig(name="prodigy", learning_rate=1.0, warmup=2),
    "adamw8bit": OptimizerConfig(name="adamw8bit", learning_rate=1e-2, rate_by_width=0.0),
    "schedulefree": OptimizerConfig(name="schedulefree", learning_rate=1e-2, rate_by_width=0.0, warmup=2),
}


def rates(events):
    return [event.learning_rate for event in events if isinstance(event, Stepped)]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"])
def test_learning_rates_are_those_of_diffusers(name):
    diffusers = pytest.importorskip("diffusers.optimization", reason="diffusers is not installed")
    setting = OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, schedule=name, warmup=4, cycles=2, power=2.0)
    ours = rates(record(config(steps=20, optimizer=setting)))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    named = "constant_with_warmup" if name == "constant" else name
    cycles = {"num_cycles": 2} if name == "cosine_with_restarts" else {}
    shape = {"num_warmup_steps": 4, "num_training_steps": 20, "power": 2.0, **cycles}
    scheduler = diffusers.get_scheduler(named, optimizer, **shape)
    theirs = []
    for _ in range(20):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert ours == theirs
    assert len(set(ours)) > 4


SCHEDULES = [
    (name, steps, warmup, cycles, power, rate)
    for name in ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial")
    for steps, warmup in ((1, 0), (2, 1), (17, 0), (17, 5), (333, 332), (997, 31))
    for cycles, power in ((1, 1.0), (3, 0.5), (7, 3.3))
    for rate in (5e-4, 1.0, 1.1e-7)
]


def test_every_schedule_is_that_of_diffusers_to_the_last_bit():
    """At each step, and beyond the end, where a training that goes on with more steps than it was made for may look."""
    diffusers = pytest.importorskip("diffusers.optimization", reason="diffusers is not installed")
    for name, steps, warmup, cycles, power, rate in SCHEDULES:
        setting = OptimizerConfig(learning_rate=rate, schedule=name, warmup=warmup, cycles=cycles, power=power)
        ours = rate_factor(setting, rate, steps)
        named = "constant_with_warmup" if name == "constant" else name
        restarts = {"num_cycles": cycles} if name == "cosine_with_restarts" else {}
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
        theirs = diffusers.get_scheduler(
            named, optimizer, num_warmup_steps=warmup, num_training_steps=steps, power=power, **restarts
        ).lr_lambdas[0]
        for done in range(steps + 3):
            assert float(ours(done)).hex() == float(theirs(done)).hex(), (setting, done)


def test_a_polynomial_that_would_have_to_rise_is_refused():
    too_low = config(optimizer=OptimizerConfig(learning_rate=1e-7, rate_by_width=0.0, schedule="polynomial"))
    with pytest.raises(
        ConfigError, match=r"polynomial falls to a learning rate of 1e-07.*Set a higher learning_rate, or the schedule"
    ):
        fit(ToyBackbone(), examples(), too_low)


@pytest.fixture(autouse=True)
def installed(request):
    kind = request.node.callspec.params.get("kind") if hasattr(request.node, "callspec") else None
    if kind in PACKAGES:
        pytest.importorskip(PACKAGES[kind], reason=f"{PACKAGES[kind]} is not installed")


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("k", [1, 5, 11])
def test_every_optimizer_goes_on_bitwise(kind, k, tmp_path):
    chosen = settings(optimizer=EVERY_KIND[kind], ema=EmaConfig(decay=0.9))
    width = 48
    if kind == "adamw8bit":  # it keeps moments of fewer than 4096 numbers in float32
        width, adapter = 192, AdapterConfig(targets=(TargetRule(factors=(2, 2)),))
        chosen = dataclasses.replace(chosen, adapter=adapter)
    whole = record(chosen, backbone=ToyBackbone(width=width))
    stopped = record(chosen, stop_after=k, backbone=ToyBackbone(width=width))[-1]
    state = TrainState.load(stopped.state.save(tmp_path / "state.safetensors"))
    assert any(t.dtype == torch.uint8 for t in state.tensors.values()) == (kind == "adamw8bit")
    rest = record(chosen, resume=state, backbone=ToyBackbone(width=width))
    assert rates(rest) == rates(whole)[k:]
    assert rest[-1].adapter == whole[-1].adapter
    ours, theirs = rest[-1].state, whole[-1].state
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in theirs.tensors)
    assert ours.numbers == theirs.numbers


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_optimizer_learns(kind):
    losses = [e.loss for e in record(config(steps=120, optimizer=EVERY_KIND[kind])) if isinstance(e, Stepped)]
    assert sum(losses[-30:]) < 0.9 * sum(losses[:30])


def test_the_average_is_that_of_the_factors_over_the_steps():
    """Against the recursion of diffusers' documentation: decay_t = min((1 + t) / (10 + t), decay), from the first step
    on."""
    chosen = config(steps=8, save_every=1, ema=EmaConfig(decay=0.6))
    events = record(chosen)
    states = [e.state for e in events if hasattr(e, "state")]
    key = next(k for k in states[0].tensors if k.startswith("factors.") and k.endswith(".b"))
    average = torch.zeros_like(states[0].tensors[key])  # B starts at zero
    for t, state in enumerate(states):
        decay = min((1 + t) / (10 + t), 0.6) if t else 0.0
        average = decay * average + (1 - decay) * state.tensors[key]
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert_close(ended.adapter.layers[key.split(".", 1)[1][:-2]].b.value, average)
    assert not torch.equal(average, states[-1].tensors[key])


def test_the_average_is_that_of_diffusers_bit_for_bit():
    training_utils = pytest.importorskip("diffusers.training_utils", reason="diffusers is not installed")
    rng = torch.Generator().manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((5, 3), (7,), (2, 4))]
    ours, theirs = Average(parameters, 0.9), training_utils.EMAModel(parameters, decay=0.9)
    for done in range(1, 150):  # the decay is reached after 80
        with torch.no_grad():
            for parameter in parameters:
                parameter += torch.randn(parameter.shape, generator=rng)
        ours.move(done, torch.zeros(()) if done % 2 else None)
        ours.move(done, torch.ones(()))
        theirs.step(parameters)
        assert all(map(torch.equal, ours.values, theirs.shadow_params))
    ours.copy_to_parameters()
    assert all(map(torch.equal, parameters, theirs.shadow_params))


def test_a_schedule_free_optimizer_is_not_averaged_twice():
    pytest.importorskip(PACKAGES["schedulefree"], reason="schedulefree is not installed")
    alone, asked = (
        fit(ToyBackbone(), examples(), config(optimizer=EVERY_KIND["schedulefree"], ema=EmaConfig(decay)))
        for decay in (0.0, 0.9)
    )
    assert alone == asked


def test_looking_at_the_average_does_not_change_the_training():
    plain = record(config(steps=8))
    averaged = record(config(steps=8, ema=EmaConfig(decay=0.9), save_every=2))
    losses = [[e.loss for e in events if isinstance(e, Stepped)] for events in (plain, averaged)]
    assert losses[0] == losses[1]


def test_learning_rates_of_a_b_and_layers_multiply():
    """With plain gradient descent's first AdamW step, every number moves by its own learning rate."""
    rules = (TargetRule(factors=(8, 4), pattern="attn2", rate=3.0), TargetRule(factors=(8, 4)))
    optimizer = OptimizerConfig(learning_rate=1e-3, rate_a=1.0, rate_b=16.0, rate_by_width=0.0, weight_decay=0.0)
    adapter = fit(ToyBackbone(), examples(), config(steps=1, adapter=AdapterConfig(targets=rules), optimizer=optimizer))
    for name, delta in adapter.layers.items():
        expected = 1e-3 * 16 * (3 if "attn2" in name else 1)
        assert_close(delta.b.value.abs().max().item(), expected, rtol=1e-2, atol=0)


def test_narrow_layers_learn_faster():
    """Adam's first step is its learning rate, in every number."""
    optimizer = OptimizerConfig(learning_rate=1e-4, weight_decay=0.0)
    backbone, rules = ToyBackbone(), (TargetRule(factors=(8, 4)),)
    adapter = fit(backbone, examples(), config(steps=1, adapter=AdapterConfig(targets=rules), optimizer=optimizer))
    widths = {name: shape[1] for name, shape in backbone.weights().items()}
    assert len({widths[name] for name in adapter.layers}) > 1
    for name, delta in adapter.layers.items():
        assert_close(
            delta.b.value.abs().max().item(), 1e-4 * (1280 / widths[name]) ** optimizer.rate_by_width, rtol=1e-2, atol=0
        )


def test_a_layer_with_rate_zero_stays_at_the_base():
    rules = (TargetRule(factors=(8, 4), pattern="attn2", rate=0.0), TargetRule(factors=(8, 4)))
    adapter = fit(ToyBackbone(), examples(), config(adapter=AdapterConfig(targets=rules)))
    assert all(bool(d.b.value.any()) == ("attn2" not in name) for name, d in adapter.layers.items())


def test_an_optimizer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(PACKAGES, "prodigy", "no_such_package_anywhere")
    expected = r"needs the package no_such_package_anywhere.*Install it in ComfyUI's Python"
    with pytest.raises(ConfigError, match=expected):
        fit(ToyBackbone(), examples(), config(optimizer=OptimizerConfig(name="prodigy", learning_rate=1.0)))


def test_prodigy_finds_one_rate_whatever_the_widths():
    rules = (TargetRule(factors=(8, 4)),)
    plain, ruled = (OptimizerConfig(name="prodigy", learning_rate=1.0, rate_by_width=power) for power in (0.0, 0.5))
    first, second = (
        fit(ToyBackbone(), examples(), config(adapter=AdapterConfig(targets=rules), optimizer=optimizer))
        for optimizer in (plain, ruled)
    )
    assert first == second


def test_prodigy_refuses_several_learning_rates():
    wrong = config(optimizer=OptimizerConfig(name="prodigy", learning_rate=1.0, rate_b=4.0))
    with pytest.raises(ConfigError, match=r"finds one learning rate for all factors.*Set rate_a"):
        fit(ToyBackbone(), examples(), wrong)


def test_what_the_model_computes_in_may_change_when_a_run_goes_on():
    plain, scaled = config(steps=6), config(steps=6, memory=MemoryConfig(compute="fp16"))
    for before, after in ((plain, scaled), (scaled, plain)):
        state = record(before, stop_after=3)[-1].state
        rest = record(after, resume=state)
        assert [e.step for e in rest if isinstance(e, Stepped)] == [4, 5, 6]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": OptimizerConfig(name="schedulefree", schedule="cosine")}, "has no schedule, but cosine is set"),
        ({"optimizer": OptimizerConfig(name="prodigy")}, "finds the learning rate itself"),
        ({"optimizer": OptimizerConfig(warmup=12), "steps": 12}, "leaves nothing of 12 steps"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**wrong)


def test_loss_scaling_changes_nothing_but_the_range():
    """fp16 needs it; here in fp32, where only the scale itself could do harm."""
    plain = fit(ToyBackbone(), examples(), config())
    scaled = fit(ToyBackbone(), examples(), config(memory=MemoryConfig(compute="fp16")))
    for name, delta in plain.layers.items():
        assert_close(scaled.layers[name].dense(), delta.dense(), rtol=1e-5, atol=1e-7)


def test_a_step_whose_scaled_gradients_overflow_is_skipped_and_the_scale_halved():
    chosen = config(steps=3, save_every=1, memory=MemoryConfig(compute="fp16"))
    start = record(chosen, stop_after=1)[-1].state
    assert start.numbers["scaler"]["scale"] == 65536.0
    scaler = {**start.numbers["scaler"], "scale": 2.0**127}
    huge = dataclasses.replace(start, numbers={**start.numbers, "scaler": scaler})
    events = record(chosen, resume=huge)
    after = [e.state for e in events if hasattr(e, "state")]
    assert after[0].numbers["scaler"]["scale"] == 2.0**126
    assert all(torch.equal(after[0].tensors[k], v) for k, v in start.tensors.items() if k.startswith("factors."))


@pytest.mark.parametrize(("kind", "moves"), [("full", True), ("difference", False), ("kronecker", False)])
def test_without_rates_of_factors_what_starts_at_the_models_own_weight_learns_alone(kind, moves):
    still = OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, rate_a=0.0, rate_b=0.0)
    settings = config(steps=2, adapter=AdapterConfig(kind=kind, targets=(TargetRule((8, 4)),)), optimizer=still)
    if not moves:
        with pytest.raises(ConfigError, match="Nothing would be trained: rate_b is 0"):
            fit(ToyBackbone(), examples(), settings)
        return
    assert all(delta.dense().abs().max() > 0 for delta in fit(ToyBackbone(), examples(), settings).layers.values())


def test_a_weight_whose_rule_says_rate_0_is_refused_by_that_name():
    rule = TargetRule((8, 4), kind="full", rate=0.0)
    still = OptimizerConfig(learning_rate=1e-2, rate_b=0.0)
    with pytest.raises(ConfigError, match="rate_text, or every target rule's rate, is 0"):
        fit(ToyBackbone(), examples(), config(adapter=AdapterConfig(targets=(rule,)), optimizer=still))


def test_roles_of_a_kind_are_those_that_its_layers_have():
    rng = torch.Generator().manual_seed(0)
    [target] = select({"one.attn.to_q": (24, 16)}, (TargetRule((8, 4)),))
    for kind in LAYERS:
        layer = kind.build(target, AdapterConfig(), rng, lambda: torch.ones(24, 16))
        assert layer.by_role().keys() == kind.roles
