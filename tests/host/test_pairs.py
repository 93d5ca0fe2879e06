"""One step by pairs on the small world: what was trained is what the host's own nodes draw in one step."""

from dataclasses import replace

import pytest
import tiny_families
import torch
from torch.testing import assert_close

from krona_ops import TargetRule, save
from krona_ops.formats.one_step import OneStep, one_step_of
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.batches.examples import Example, Item
from krona_train.config import MemoryConfig, PreviewConfig, ValidationConfig
from krona_train.objectives.kinds import objective_of
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.run.events import Stepped, Validated

PROMPTS = ("a photo of a red robot waving in the forest by day", "a photo of a cat sitting on the beach at night",
           "a photo of a blue robot", "a photo of an owl in the snow")  # fmt: skip
RULE = TargetRule((8, 8), pattern=r"attn[12]\.to_|\.ff\.net|res|conv", projections=())


def settings(steps=4, **own):
    few = {"drawings": 5, "drawing_steps": 3, "guidance": 3.0, "cut": 0.25}
    return TrainConfig(
        steps=steps,
        batch_size=2,
        save_every=0,
        adapter=AdapterConfig(targets=(RULE,)),
        optimizer=OptimizerConfig(learning_rate=5e-3, rate_by_width=0.0),
        objective=PairsConfig(**few, **own),
        validation=ValidationConfig(every=steps, pictures=1),
        preview=PreviewConfig(every=steps, prompts=PROMPTS[:1]),
    )


@pytest.fixture(scope="module")
def items(world):
    from krona_train.comfyui.encode import ComfyEncoder, PictureSize
    from krona_train.comfyui.sampling import latent_shape

    model, clip, vae = world
    encoder, shape = ComfyEncoder(clip, vae), tuple(latent_shape(model, 64, 64)[1:])
    size = PictureSize(64, 64, 0, 0, 64, 64)
    with torch.no_grad():
        texts = encoder.encode_captions(PROMPTS)
    return tuple(Item((Example(None, encoder.condition(texts[t], size, t), t, shape=shape),)) for t in PROMPTS)


def drawn_pairs(world, items, config):
    from krona_train.comfyui.encode import ComfyEncoder
    from krona_train.session.material import drawn

    how = objective_of(config.objective, config.prior).rollouts
    return drawn(world[0], items, how, ComfyEncoder(*world[1:]), None, config, lambda *args: None)


def one_step_of_the_host(model, clip, prompt, noise, sampler, scheduler):
    """Of the host's KSampler with guidance 1, in the model's own scale."""
    import comfy.sample

    with torch.inference_mode():
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, "blurry"))
        latents = comfy.sample.sample(
            model, noise, 1, 1.0, sampler, scheduler, positive, negative, torch.zeros_like(noise), disable_pbar=True, seed=0
        )
        return model.model.process_latent_in(latents)


@pytest.mark.parametrize("where", ["latents", "pixels"])
def test_what_was_trained_is_what_the_host_draws_in_one_step(comfy, world, items, tmp_path, where):
    """With the host's own loader of LoRAs, and whatever sampler and schedule begins at the largest noise level."""
    from krona_train.comfyui.model import ComfyBackbone
    from krona_train.run.metadata import describe

    model, clip, vae = world
    config, events, predicted = settings(where=where), [], []
    pairs = drawn_pairs(world, items, config)
    assert len(pairs) == 5
    assert {len(item.forms) for item in pairs} == {1}
    noise = torch.randn(2, *items[0].forms[0].latent_shape, generator=torch.Generator().manual_seed(9))
    backbone = ComfyBackbone(model, guidance=0.0, vae=vae if where == "pixels" else None)
    sampling = model.get_model_object("model_sampling")
    sigma = sampling.sigma_max.reshape(1).repeat(2).float()
    assert pairs[0].forms[0].seen.sigma == pytest.approx(sigma[0].item(), rel=1e-6)

    def look(trained_so_far):
        """What the training predicts, in the place of previews."""
        batch = backbone.collate([items[0].forms[0]] * 2)
        x_t = sampling.noise_scaling(sigma, noise, torch.zeros_like(noise), max_denoise=True)
        with torch.no_grad():
            predicted.append(backbone.predict(x_t, sigma, batch.conditions))
        return []

    adapter = fit(backbone, pairs, config, events.append, preview=look)
    before, after = (event.loss for event in events if isinstance(event, Validated))
    assert after < before
    assert len([event for event in events if isinstance(event, Stepped)]) == config.steps

    about = describe(config, name="p", family=backbone.family, captions=(), resolution=64)
    file = save(adapter.with_metadata(**about), tmp_path / "one step.safetensors")
    tensors, metadata = comfy.utils.load_torch_file(str(file), return_metadata=True)
    assert one_step_of(metadata) == OneStep()
    loaded, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    assert len(loaded.patches) == len(adapter.layers)
    plain, trained = predicted[0], predicted[-1]
    assert (trained - plain).abs().max() > 1e-2
    for sampler, scheduler in (("euler", "normal"), ("dpmpp_2m", "karras"), ("euler", "simple")):
        by_host = one_step_of_the_host(loaded, clip, PROMPTS[0], noise, sampler, scheduler)
        assert_close(by_host, trained, rtol=0, atol=1e-4)


def test_latents_alone_need_no_vae(comfy, world, items):
    from krona_ops.errors import ConfigError
    from krona_train.comfyui.model import ComfyBackbone

    pairs = drawn_pairs(world, items, settings())
    with pytest.raises(ConfigError, match="looks at pixels"):
        fit(ComfyBackbone(world[0], guidance=0.0), pairs, settings(where="pixels"))


@pytest.mark.parametrize("name", ["SD15", "SD20", "SDXL", "SD3", "Lumina2", "ZImage", "WAN21_T2V"])
def test_every_kind_of_model_begins_its_one_step_where_its_pairs_begin(comfy, name):
    """ε, v and flow, of pictures and of video; with blocks computed again the losses are the same."""
    import comfy.samplers

    from krona_train.comfyui.model import ComfyBackbone
    from krona_train.comfyui.rollouts import roll_out

    model, examples = tiny_families.build(name), [tiny_families.example(name, seed) for seed in range(3)]
    prompts = [Item((replace(e, latent=None, shape=tuple(e.latent.shape)),)) for e in examples]
    text = examples[2].condition
    config = settings(2, edges=0.5, frequencies=2.0, compare="magnitude")
    config = replace(config, adapter=AdapterConfig(targets=(TargetRule((2, 2)),)))
    objective = objective_of(config.objective, config.prior)
    how = objective.rollouts
    pairs = roll_out(
        model, prompts[:2], text, how, seed=3, at_once=8, identity=None, cache=None, told=lambda *args: None
    )  # fmt: skip
    seen = pairs[0].forms[0].seen

    noise = how.drawing(0, prompts[:2], 3).noise[None]
    sigmas = comfy.samplers.KSampler(model, 1, model.load_device, "euler", "normal").sigmas
    assert sigmas.tolist() == [pytest.approx(seen.sigma), 0.0]
    condition = examples[0].condition
    guider, size = comfy.samplers.CFGGuider(model), condition.size.entries()
    guider.set_conds([[condition.embedding, {**condition.extras, **size}]], [[text.embedding, {**text.extras, **size}]])
    guider.set_cfg(1.0)
    euler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        end = model.model.process_latent_in(
            guider.sample(noise, torch.zeros_like(noise), euler, sigmas, disable_pbar=True, seed=0)
        )[0]

    backbone = ComfyBackbone(model, guidance=0.0)
    with backbone.ready(), torch.no_grad():
        error = objective.held_out(backbone, None, backbone.collate([pairs[0].forms[0]]), None).item()
    assert error == pytest.approx((end - seen.x0.float()).square().mean().item(), rel=1e-2)  # the noise in half precision

    losses = []
    for memory in (MemoryConfig(), MemoryConfig(checkpointing="blocks")):
        events = []
        plain = replace(config, memory=memory, preview=PreviewConfig(), validation=ValidationConfig())
        fit(ComfyBackbone(model, guidance=0.0), pairs, plain, events.append)
        losses.append([event.loss for event in events if isinstance(event, Stepped)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
