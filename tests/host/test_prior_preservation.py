"""Prior preservation: what the model knows about the class stays, with class pictures and without, and what it costs."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from krona_ops import TargetRule, select
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.adapters.attach import attached
from krona_train.adapters.trainee import build_layers
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example
from krona_train.config import PriorConfig
from krona_train.objectives.noise import draw
from krona_train.run.events import Stepped

SHARED = 4
"""Tokens before the first word that differs: start, "a", "photo", "of"; CLIP looks back only, so they are bitwise the same."""
UNLIKE = 0.7
"""The other tokens of "a photo of sks dog" as ``√(1 − d²) class + d other``: a cosine of 0.71 with "a photo of dog"."""
STEPS, RATE, PICTURES, LEVELS = 100, 6e-3, 3, 24


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def subject(comfy):
    """Pictures of one subject, each with the subject's prompt and the class prompt, as the host's text encoder hands them out."""
    from krona_train.comfyui.encode import PictureSize, TextCondition

    square = PictureSize(64, 64, 0, 0, 64, 64)
    with torch.inference_mode():
        of_class, other = random(1, 77, 768, seed=1), random(1, 77, 768, seed=2)
        of_subject = (1 - UNLIKE**2) ** 0.5 * of_class + UNLIKE * other
        of_subject[:, :SHARED] = of_class[:, :SHARED]
        instance, class_ = (TextCondition(text, {}, square) for text in (of_subject, of_class))
        latents = random(PICTURES, 4, 8, 8, seed=3) / 0.18215
        return [Example(latent, instance, "a photo of sks dog", class_condition=class_) for latent in latents]


def adapted(backbone, adapter):
    """The layers that a training trained, to attach to the model again."""
    layers = build_layers(select(backbone.weights()), AdapterConfig(), 0, backbone.device)
    with torch.no_grad():
        for name, layer in layers.items():
            layer.a.copy_(adapter.layers[name].a.value)
            layer.b.copy_(adapter.layers[name].b.value)
    return layers


def said(backbone, data, layers, about):
    """What the network itself predicts for fixed noise at fixed levels, under the subject's or the class prompt; and the noise."""
    said_by_network = []
    with backbone.ready(), torch.no_grad(), attached(backbone, layers):
        batch = backbone.collate(data * (LEVELS // PICTURES))
        noise = random(*batch.x0.shape, seed=4)
        order = torch.randperm(LEVELS, generator=torch.Generator().manual_seed(5))  # so that no picture has all the low levels
        sigma = backbone.noise_levels((order + 0.5) / LEVELS)
        hook = backbone.module("diffusion_model").register_forward_hook(lambda module, args, out: said_by_network.append(out))
        conditions = batch.class_conditions if about == "class" else batch.conditions
        backbone.predict(backbone.add_noise(batch.x0, noise, sigma), sigma, conditions)
        hook.remove()
    return said_by_network[0], noise


def test_without_pictures_the_class_stays_and_the_subject_is_learnt(sd15, subject):
    """Drift is the mean squared change of the model's ε on the class prompt. Measured: 0.302 without, 0.044
    with; the subject's loss 0.604 and 0.650, from 1.234. After 300 steps at 2e-3: 0.381, 0.034, 0.550, 0.586.
    """
    from krona_train.comfyui.model import ComfyBackbone

    backbone = ComfyBackbone(sd15)
    class_before, noise = said(backbone, subject, {}, "class")
    start = (said(backbone, subject, {}, "subject")[0] - noise).square().mean().item()
    drift, loss = {}, {}
    for weight in (0.0, 1.0):
        settings = TrainConfig(
            steps=STEPS, seed=1, save_every=0, optimizer=OptimizerConfig(learning_rate=RATE, rate_by_width=0.0),
            prior=PriorConfig(weight=weight, source="model"),
        )  # fmt: skip
        layers = adapted(backbone, fit(backbone, subject, settings))
        drift[weight] = (said(backbone, subject, layers, "class")[0] - class_before).square().mean().item()
        loss[weight] = (said(backbone, subject, layers, "subject")[0] - noise).square().mean().item()
    assert loss[0.0] < 0.6 * start  # the subject is learnt: there is something to preserve the class from
    assert drift[1.0] <= 0.4 * drift[0.0], drift
    assert loss[1.0] == pytest.approx(loss[0.0], rel=0.1), loss


# What the terms are, on the toy: a flow, so that a loss can be computed beside it from the network alone.

TOY = TrainConfig(
    steps=6, batch_size=2, accumulate=3, seed=11, save_every=0, adapter=AdapterConfig(targets=(TargetRule(factors=(4, 6)),)),
    optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0),
)  # fmt: skip


def toy_data(count, seed, with_class=False):
    return [
        Example(
            random(4, 6, 5, seed=seed + n), random(3, 24, seed=100 + seed + n), f"{seed} {n}",
            class_condition=random(3, 24, seed=200 + seed + n) if with_class else None,
        )
        for n in range(count)
    ]  # fmt: skip


def with_prior(weight, source):
    return replace(TOY, prior=PriorConfig(weight=weight, source=source))


class Watched(ToyBackbone):
    """A toy that remembers what it was asked to predict, and whether for a gradient."""

    def __init__(self):
        super().__init__()
        self.noised, self.asked = [], []

    def add_noise(self, x0, noise, sigma):
        self.noised += [(x, n, s.item()) for x, n, s in zip(x0, noise, sigma, strict=True)]
        return super().add_noise(x0, noise, sigma)

    def predict(self, x_t, sigma, conditions):
        self.asked += [(x, condition, torch.is_grad_enabled()) for x, condition in zip(x_t, conditions, strict=True)]
        return super().predict(x_t, sigma, conditions)


def train(config, data, class_data=()):
    """A training's toy and its losses."""
    backbone, losses = Watched(), []

    def sink(event):
        if isinstance(event, Stepped):
            losses.append(event.loss)

    fit(backbone, data, config, sink, class_data=class_data)
    return backbone, losses


def which(tensor, data):
    [place] = [n for n, example in enumerate(data) if torch.equal(example.latent, tensor)]
    return place


def flow_error(backbone, example, noise, sigma):
    """``‖v − (ε − x0)‖²`` of the frozen network, by hand."""
    x_t = (1 - sigma) * example.latent + sigma * noise
    predicted = backbone.net(x_t[None], torch.tensor([sigma]), example.condition[None])[0]
    return (predicted - (noise - example.latent)).square().mean().item()


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_with_class_pictures_the_loss_is_the_weighted_sum(weight):
    """Of the first step, before anything has moved: the means over its six pictures of either kind."""
    data, class_data = toy_data(4, 0), toy_data(5, 50)
    backbone, losses = train(with_prior(weight, "pictures"), data, class_data)
    step = backbone.noised[:12]
    kinds = {id(example): [] for example in (data, class_data)}
    for x0, noise, sigma in step:
        of = data if any(torch.equal(e.latent, x0) for e in data) else class_data
        kinds[id(of)].append(flow_error(backbone, of[which(x0, of)], noise, sigma))
    assert [len(errors) for errors in kinds.values()] == [6, 6]
    subject, prior = (sum(errors) / 6 for errors in kinds.values())
    assert losses[0] == pytest.approx(subject + weight * prior, rel=1e-5)
    assert prior > 0.1 * subject


def test_class_samples_have_noise_and_an_order_of_their_own():
    data, class_data = toy_data(6, 0), toy_data(6, 50)  # as many, so that one order could be mistaken for the other
    backbone, _ = train(with_prior(1.0, "pictures"), data, class_data)
    of_subject = [entry for entry in backbone.noised if any(torch.equal(e.latent, entry[0]) for e in data)]
    of_class = [entry for entry in backbone.noised if any(torch.equal(e.latent, entry[0]) for e in class_data)]
    assert len(of_subject) == len(of_class) == 36
    drawn = draw(ToyBackbone(), torch.stack([x0 for x0, _, _ in of_class]), TOY.seed, range(36), stream="class noise")
    assert_close(torch.stack([noise for _, noise, _ in of_class]), drawn.noise, rtol=0, atol=0)
    assert_close(torch.tensor([sigma for *_, sigma in of_class]), drawn.sigma, rtol=0, atol=1e-6)
    assert not any(torch.equal(noise, other) for _, noise, _ in of_subject for _, other, _ in of_class)
    assert not {sigma for *_, sigma in of_subject} & {sigma for *_, sigma in of_class}
    orders = [[which(x0, of) for x0, _, _ in seen] for seen, of in ((of_subject, data), (of_class, class_data))]
    assert orders[0] != orders[1]
    for order in orders:  # each picture once per epoch of six
        assert all(sorted(order[i : i + 6]) == list(range(6)) for i in range(0, 36, 6))


@pytest.mark.parametrize("count", [1, 3, 8])
def test_class_pictures_change_nothing_in_what_the_subject_is_trained_on(count):
    data, class_data = toy_data(4, 0), toy_data(count, 50)
    alone, _ = train(TOY, data)
    together, _ = train(with_prior(1.0, "pictures"), data, class_data)
    of_subject = [entry for entry in together.noised if any(torch.equal(e.latent, entry[0]) for e in data)]
    assert len(of_subject) == len(alone.noised) == 36
    for (x0, noise, sigma), (x0_alone, noise_alone, sigma_alone) in zip(of_subject, alone.noised, strict=True):
        assert torch.equal(x0, x0_alone)
        assert torch.equal(noise, noise_alone)
        assert sigma == sigma_alone


def test_a_weight_of_zero_never_looks_at_the_class():
    data = toy_data(4, 0, with_class=True)
    alone, losses = train(TOY, data)
    for source in ("model", "pictures"):
        backbone, same = train(with_prior(0.0, source), data, toy_data(5, 50))
        assert same == losses
        assert len(backbone.asked) == len(alone.asked)


def test_without_pictures_the_models_own_word_on_the_subjects_noisy_picture_is_the_target():
    """For each sample three questions: the subject's for its gradient, the class's without the adapter, the class's for its gradient."""
    data = toy_data(4, 0, with_class=True)
    backbone, _ = train(with_prior(1.0, "model"), data)
    assert len(backbone.asked) == 3 * 36
    for first in range(0, len(backbone.asked), 6):  # batches of two
        subject, frozen, class_ = (backbone.asked[first + i : first + i + 2] for i in (0, 2, 4))
        for (x, condition, grad), (x_f, condition_f, grad_f), (x_c, condition_c, grad_c) in zip(
            subject, frozen, class_, strict=True
        ):
            assert (grad, grad_f, grad_c) == (True, False, True)
            assert torch.equal(x, x_f)
            assert torch.equal(x, x_c)
            [example] = [e for e in data if torch.equal(e.condition, condition)]
            assert torch.equal(condition_f, example.class_condition)
            assert torch.equal(condition_c, example.class_condition)


def test_without_pictures_nothing_is_to_be_preserved_before_something_is_learnt():
    """An adapter starts at zero: the first loss is the subject's alone, to the bit; later ones are not."""
    data = toy_data(4, 0, with_class=True)
    _, alone = train(TOY, data)
    _, together = train(with_prior(1.0, "model"), data)
    assert together[0] == alone[0]
    assert all(a != b for a, b in zip(alone[1:], together[1:], strict=True))


def test_more_weight_is_less_drift():
    """Twice the weight counts twice: drifts fall in the order of the weights, and a very large one leaves next to nothing."""
    data, drifts = toy_data(4, 0, with_class=True), []
    for weight in (0.0, 0.3, 1.0, 3.0):
        backbone = ToyBackbone()
        adapter = fit(backbone, data, replace(with_prior(weight, "model"), steps=60))
        layers = build_layers(select(backbone.weights(), TOY.adapter.targets), TOY.adapter, 0, backbone.device)
        with torch.no_grad():
            for name, layer in layers.items():
                layer.a.copy_(adapter.layers[name].a.value)
                layer.b.copy_(adapter.layers[name].b.value)
            noisy, sigma = random(32, 4, 6, 5, seed=5), torch.linspace(0.1, 0.9, 32)
            contexts = torch.stack([example.class_condition for example in data * 8])
            before = backbone.net(noisy, sigma, contexts)
            with attached(backbone, layers):
                drifts.append((backbone.net(noisy, sigma, contexts) - before).square().mean().item())
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[2] <= 0.4 * drifts[0], drifts
