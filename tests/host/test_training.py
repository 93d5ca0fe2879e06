"""Training on the host's models: it learns, it repeats itself, each sample is its own, the host is left as it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shared_model import examples, surroundings, weights_hash
from torch.testing import assert_close

from krona_ops import TargetRule, select
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.adapters.attach import attached
from krona_train.adapters.trainee import build_layers
from krona_train.batches.examples import Example
from krona_train.objectives.denoising import denoising
from krona_train.objectives.noise import Draw, draw
from krona_train.run.events import Stepped

SETTINGS = TrainConfig(steps=100, optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0))


@pytest.fixture
def backbone(sd15):
    from krona_train.comfyui.model import ComfyBackbone

    return ComfyBackbone(sd15)


def test_the_loss_on_fixed_noise_falls_by_half(backbone):
    data = examples()
    adapter = fit(backbone, data, SETTINGS)
    layers = build_layers(select(backbone.weights()), AdapterConfig(), 0, backbone.device)
    with torch.no_grad():
        for name, layer in layers.items():
            layer.a.copy_(adapter.layers[name].a.value)
            layer.b.copy_(adapter.layers[name].b.value)

    def loss(layers):
        with backbone.ready(), torch.no_grad(), attached(backbone, layers):
            batch = backbone.collate(data * 4)
            return denoising(backbone, batch, draw(backbone, batch.x0, 1234, range(20))).mean().item()

    before, after = loss({}), loss(layers)
    assert after <= 0.5 * before, (before, after)


def test_two_trainings_with_one_seed_are_bitwise_equal(backbone):
    settings = TrainConfig(steps=6, batch_size=2)
    assert fit(backbone, examples(), settings) == fit(backbone, examples(), settings)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("fault", [None, "exception", "interrupt"])
def test_the_host_is_left_as_it_was_found(comfy, sd15, backbone, fault):
    comfy.model_management.load_models_gpu([sd15])
    hash_before, before = weights_hash(sd15.model), surroundings(comfy, sd15.model)

    events = []

    def strike(event):
        events.append(event)
        if fault and isinstance(event, Stepped) and event.step == 3:
            if fault == "exception":
                raise Stopped
            comfy.model_management.interrupt_current_processing()

    with torch.inference_mode():  # as nodes run
        before = surroundings(comfy, sd15.model)
        if fault is None:
            fit(backbone, examples(), TrainConfig(steps=4), strike)
        else:
            with pytest.raises((Stopped, comfy.model_management.InterruptProcessingException)):
                fit(backbone, examples(), TrainConfig(steps=8), strike)
            assert events[-1].step == 3  # the host's own layers ask for the interrupt: not one more step is done
        assert surroundings(comfy, sd15.model) == before
    assert weights_hash(sd15.model) == hash_before


def test_each_sample_of_a_batch_has_its_own_caption_and_noise_level(backbone):
    data, seen = examples(), []
    with backbone.ready():
        batch = backbone.collate(data[:4])
        noise = draw(backbone, batch.x0, 0, range(4))
        hook = backbone.module("diffusion_model").register_forward_pre_hook(
            lambda module, args, kwargs: seen.append((args[0], args[1], kwargs["context"])), with_kwargs=True
        )
        together = denoising(backbone, batch, noise)
        hook.remove()
        [(x, timesteps, context)] = seen  # one pass of four samples, not sixteen
        assert x.shape == (4, 4, 8, 8)
        assert len(set(timesteps.tolist())) == 4
        for n, example in enumerate(data[:4]):
            assert torch.equal(context[n], example.condition.embedding[0])
        alone = []
        for n in range(4):
            one = backbone.collate(data[n : n + 1])
            alone.append(denoising(backbone, one, Draw(noise.sigma[n : n + 1], noise.noise[n : n + 1])))
        assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_latents_enter_in_the_models_own_scale(backbone):
    data = examples(2)
    with backbone.ready():
        batch = backbone.collate(data)
    assert_close(batch.x0, torch.stack([e.latent for e in data]).clone() * 0.18215)


def test_captions_of_different_length_are_not_mixed_up(backbone):
    from krona_train.comfyui.encode import TextCondition

    data = examples(3)
    odd = TextCondition(torch.randn(1, 77 * 5 + 3, 768), {}, data[1].condition.size)  # cannot be repeated to 77
    data[1] = Example(data[1].latent, odd, "long")
    with backbone.ready():
        batch = backbone.collate(data)
        noise = draw(backbone, batch.x0, 0, range(3))
        together = denoising(backbone, batch, noise)
        alone = [
            denoising(backbone, backbone.collate([e]), Draw(noise.sigma[n : n + 1], noise.noise[n : n + 1]))
            for n, e in enumerate(data)
        ]
    assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-6)


KINDS = {
    "EPS": (lambda s: 1 / s**2, "ModelSamplingDiscrete"),
    "V_PREDICTION": (lambda s: (s**2 + 1) / s**2, "ModelSamplingDiscrete"),
    "CONST": (lambda s: 1 / s**2, "ModelSamplingDiscreteFlow"),
    "EDM": (lambda s: (s**2 + 0.25) / (0.5 * s) ** 2, "ModelSamplingContinuousEDM"),
    "COSMOS_RFLOW": (lambda s: ((s + 1) / s) ** 2, "ModelSamplingCosmosRFlow"),
    "X0": (lambda s: torch.ones_like(s), "ModelSamplingDiscrete"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_turns_x0_errors_into_errors_of_the_prediction(comfy, sd15, kind):
    """The formula of each parametrisation, and the loss of a model that predicts noise, computed without the host's x0."""
    import comfy.model_sampling as sampling

    from krona_train.comfyui.model import ComfyBackbone

    formula, base = KINDS[kind]
    made = type("Sampling", (getattr(sampling, base), getattr(sampling, kind)), {})()
    if kind == "EDM":
        made.set_parameters(0.002, 80.0, 0.5)
    model = sd15.clone()
    model.add_object_patch("model_sampling", made)
    backbone = ComfyBackbone(model)
    sigma = torch.tensor([0.03, 0.4, 0.9, 0.99])
    with backbone.ready():
        assert_close(backbone.loss_weight(sigma), formula(sigma), rtol=1e-5, atol=0)
        levels = backbone.noise_levels(torch.linspace(0, 0.999, 50))
    assert (levels > 0).all()
    assert (levels.diff() > 0).all()


def test_the_loss_is_the_mean_squared_error_of_the_predicted_noise(backbone):
    data = examples(3)
    with backbone.ready(), torch.no_grad():
        batch = backbone.collate(data)
        noise = draw(backbone, batch.x0, 7, range(3))
        predicted = []
        hook = backbone.module("diffusion_model").register_forward_hook(lambda m, a, out: predicted.append(out))
        loss = denoising(backbone, batch, noise)
        hook.remove()
    assert_close(loss, (predicted[0] - noise.noise).square().flatten(1).mean(1), rtol=1e-4, atol=1e-6)


MEMORY = """
import json, os, sys
sys.path[0:0] = [os.environ["COMFYUI_PATH"]]
sys.path.append(sys.argv[2])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.model_management, comfy.sd, psutil, torch
from krona_train import TrainConfig, fit
from krona_train.batches.examples import Example
from krona_train.comfyui.encode import PictureSize, TextCondition
from krona_train.comfyui.model import ComfyBackbone
rss = psutil.Process().memory_info
with torch.inference_mode():
    model = comfy.sd.load_checkpoint_guess_config(sys.argv[1], output_vae=False, output_clip=False)[0]
    text = TextCondition(torch.randn(1, 77, 768), {}, PictureSize(64, 64, 0, 0, 64, 64))
    comfy.model_management.load_models_gpu([model])
    for p in model.model.parameters():
        p.sum().item()  # every page of a mapped file is in memory
    before = rss().rss
    peak = [before]
    fit(ComfyBackbone(model), [Example(torch.randn(4, 8, 8), text)], TrainConfig(steps=5), lambda e: peak.append(rss().rss))
size = sum(p.numel() * p.element_size() for p in model.model.parameters())
print(json.dumps({"grew": max(peak) - before, "base": size}))
"""


def test_the_base_model_is_not_copied(comfy):
    from tools import tiny_models

    checkpoint = tiny_models.cached("sd15", layout="shaped", clip=False, vae=False)
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", MEMORY, str(checkpoint), root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["base"] > 150e6
    assert measured["grew"] < 0.6 * measured["base"], measured


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_gradients_on_models_that_add_in_place_agree_with_finite_differences(comfy, kind):
    from krona_train.comfyui.encode import PictureSize, TextCondition
    from krona_train.comfyui.model import ComfyBackbone
    from tools import tiny_models

    with torch.inference_mode():
        file = str(tiny_models.cached(kind))
        model = comfy.sd.load_checkpoint_guess_config(file, output_vae=False, output_clip=False)[0]
    [[embedding, extras]] = tiny_models.conditioning(kind, ["one"], seed=0)
    backbone = ComfyBackbone(model)
    latent = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(0))
    data = [Example(latent, TextCondition(embedding, extras, PictureSize(64, 64, 0, 0, 64, 64)))]
    rules = (TargetRule(factors=(8, 4)),)
    layers = build_layers(select(backbone.weights(), rules), AdapterConfig(targets=rules), 0, backbone.device)
    rng = torch.Generator().manual_seed(1)
    with backbone.ready(), attached(backbone, layers):
        batch = backbone.collate(data)
        noise = Draw(torch.tensor([0.6]), torch.randn(batch.x0.shape, generator=rng))
        for layer in layers.values():
            torch.nn.init.normal_(layer.b, std=0.02, generator=rng)
        denoising(backbone, batch, noise).mean().backward()
        # Along the gradient itself, in float32: a wrong gradient is off by percents, the difference quotient by less.
        parameters = [p for layer in layers.values() for p in layer.parameters()]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        step = 0.02 / norm

        def loss_at(t):
            with torch.no_grad():
                for p in parameters:
                    p.add_(p.grad, alpha=float(t))
                value = denoising(backbone, batch, noise).double().mean().item()
                for p in parameters:
                    p.sub_(p.grad, alpha=float(t))
            return value

        slope = (8 * (loss_at(step) - loss_at(-step)) - (loss_at(2 * step) - loss_at(-2 * step))) / (12 * step)
    assert_close(float(slope), float(norm**2), rtol=2e-3, atol=0)


def test_a_model_without_attention_projections_by_name_is_an_error_not_a_silent_nothing(backbone):
    from krona_ops.errors import CoverageError

    with pytest.raises(CoverageError, match="is a target"):
        fit(backbone, examples(1), TrainConfig(adapter=AdapterConfig(targets=(TargetRule(pattern="xyz"),))))


def test_sdxl_is_told_the_size_and_the_cut_of_each_picture(comfy):
    from krona_train.comfyui.encode import PictureSize, TextCondition
    from krona_train.comfyui.model import ComfyBackbone
    from tools import tiny_models

    with torch.inference_mode():
        file = str(tiny_models.cached("sdxl", clip=False, vae=False))
        model = comfy.sd.load_checkpoint_guess_config(file, output_vae=False, output_clip=False)[0]
        rng = torch.Generator().manual_seed(0)
        sizes = [PictureSize(640, 480, 11, 0, 64, 64), PictureSize(90, 120, 0, 7, 64, 64)]
        data = [
            Example(
                torch.randn(4, 8, 8, generator=rng),
                TextCondition(
                    torch.randn(1, 77, 2048, generator=rng), {"pooled_output": torch.randn(1, 1280, generator=rng)}, size
                ),
            )
            for size in sizes
        ]
    backbone, received = ComfyBackbone(model), []
    assert backbone.family == "sdxl_base_v1-0"
    with backbone.ready():
        batch = backbone.collate(data)
        assert_close(batch.x0, torch.stack([e.latent for e in data]).clone() * 0.13025)
        hook = backbone.module("diffusion_model").register_forward_pre_hook(
            lambda module, args, kwargs: received.append(kwargs["y"]), with_kwargs=True
        )
        denoising(backbone, batch, draw(backbone, batch.x0, 0, range(2)))
        hook.remove()
    for row, example, size in zip(received[0], data, sizes, strict=True):
        numbers = [size.height, size.width, size.crop_top, size.crop_left, size.target_height, size.target_width]
        # The sinusoidal embedding of SDXL (Podell et al. 2023, section 2.2), written out.
        frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128)
        angles = torch.tensor(numbers, dtype=torch.float32)[:, None] * frequencies
        expected = torch.cat(
            [example.condition.extras["pooled_output"][0], torch.cat([angles.cos(), angles.sin()], 1).flatten()]
        )
        assert_close(row, expected, rtol=1e-4, atol=1e-4)
    adapter = fit(backbone, data, TrainConfig(steps=2, batch_size=2))
    assert len(adapter) == len([n for n in backbone.weights() if "attn" in n])


def test_an_error_in_the_middle_says_where_what_was_trained_is(comfy, tmp_path):
    """A learning rate at which the loss becomes infinite within a few steps, through what node and command line share."""
    from krona_ops import load
    from krona_ops.errors import NonFiniteError
    from krona_train.data.pictures import Dataset, from_tensor
    from krona_train.run.state import newest
    from krona_train.session.material import Places, prepare
    from krona_train.session.training import HostTraining
    from tools import tiny_models

    def tell(done, total, what):
        return None

    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("sd15")))
        pictures = from_tensor(torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0)), "a photo")
        settings = TrainConfig(steps=50, optimizer=OptimizerConfig(learning_rate=1.0, rate_a=1000.0, rate_b=1000.0, rate_by_width=0.0))
        folder = tmp_path / "run"
        places = Places(tmp_path / "cache", tmp_path / "class")
        material = prepare(model, clip, vae, Dataset(pictures, 64), settings, places, tell)
        with pytest.raises(NonFiniteError) as caught:
            HostTraining(model, clip, vae, material, settings, "").run(folder)
    assert f"What was trained is in {folder}; choose it in 'resume' to go on." in str(caught.value)
    [kept] = folder.glob("adapter-stopped-at-*.safetensors")
    assert len(load(kept)) == 8
    assert newest(folder) is not None
