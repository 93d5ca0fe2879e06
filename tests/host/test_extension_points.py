"""What ComfyUI's models offer to objectives and kinds of layer, against the host's own code: norms and biases, levels, no prompt, pixels, sites."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from extension.critic import Critic, CriticConfig
from PIL import Image
from torch.testing import assert_close

from krona_ops import TargetRule, save
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.batches.examples import Example
from krona_train.config import DataConfig, DenoisingConfig
from krona_train.objectives import kinds

CAPTION = "a photo of a red cat"


@pytest.fixture(scope="module")
def world(comfy):
    """The pack's own model, and a backbone that has all that it can be given."""
    from krona_host.model.small_world import load_world
    from krona_train.comfyui.encode import PictureSize, TextCondition, encode_captions
    from krona_train.comfyui.model import ComfyBackbone

    with torch.inference_mode():
        model, clip, vae = load_world()
        texts = encode_captions(clip, [CAPTION, ""])
        latent = vae.encode(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)))[0].float()
    size = PictureSize(64, 64, 0, 0, 64, 64)
    example = Example(latent, TextCondition(*texts[CAPTION], size), CAPTION)
    without = Example(latent, TextCondition(*texts[""], size), "")
    return SimpleNamespace(
        model=model, clip=clip, vae=vae, example=example, without=without, backbone=ComfyBackbone(model, without=texts[""], vae=vae)
    )


def net_of(world):
    return world.model.model.diffusion_model


def test_every_parameter_of_the_unet_can_be_a_target(world):
    shapes = world.backbone.weights(vectors=True)
    named = {f"diffusion_model.{name}".removesuffix(".weight"): p.shape for name, p in net_of(world).named_parameters()}
    assert dict(shapes) == named
    assert list(shapes) == list(named)
    assert {name: shape for name, shape in shapes.items() if len(shape) > 1} == dict(world.backbone.weights())


def test_a_batch_has_conditions_without_a_prompt_and_a_prompt_needs_no_picture(world):
    prompt = Example(None, world.example.condition, CAPTION, shape=tuple(world.example.latent.shape))
    with world.backbone.ready():
        batch, empty = (world.backbone.collate([e, e]) for e in (world.example, world.without))
        assert not world.backbone.collate([prompt]).has_pictures
        sigma, noise = torch.tensor([2.0, 5.0]), torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(1))
        x_t = world.backbone.add_noise(batch.x0, noise, sigma)
        with torch.no_grad():
            without_prompt, expected, with_prompt = (
                world.backbone.predict(x_t, sigma, c) for c in (batch.unconditional, empty.conditions, batch.conditions)
            )
    assert torch.equal(without_prompt, expected)
    assert not torch.allclose(without_prompt, with_prompt, atol=1e-4)


def test_latents_become_pixels_as_in_the_host_with_gradients(world):
    with world.backbone.ready():
        batch = world.backbone.collate([world.example, world.example])
        x0 = batch.x0.clone().requires_grad_()
        pixels = world.backbone.decode(x0)
        [gradient] = torch.autograd.grad(pixels.mean(), x0)
    with torch.inference_mode():
        expected = world.vae.decode(torch.stack([world.example.latent] * 2))
    assert_close(pixels.detach().movedim(1, -1), expected.cpu(), rtol=1e-4, atol=1e-4)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("text_encoder", [False, True])
def test_an_objective_gets_the_empty_prompt_and_the_pixels_that_it_needs(world, text_encoder, tmp_path, monkeypatch):
    """The tests' own objective, through the session that node and command line share."""
    from krona_train.data.choices import PictureFiles
    from krona_train.data.source import read_pictures
    from krona_train.session.material import Material, Places, prepare
    from krona_train.session.training import HostTraining

    monkeypatch.setattr(kinds, "OBJECTIVES", (*kinds.OBJECTIVES, Critic))
    for number, color in enumerate(("red", "blue")):
        Image.new("RGB", (64, 64), color).save(tmp_path / f"{number}.png")
    adapter = AdapterConfig(targets=(TargetRule((8, 4), ("k",)),), text_encoder=text_encoder)
    settings = TrainConfig(steps=2, adapter=adapter, objective=CriticConfig(), data=DataConfig(cache=False, resolution=64))
    settings = replace(settings, optimizer=OptimizerConfig(learning_rate=1e-3))
    pictures = read_pictures(PictureFiles(folder=str(tmp_path), prompt=CAPTION), settings.data)
    parts = world.model, world.clip, world.vae
    with torch.inference_mode():
        made = prepare(*parts, pictures, settings, Places(tmp_path / "c", tmp_path / "p"), lambda *progress: None)
    material = Material.load(made.save(tmp_path / "encoded.safetensors"))
    assert torch.equal(material.empty_prompt[0], world.without.condition.embedding)
    result, run = HostTraining(*parts, material, settings, "").run(tmp_path / "run")
    assert run.steps == [1, 2]
    assert any(delta.dense().abs().max() > 0 for delta in result.layers.values())
    assert (run.folder / "adapter-of-critic.safetensors").is_file()
    plain = replace(settings, objective=DenoisingConfig())
    with torch.inference_mode():
        made = prepare(*parts, pictures, plain, Places(tmp_path / "c", tmp_path / "p"), lambda *progress: None)
    assert made.empty_prompt is None
    training = HostTraining(*parts, made, plain, "")
    assert not training.backbone.has_unconditional
    assert not training.backbone.has_decoder


def test_no_prompt_is_encoded_anew_where_the_text_encoder_learns(world):
    """Else the empty prompt would be what it was before the training."""
    from krona_train.comfyui.model import ComfyBackbone

    embedding = world.without.condition.embedding
    backbone = ComfyBackbone(world.model, clip=world.clip, without=(torch.zeros_like(embedding), world.without.condition.extras))
    with backbone.ready(), torch.no_grad():
        batch, empty = backbone.collate([world.example]), world.backbone.collate([world.without])
        sigma = torch.tensor([2.0])
        predicted = backbone.predict(empty.x0, sigma, batch.unconditional)
        expected = world.backbone.predict(empty.x0, sigma, empty.conditions)
    assert_close(predicted, expected, rtol=1e-4, atol=1e-4)


def test_the_levels_are_those_of_the_hosts_sampler(world, comfy):
    import comfy.samplers

    schedule = comfy.samplers.KSampler(world.model, 7, world.model.load_device, "euler", "normal")
    assert_close(world.backbone.levels(7), schedule.sigmas)
    assert world.backbone.levels(7)[-1] == 0


def test_another_attention_can_stand_beside_each_self_attention(world):
    sites = world.backbone.sites()
    names = {name.removesuffix(".to_q") for name in world.backbone.weights() if name.endswith("attn1.to_q")}
    assert {site.name for site in sites} == names
    for site in sites:
        norm, out = world.backbone.module(site.norm), world.backbone.module(site.out)
        assert norm.normalized_shape == (out.out_features,)
        assert world.backbone.module(site.q).out_features % site.heads == 0


@pytest.mark.parametrize("kind", ["difference", "full"])
def test_norms_biases_and_products_in_one_file_are_what_the_host_makes_of_it(world, kind, tmp_path):
    """Trained, saved, and read by the host's own LoRA loader: the same prediction as with the trainer's layers."""
    import comfy.sd
    import comfy.utils

    from krona_train.comfyui.model import ComfyBackbone

    rules = (
        TargetRule((8, 4), pattern="output_blocks"),
        TargetRule(projections=(), pattern=r"\.(norm1|in_layers\.0|out_layers\.0)(\.bias)?$|in_layers\.2\.bias", kind=kind),
        TargetRule(projections=(), pattern=r"^diffusion_model\.out\.2", kind=kind),
    )
    settings = TrainConfig(
        steps=3,
        batch_size=2,
        adapter=AdapterConfig(targets=rules),
        optimizer=OptimizerConfig(learning_rate=2e-2, rate_by_width=0.0),
    )
    adapter = fit(ComfyBackbone(world.model), [world.example], settings)
    vectors = [name for name, delta in adapter.layers.items() if len(delta.shape) == 1]
    assert len(vectors) > 20
    assert all(delta.dense().abs().max() > 0 for name, delta in adapter.layers.items() if name in vectors)

    from krona_host.patching.apply import apply_adapter

    ours = apply_adapter(adapter, world.model, None).model
    file = save(adapter, tmp_path / "mixed.safetensors")
    theirs, _ = comfy.sd.load_lora_for_models(world.model, None, comfy.utils.load_torch_file(str(file)), 1.0, 0.0)
    predictions = []
    for model in (world.model, ours, theirs):
        backbone = ComfyBackbone(model)
        with backbone.ready(), torch.no_grad():
            batch = backbone.collate([world.example])
            noise = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(4))
            sigma = torch.tensor([3.0])
            predictions.append(backbone.predict(backbone.add_noise(batch.x0, noise, sigma), sigma, batch.conditions))
    assert len(theirs.patches) == len(adapter.layers)
    assert_close(predictions[1], predictions[2], rtol=1e-4, atol=1e-4)
    assert (predictions[1] - predictions[0]).abs().max() > 1e-2
