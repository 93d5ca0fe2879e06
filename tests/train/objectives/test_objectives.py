"""Weightings, distances, masks and noise densities against the formulas of their papers."""

import math

import pytest
import torch
from test_loop import config, examples
from torch.testing import assert_close

from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example
from krona_train.config import DenoisingConfig
from krona_train.objectives.denoising import denoising, mean
from krona_train.objectives.noise import draw, warp
from krona_train.objectives.weighting import weighting


def prepared(count=5):
    backbone = ToyBackbone()
    batch = backbone.collate(examples(count))
    return backbone, batch, draw(backbone, batch.x0, 4, range(count))


def errors():
    """Flow errors ``v_pred − v`` per number, straight from the network."""
    backbone, batch, drawn = prepared()
    x_t = torch.lerp(batch.x0, drawn.noise, drawn.sigma[:, None, None, None])
    predicted = backbone.net(x_t, drawn.sigma, torch.stack(batch.conditions))
    return predicted - (drawn.noise - batch.x0), drawn.sigma


@pytest.mark.parametrize("gamma", [0.5, 1.0, 5.0])
def test_weightings_of_a_flow_model_are_those_of_its_error_of_x0(gamma):
    error, sigma = errors()
    flow = error.square().flatten(1).mean(1)
    snr = ((1 - sigma) / sigma) ** 2
    of_x0 = flow * sigma**2
    expected = {
        "none": flow,
        "min_snr": snr.clamp(max=gamma) * of_x0,
        "debiased": snr.sqrt() * of_x0,
        "p2": snr / (1 + snr) ** gamma * of_x0,
    }
    backbone, batch, drawn = prepared()
    for name, value in expected.items():
        chosen = DenoisingConfig(weighting=name, snr_gamma=gamma, p2_gamma=gamma)
        assert_close(denoising(backbone, batch, drawn, chosen), value, rtol=1e-4, atol=1e-6)


def test_weightings_of_an_epsilon_model_are_the_usual_ones():
    snr = torch.tensor([0.01, 0.4, 3.0, 7.0, 80.0])  # ε-loss = snr · x0-loss
    assert_close(weighting(DenoisingConfig(weighting="min_snr"), snr, snr), torch.minimum(snr, torch.tensor(5.0)) / snr)
    assert_close(weighting(DenoisingConfig(weighting="debiased"), snr, snr), snr**-0.5)
    assert_close(weighting(DenoisingConfig(weighting="p2", p2_gamma=0.7), snr, snr), (1 + snr) ** -0.7)
    v = snr + 1  # v-loss = (snr + 1) · x0-loss (Salimans & Ho 2022)
    expected = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)
    assert_close(weighting(DenoisingConfig(weighting="min_snr"), snr, v), expected)


@pytest.mark.parametrize("c", [0.05, 0.3, 100.0])
def test_huber_is_taken_of_the_models_own_error(c):
    error, _ = errors()
    expected = (2 * c * ((error.square() + c**2).sqrt() - c)).flatten(1).mean(1)
    backbone, batch, drawn = prepared()
    ours = denoising(backbone, batch, drawn, DenoisingConfig(distance="huber", huber_c=c))
    assert_close(ours, expected, rtol=1e-3, atol=1e-5)
    if c == 100.0:  # errors far below c count squared
        assert_close(ours, error.square().flatten(1).mean(1), rtol=1e-2, atol=1e-3)


def test_a_masked_mean_counts_only_what_the_mask_lets_through():
    values = torch.arange(48, dtype=torch.float32).reshape(2, 3, 4, 2)
    mask = torch.zeros(2, 1, 4, 2)
    mask[0, 0, 1, 0], mask[0, 0, 2, 1], mask[1] = 1.0, 0.5, 0.25
    first = sum(values[0, c, 1, 0] + 0.5 * values[0, c, 2, 1] for c in range(3)) / (3 * 1.5)
    assert_close(mean(values, mask), torch.stack([first, values[1].mean()]))


def test_what_a_mask_hides_is_not_learnt():
    """Two sets of pictures that differ only where the mask is black train the same adapter, except through attention's
    eyes."""
    backbone, data = ToyBackbone(), examples(3)
    mask = torch.zeros(6, 5)
    mask[:3] = 1
    masked = [Example(e.latent, e.condition, e.caption, mask) for e in data]
    batch = backbone.collate(masked)
    drawn = draw(backbone, batch.x0, 0, range(3))
    x_t = backbone.add_noise(batch.x0, drawn.noise, drawn.sigma)
    slope = backbone.loss_weight(drawn.sigma)[:, None, None, None]
    error = (backbone.predict(x_t, drawn.sigma, batch.conditions) - batch.x0).square() * slope
    assert_close(denoising(backbone, batch, drawn), error[:, :, :3].flatten(1).mean(1))
    assert fit(ToyBackbone(), masked, config()) != fit(ToyBackbone(), data, config())


def test_a_batch_may_mix_pictures_with_and_without_masks():
    backbone, data = ToyBackbone(), examples(2)
    mixed = [data[0], Example(data[1].latent, data[1].condition, "", torch.rand(6, 5))]
    batch, plain = backbone.collate(mixed), backbone.collate(data)
    drawn = draw(backbone, batch.x0, 0, range(2))
    ours, theirs = denoising(backbone, batch, drawn), denoising(backbone, plain, drawn)
    assert_close(ours[0], theirs[0])
    assert not torch.isclose(ours[1], theirs[1])


def density(name, t, **options):
    c = DenoisingConfig(levels=name, **options)
    if name == "logit_normal":  # Esser et al. 2024, eq. 19
        logit = math.log(t / (1 - t))
        spread = c.level_std * math.sqrt(2 * math.pi) * t * (1 - t)
        return math.exp(-((logit - c.level_mean) ** 2) / (2 * c.level_std**2)) / spread
    # shifted: the inverse of t = s·u / (1 + (s − 1)·u), differentiated
    s = c.level_shift
    return s / (s - (s - 1) * t) ** 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("logit_normal", {}),
        ("logit_normal", {"level_mean": 0.8, "level_std": 0.6}),
        ("shifted", {}),
        ("shifted", {"level_shift": 0.4}),
    ],
)
def test_noise_levels_have_the_density_of_their_paper(name, options):
    chosen = DenoisingConfig(levels=name, **options)
    u = (torch.arange(200_000, dtype=torch.float64).add(0.5) / 200_000).float()
    counts = torch.histc(warp(u, chosen), bins=20, min=0, max=1) / 200_000
    for bin_ in range(20):
        points = [(bin_ + (i + 0.5) / 200) / 20 for i in range(200)]
        expected = sum(density(name, t, **options) for t in points) / 200 / 20
        assert abs(counts[bin_].item() - expected) < 2e-4


def test_mode_levels_follow_equation_20_and_scale_zero_is_uniform():
    u = torch.linspace(0, 1, 101)[:-1]
    s = 1.29
    expected = (1 - u - s * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)).clamp(max=1 - 2**-24)
    assert_close(warp(u, DenoisingConfig(levels="mode")), expected)
    assert_close(warp(u, DenoisingConfig(levels="mode", level_scale=0.0)).flip(0)[:-1], u[1:])


@pytest.mark.parametrize("name", ["uniform", "logit_normal", "mode", "shifted"])
def test_levels_stay_within_what_the_model_knows(name):
    u = torch.tensor([0.0, 1e-12, 0.5, 1 - 2**-24])
    t = warp(u, DenoisingConfig(levels=name, level_std=3.0))
    assert ((t >= 0) & (t < 1)).all()


def test_noise_offset_shifts_each_channel_as_a_whole():
    backbone, x0 = ToyBackbone(), torch.zeros(4, 4, 6, 5)
    plain = draw(backbone, x0, 0, range(4))
    shifted = draw(backbone, x0, 0, range(4), DenoisingConfig(noise_offset=0.3))
    shift = shifted.noise - plain.noise
    assert torch.equal(shifted.sigma, plain.sigma)
    assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-6)
    drawn = draw(backbone, torch.zeros(2000, 4, 2, 2), 0, range(2000), DenoisingConfig(noise_offset=0.3))
    many = drawn.noise.mean((2, 3))
    assert abs(many.var().item() - (0.25 + 0.09)) < 0.02  # mean of four unit normals, plus the offset
