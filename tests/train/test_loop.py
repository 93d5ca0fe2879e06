"""The trainer on the toy backbone: it learns, repeats itself bitwise, stops cleanly, and leaves no trace."""

import pytest
import torch
from torch.testing import assert_close

from krona_ops import TargetRule, select
from krona_ops.errors import ConfigError, CoverageError, DataError, NonFiniteError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.adapters.attach import attached
from krona_train.adapters.trainee import build_layers
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example
from krona_train.batches.order import Order
from krona_train.config import PriorConfig
from krona_train.objectives.denoising import denoising
from krona_train.objectives.noise import draw
from krona_train.run.events import Ended, Started, Stepped


def picture(seed, number, count):
    return Order([0] * count, [1] * count, 1, seed).batch(number)[0]


def examples(count=5, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [
        Example(torch.randn(4, 6, 5, generator=rng), torch.randn(7, 24, generator=rng), f"caption {n}")
        for n in range(count)
    ]


def config(**changes):
    defaults = {
        "steps": 12,
        "batch_size": 3,
        "adapter": AdapterConfig(targets=(TargetRule(factors=(8, 4)),)),
        # By width, layers that are 24 wide would learn 24 times as fast.
        "optimizer": OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0),
    }
    return TrainConfig(**{**defaults, **changes})


def fixed_loss(backbone, layers, data):
    """The loss on noise that never changes, so that two moments of a training can be compared."""
    with backbone.ready(), torch.no_grad(), attached(backbone, layers):
        batch = backbone.collate(data * 8)
        return denoising(backbone, batch, draw(backbone, batch.x0, 99, range(len(data) * 8))).mean().item()


def trained_layers(backbone, adapter, settings):
    targets = select(backbone.weights(), settings.adapter.targets)
    layers = build_layers(targets, settings.adapter, 0, torch.device("cpu"))
    with torch.no_grad():
        for name, delta in adapter.layers.items():
            layers[name].a.copy_(delta.a.value)
            layers[name].b.copy_(delta.b.value)
    return layers


def test_training_lowers_the_loss_on_fixed_noise():
    backbone, data, settings = ToyBackbone(), examples(), config(steps=150)
    before = fixed_loss(backbone, {}, data)
    adapter = fit(backbone, data, settings)
    assert fixed_loss(backbone, trained_layers(backbone, adapter, settings), data) < 0.7 * before


def test_one_seed_gives_bitwise_one_adapter_and_another_seed_another():
    first, again = (fit(ToyBackbone(), examples(), config()) for _ in range(2))
    other = fit(ToyBackbone(), examples(), config(seed=1))
    assert first == again
    assert first != other


def test_training_starts_at_the_base_model():
    backbone, settings = ToyBackbone(), config()
    targets = select(backbone.weights(), settings.adapter.targets)
    layers = build_layers(targets, settings.adapter, 0, torch.device("cpu"))
    assert fixed_loss(backbone, layers, examples()) == fixed_loss(backbone, {}, examples())


@pytest.mark.parametrize(("init_std", "expected"), [(None, 1 / 64), (0.01, 0.01), (0.0, 1 / 80)])
def test_factors_start_normal_and_zero(init_std, expected):
    """0 is the released code's ``1 / out_a``; ``None`` is the default."""
    targets = select({"one.attn.to_q": (960, 640), "other.attn.to_q": (9600, 6400)}, (TargetRule((80, 4)),))
    chosen = AdapterConfig() if init_std is None else AdapterConfig(init_std=init_std)
    layers = build_layers(targets, chosen, 0, torch.device("cpu"))
    shapes = [(layer.a.shape, layer.b.shape) for layer in layers.values()]
    assert shapes == [((80, 4), (12, 160)), ((80, 4), (120, 1600))]
    for layer in layers.values():
        assert not layer.b.any()
        assert abs(layer.a.std().item() / expected - 1) < 0.15  # 320 draws: 3.8 standard errors
        assert abs(layer.a.mean().item() / expected) < 0.2
    one, other = layers.values()
    assert not torch.equal(one.a, other.a)


def test_the_backbone_is_left_as_it_was_found_after_success_and_after_failure():
    backbone = ToyBackbone()
    state = {k: v.clone() for k, v in backbone.net.state_dict().items()}
    attributes = {n: set(m.__dict__) for n, m in backbone.net.named_modules()}

    def interrupt(event):
        if isinstance(event, Stepped) and event.step == 3:
            raise KeyboardInterrupt

    fit(backbone, examples(), config())
    with pytest.raises(KeyboardInterrupt):
        fit(backbone, examples(), config(), interrupt)
    assert all(torch.equal(v, state[k]) for k, v in backbone.net.state_dict().items())
    assert {n: set(m.__dict__) for n, m in backbone.net.named_modules()} == attributes


def test_an_interrupted_training_hands_out_the_factors_of_its_last_whole_step():
    events = []

    def stop_at_five(event):
        events.append(event)
        if isinstance(event, Stepped) and event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(ToyBackbone(), examples(), config(), stop_at_five)
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert (ended.step, ended.steps) == (5, 12)
    assert isinstance(ended.error, KeyboardInterrupt)
    assert ended.adapter == fit(ToyBackbone(), examples(), config(steps=5))


def test_events_tell_the_whole_story_in_order():
    events = []
    adapter = fit(ToyBackbone(), examples(), config(steps=4), events.append)
    kinds = [type(e) for e in events]
    assert kinds == [Started, Stepped, Stepped, Stepped, Stepped, Ended]
    assert [e.step for e in events[1:5]] == [1, 2, 3, 4]
    assert events[0].layers == len(adapter) == 8
    assert events[0].parameters == adapter.parameters
    assert events[-1].adapter == adapter
    assert all(e.grad_norm > 0 for e in events[1:5])


def test_nan_stops_before_it_reaches_the_factors():
    data = examples()
    settings = config(batch_size=1)
    poisoned = [e if n != picture(0, 6, 5) else Example(e.latent * torch.nan, e.condition) for n, e in enumerate(data)]
    first_bad = next(n for n in range(12) if picture(0, n, 5) == picture(0, 6, 5))
    events = []
    with pytest.raises(
        NonFiniteError, match=rf"loss became nan in step {first_bad + 1}\. The factors of step {first_bad} are kept"
    ):
        fit(ToyBackbone(), poisoned, settings, events.append)
    assert events[-1].step == first_bad
    assert all(torch.isfinite(d.b.value).all() for d in events[-1].adapter.layers.values())


def test_a_samples_noise_depends_on_its_number_alone():
    backbone = ToyBackbone()
    x0 = torch.zeros(3, 4, 6, 5)
    together = draw(backbone, x0, 5, [10, 11, 12])
    apart = [draw(backbone, x0[:1], 5, [n]) for n in (10, 11, 12)]
    assert torch.equal(together.noise, torch.cat([d.noise for d in apart]))
    assert torch.equal(together.sigma, torch.cat([d.sigma for d in apart]))
    assert len({s.item() for s in together.sigma}) == 3
    assert not torch.equal(together.noise[0], together.noise[1])


def test_the_gradient_is_that_of_the_dense_update():
    backbone, settings, data = ToyBackbone(), config(), examples()
    targets = select(backbone.weights(), settings.adapter.targets)
    layers = build_layers(targets, settings.adapter, 0, torch.device("cpu"))
    backbone.net.double()
    for layer in layers.values():
        layer.double()
        torch.nn.init.normal_(layer.b, std=0.1)
    data = [Example(e.latent.double(), e.condition.double()) for e in data]
    with backbone.ready():
        batch = backbone.collate(data)
        noise = draw(backbone, batch.x0, 0, range(5))
        with attached(backbone, layers):
            denoising(backbone, batch, noise).mean().backward()
        dense = {n: torch.kron(la.a.detach(), la.b.detach()).requires_grad_() for n, la in layers.items()}
        weights = {f"{n}.weight": backbone.module(n).weight + d for n, d in dense.items()}

        class Dense(ToyBackbone):
            def predict(self, x_t, sigma, conditions):
                sigma = sigma.to(x_t)
                arguments = (x_t, sigma, torch.stack(list(conditions)).to(x_t))
                return x_t - sigma[:, None, None, None] * torch.func.functional_call(backbone.net, weights, arguments)

        denoising(Dense(), batch, noise).mean().backward()
    for name, layer in layers.items():
        blocks = dense[name].grad.reshape(layer.a.shape[0], layer.b.shape[0], layer.a.shape[1], layer.b.shape[1])
        assert_close(layer.a.grad, torch.einsum("mkij,kj->mi", blocks, layer.b.detach()), rtol=1e-6, atol=1e-10)
        assert_close(layer.b.grad, torch.einsum("mkij,mi->kj", blocks, layer.a.detach()), rtol=1e-6, atol=1e-10)


def test_the_shuffled_layout_trains_and_is_kept():
    adapter = fit(ToyBackbone(), examples(), config(adapter=AdapterConfig(layout="shuffled")))
    assert {d.layout for d in adapter.layers.values()} == {"shuffled"}
    assert any(d.b.value.any() for d in adapter.layers.values())


def test_factors_that_do_not_divide_are_adjusted_and_reported():
    events = []
    fit(ToyBackbone(width=36), examples(), config(steps=1, adapter=AdapterConfig()), events.append)
    assert events[0].notes == (
        "6 layers of 36 × 36 are not divisible by 64 × 4: taking 36 × 4.",
        "2 layers of 36 × 24 are not divisible by 64 × 4: taking 36 × 4.",
    )


def test_nothing_to_train_on_and_nothing_to_train_are_errors():
    with pytest.raises(DataError, match="nothing to train on"):
        fit(ToyBackbone(), [], config())
    with pytest.raises(CoverageError, match="None of the model's 12 layers is a target"):
        fit(ToyBackbone(), examples(), config(adapter=AdapterConfig(targets=(TargetRule(pattern="nowhere"),))))
    with pytest.raises(ConfigError, match="steps is 0"):
        config(steps=0)


@pytest.mark.parametrize(
    ("source", "with_class", "message"),
    [
        ("pictures", 0, "has no class pictures.*take the model itself"),
        ("model", 0, 'does not know what "caption 0" is a kind of.*Give a class prompt'),
        ("model", 3, 'does not know what "caption 3" is a kind of'),
    ],
)
def test_a_prior_that_lacks_what_it_needs_is_refused_before_the_training(source, with_class, message):
    data = [
        Example(e.latent, e.condition, e.caption, class_condition=e.condition if n < with_class else None)
        for n, e in enumerate(examples())
    ]
    events = []
    with pytest.raises(DataError, match=message):
        fit(ToyBackbone(), data, config(prior=PriorConfig(1.0, source)), events.append)
    assert events == []


def test_class_pictures_count_only_where_the_prior_is_made_of_them():
    data = [Example(e.latent, e.condition, e.caption, class_condition=e.condition.flip(0)) for e in examples()]
    for prior in (PriorConfig(), PriorConfig(1.0, "model")):
        settings = config(prior=prior)
        assert fit(ToyBackbone(), data, settings, class_data=examples(3, seed=8)) == fit(ToyBackbone(), data, settings)
