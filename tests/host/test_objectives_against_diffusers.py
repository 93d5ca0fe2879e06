"""Losses, weightings and noise levels on the host's models are the numbers that diffusers' training scripts compute."""

import math
from dataclasses import dataclass
from functools import cached_property

import diffusers_twin as twins
import pytest
import torch
from torch.testing import assert_close

from krona_train.config import DenoisingConfig
from krona_train.objectives.denoising import denoising
from krona_train.objectives.noise import Draw, warp

diffusers = pytest.importorskip("diffusers", reason="diffusers 0.42 needs Python 3.11 or newer")

TIMESTEPS = torch.linspace(0, 999, 20).round().long()
TOLERANCE = {"rtol": 1e-4, "atol": 0}
"""Two implementations of one network in float32. Measured: 3e-5 where the error is divided by the lowest σ of 0.03, else 4e-7."""
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
"""``scheduler_config.json`` of Stable Diffusion 1.5 and XL."""


@dataclass
class Case:
    """A model in the host and in diffusers, and what both are given at twenty noise levels."""

    backbone: object
    twin: torch.nn.Module
    scheduler: object
    data: list
    x0: torch.Tensor
    noise: torch.Tensor

    def loss(self, config=None):
        """Ours, ``(20,)``."""
        with self.backbone.ready(), torch.no_grad():
            sigma = self.backbone.noise_levels((TIMESTEPS + 0.5) / 1000)
            return denoising(self.backbone, self.backbone.collate(self.data), Draw(sigma, self.noise), config)

    @cached_property
    def errors(self):
        """What diffusers' prediction is off by, ``(20, C, h, w)``."""
        kind = self.scheduler.config.prediction_type
        target = self.noise if kind == "epsilon" else self.scheduler.get_velocity(self.x0, self.noise, TIMESTEPS)
        with torch.no_grad():
            x_t = self.scheduler.add_noise(self.x0, self.noise, TIMESTEPS)
            return twins.predict(self.twin, x_t, TIMESTEPS, self.data) - target

    def reference(self):
        """diffusers' loss of each sample, ``(20,)``."""
        return per_sample(self.errors.square())


def per_sample(values):
    return values.flatten(1).mean(1)


def velocity(model, zsnr=False):
    """The model as core's node ModelSamplingDiscrete hands it on: one that predicts v."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, "v_prediction", zsnr)[0]


CASES = {
    "sd15": ("sd15", (), {"layout": "shaped"}, "epsilon"),
    "sd15 told to predict v": ("sd15", (), {"layout": "shaped"}, "v_prediction"),
    "sdxl": ("sdxl", (), {}, "epsilon"),
    "sdxl made to predict v": ("sdxl", ("v_pred",), {}, "v_prediction"),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, comfy):
    from krona_train.comfyui.model import ComfyBackbone

    kind, marks, options, predicts = CASES[request.param]
    model = twins.load(comfy, kind, marks, clip=False, **options)
    twin = twins.unet(comfy, model)
    if predicts == "v_prediction" and not marks:
        model = velocity(model)
    data = twins.examples(kind, len(TIMESTEPS))
    x0 = twins.clean(kind, data)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    scheduler = diffusers.DDPMScheduler(**BETAS, prediction_type=predicts)
    return Case(ComfyBackbone(model), twin, scheduler, data, x0, noise)


def test_the_loss_is_the_squared_error_that_diffusers_computes(case):
    assert_close(case.loss(), case.reference(), **TOLERANCE)


def test_min_snr_is_the_weighting_that_diffusers_computes(case):
    """``min(snr, γ) / snr`` for ε (train_dreambooth.py) and ``min(snr, γ) / (snr + 1)`` for v (train_text_to_image.py).

    For v, diffusers' DreamBooth scripts have ``min(snr, γ) / snr + 1`` instead, which is no min-SNR (Hang et al. 2023, section 3.4).
    """
    from diffusers.training_utils import compute_snr

    snr = compute_snr(case.scheduler, TIMESTEPS)
    weights = snr.clamp(max=5.0) / (snr if case.scheduler.config.prediction_type == "epsilon" else snr + 1)
    assert 0.001 < weights.min() < weights.max()
    assert_close(case.loss(DenoisingConfig(weighting="min_snr", snr_gamma=5.0)), case.reference() * weights, **TOLERANCE)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_huber_is_the_distance_that_diffusers_computes(case, c):
    """``conditional_loss`` of diffusers' scripts (train_dreambooth_lora_sdxl_advanced.py and its fellows), with its scale."""
    errors = case.errors
    expected = per_sample(2 * c * (torch.sqrt(errors**2 + c**2) - c))
    assert not torch.allclose(expected, case.reference(), rtol=0.1)
    assert_close(case.loss(DenoisingConfig(distance="huber", huber_c=c)), expected, **TOLERANCE)


def test_the_noise_levels_are_the_thousand_of_diffusers_schedule_equally_often(case):
    alphas = case.scheduler.alphas_cumprod.double()
    with case.backbone.ready():
        hit = [case.backbone.noise_levels((torch.arange(1000) + within) / 1000) for within in (0.01, 0.5, 0.99)]
        hosts = case.backbone.module("model_sampling").sigmas
        ends = case.backbone.noise_levels(torch.tensor([0.0, 1 - 2**-24]))
    for levels in hit:
        assert torch.equal(levels, hosts)  # exactly one of those that the model was trained at
    assert torch.equal(ends, hosts[[0, -1]])
    # A float32 product of a thousand factors: 1000 roundings of 6e-8.
    assert_close(hosts.double(), ((1 - alphas) / alphas).sqrt(), rtol=6e-5, atol=0)


def test_the_velocity_is_that_of_the_paper():
    """Salimans & Ho 2022, appendix D: ``v = α ε − σ x0`` with ``α² + σ² = 1``; so is diffusers', which the cases compare with."""
    scheduler = diffusers.DDPMScheduler(**BETAS, prediction_type="v_prediction")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = (1 - betas).cumprod(0)[TIMESTEPS].sqrt()[:, None, None, None]
    rng = torch.Generator().manual_seed(2)
    x0, noise = torch.randn(2, len(TIMESTEPS), 4, 8, 8, generator=rng)
    expected = alpha * noise - (1 - alpha**2).sqrt() * x0
    assert_close(scheduler.get_velocity(x0, noise, TIMESTEPS), expected.float(), rtol=1e-4, atol=1e-4)


def test_without_signal_at_the_last_step_the_loss_is_still_diffusers(comfy):
    """Zero terminal SNR (Lin et al. 2024). The host keeps a trace of signal at the last step, 2e-4 of its amplitude."""
    from krona_train.comfyui.model import ComfyBackbone

    model = twins.load(comfy, "sd15", clip=False)
    data = twins.examples("sd15", len(TIMESTEPS))
    x0 = twins.clean("sd15", data)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    scheduler = diffusers.DDPMScheduler(**BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    twin = twins.unet(comfy, model)
    case = Case(ComfyBackbone(velocity(model, zsnr=True)), twin, scheduler, data, x0, noise)
    loss, expected = case.loss(), case.reference()
    assert_close(loss[:-1], expected[:-1], **TOLERANCE)
    assert_close(loss[-1], expected[-1], rtol=2e-4, atol=0)


class Flow:
    """A rectified flow in the host, and diffusers' noisy pictures and targets at twenty of its scheduler's levels."""

    def __init__(self, comfy, kind, **options):
        from krona_train.comfyui.model import ComfyBackbone

        self.model = twins.load(comfy, kind, **options)
        self.backbone = ComfyBackbone(self.model)
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        chosen = torch.linspace(0, 999, 20).round().long()
        self.timesteps, self.sigma = self.scheduler.timesteps[chosen], self.scheduler.sigmas[chosen]
        self.data = twins.examples(kind, 20)
        self.x0 = twins.clean(kind, self.data)
        self.noise = torch.randn(self.x0.shape, generator=torch.Generator().manual_seed(1))
        self.x_t = self.scheduler.scale_noise(self.x0, self.timesteps, self.noise)
        self.target = self.noise - self.x0

    def loss(self, config=None):
        with self.backbone.ready(), torch.no_grad():
            return denoising(self.backbone, self.backbone.collate(self.data), Draw(self.sigma, self.noise), config)


@pytest.fixture(scope="module")
def sd3(comfy):
    return Flow(comfy, "sd3", depth=2)


@pytest.fixture(scope="module")
def flux(comfy):
    return Flow(comfy, "flux", depth=2)


def test_the_loss_of_a_flow_is_the_squared_error_that_diffusers_computes(sd3):
    """As in train_dreambooth_lora_sd3.py: ``(1 − σ) x0 + σ ε`` in, ``ε − x0`` out, the transformer with the same weights."""
    mix = sd3.sigma[:, None, None, None]
    assert_close(sd3.x_t, (1 - mix) * sd3.x0 + mix * sd3.noise, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        predicted = twins.predict(twins.sd3(sd3.model), sd3.x_t, sd3.timesteps, sd3.data)
    assert_close(sd3.loss(), per_sample((predicted - sd3.target).square()), **TOLERANCE)
    c = 0.1
    expected = per_sample(2 * c * (((predicted - sd3.target) ** 2 + c**2).sqrt() - c))
    assert_close(sd3.loss(DenoisingConfig(distance="huber", huber_c=c)), expected, **TOLERANCE)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_the_loss_of_a_flow_is_the_error_of_what_the_network_itself_says(request, kind):
    """The network called directly: no x0 of the host in between."""
    flow = request.getfixturevalue(kind)
    text = torch.cat([example.condition.embedding for example in flow.data]).clone()
    pooled = torch.cat([example.condition.extras["pooled_output"] for example in flow.data]).clone()
    with flow.backbone.ready(), torch.no_grad():
        network = flow.backbone.module("diffusion_model")
        if kind == "sd3":
            predicted = network(flow.x_t, 1000 * flow.sigma, context=text, y=pooled)
        else:  # multiplies σ by 1000 itself; 1 is the guidance of a training where a prompt brings none
            predicted = network(flow.x_t, flow.sigma, context=text, y=pooled, guidance=torch.full((20,), 1.0))
    assert_close(flow.loss(), per_sample((predicted - flow.target).square()), **TOLERANCE)


def test_uniform_levels_of_sd3_are_those_of_diffusers_scheduler(sd3):
    """``u`` goes from clean to noise, diffusers' list from noise to clean."""
    with sd3.backbone.ready():
        levels = sd3.backbone.noise_levels(torch.arange(1, 1000) / 1000)
    assert_close(levels, sd3.scheduler.sigmas.flip(0)[:-1], rtol=1e-5, atol=0)


# Densities.

QUANTILES = torch.linspace(0.02, 0.98, 49)
DRAWN = 400_000


def their_times(scheme, **options):
    """Times as diffusers' scripts draw them: their ``u`` is a place in a list of timesteps that falls from noise to clean."""
    from diffusers.training_utils import compute_density_for_timestep_sampling

    rng = torch.Generator().manual_seed(3)
    u = compute_density_for_timestep_sampling(scheme, DRAWN, generator=rng, **options)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return scheduler.timesteps[(u * 1000).long().clamp(0, 999)] / 1000


def assert_same_distribution(times, config):
    """The share of ``times`` below our quantile is the quantile's, within five standard errors and diffusers' grid of 1/1000."""
    ours = warp(QUANTILES, config).sort().values
    shares = (times[None] <= ours[:, None]).double().mean(1)
    width = 1e-3 * max_density(ours)
    error = 5 * (QUANTILES * (1 - QUANTILES) / DRAWN).sqrt() + width
    assert ((shares - QUANTILES).abs() <= error).all(), (shares - QUANTILES).tolist()


def max_density(quantiles):
    return (QUANTILES.diff() / quantiles.diff()).max().item()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.8), (-1.0, 1.3)])
def test_logit_normal_times_are_diffusers_with_the_mean_of_the_paper(mean, std):
    """A positive mean is more noise here as in the paper, and less noise in diffusers' scripts, whose list runs backwards."""
    config = DenoisingConfig(levels="logit_normal", level_mean=mean, level_std=std)
    assert_same_distribution(their_times("logit_normal", logit_mean=-mean, logit_std=std), config)


@pytest.mark.parametrize("scale", [0.0, 0.8, 1.29, 1.75])
def test_mode_times_are_diffusers(scale):
    """Symmetric about one half, so that the direction of diffusers' list makes no difference."""
    config = DenoisingConfig(levels="mode", level_scale=scale)
    assert_same_distribution(their_times("mode", mode_scale=scale), config)


def test_uniform_times_are_diffusers():
    assert_same_distribution(their_times("none"), DenoisingConfig())


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
def test_shifted_times_are_those_of_diffusers_shifted_scheduler(shift):
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    shifted = warp(times, DenoisingConfig(levels="shifted", level_shift=shift))
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift).sigmas.flip(0)
    assert_close(shifted.float(), theirs, rtol=1e-5, atol=0)


def logit_normal(t, mean=0.5, std=0.8):
    """Esser et al. 2024, eq. 19."""
    return (-(((t / (1 - t)).log() - mean) ** 2) / (2 * std**2)).exp() / (std * math.sqrt(2 * math.pi) * t * (1 - t))


def mode(t, scale=1.29):
    """Esser et al. 2024, eq. 20: ``|d f⁻¹(t) / dt|`` for ``f(u) = 1 − u − s (cos²(πu/2) − 1 + u)``, inverted by bisection."""
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(60):
        u = (low + high) / 2
        is_left = 1 - u - scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u) > t  # f falls
        low, high = torch.where(is_left, u, low), torch.where(is_left, high, u)
    return 1 / (-1 + scale * (math.pi / 2 * torch.sin(math.pi * u) - 1)).abs()


def shifted(t, shift=3.0):
    """Esser et al. 2024, eq. 23, as the density that it makes of a uniform one."""
    return shift / (shift - (shift - 1) * t) ** 2


DENSITIES = {
    "uniform": (torch.ones_like, DenoisingConfig()),
    "logit_normal": (logit_normal, DenoisingConfig(levels="logit_normal", level_mean=0.5, level_std=0.8)),
    "mode": (mode, DenoisingConfig(levels="mode", level_scale=1.29)),
    "shifted": (shifted, DenoisingConfig(levels="shifted", level_shift=3.0)),
}


@pytest.mark.parametrize("levels", DENSITIES)
def test_times_have_the_density_of_the_paper(levels):
    """The density's integral over each tenth, by the midpoint rule, is the share of times that fall there."""
    density, config = DENSITIES[levels]
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    expected = density(grid).reshape(10, -1).mean(1) / 10
    times = warp((torch.arange(1_000_000) + 0.5) / 1_000_000, config)  # a million evenly spread u: one per 1e-6
    shares = torch.histc(times.double(), 10, 0.0, 1.0) / len(times)
    assert_close(expected.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-5, atol=0)
    assert_close(shares, expected, rtol=0, atol=1e-5)
