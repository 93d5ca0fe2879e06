"""The host's model as a backbone: paused for drawing, in other arithmetic, partly offloaded, compiled, with its text encoder."""

import families
import gradients
import pytest
import text_encoders
import torch
from shared_model import examples, surroundings, weights_hash
from torch.testing import assert_close

from krona_ops import Adapter, Full, Kron, TargetRule, select
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.batches.examples import Example
from krona_train.config import MemoryConfig
from krona_train.run.events import Stepped
from krona_train.step.checkpointing import prepared
from tools import tiny_models

SETTINGS = TrainConfig(steps=4, optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0))


def draw_two_steps(model):
    """A picture as KSampler draws it."""
    import comfy.sample

    with torch.inference_mode():
        noise, text = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(1, 77, 768)
        conditioning = [[text, {}]]
        return comfy.sample.sample(
            model, noise, 2, 3.0, "euler", "normal", *[conditioning] * 2, torch.zeros_like(noise), seed=1, disable_pbar=True
        ).clone()


@pytest.mark.parametrize("unloading", [False, True])
def test_drawing_during_a_training_leaves_it_bitwise_unchanged(comfy, sd15, unloading):
    from krona_train.comfyui.model import ComfyBackbone

    undisturbed = fit(ComfyBackbone(sd15), examples(), SETTINGS)
    backbone = ComfyBackbone(sd15)
    before, drawn = surroundings(comfy, sd15.model), []

    def look(event):
        if isinstance(event, Stepped) and event.step in (1, 3):
            with backbone.paused():
                now = surroundings(comfy, sd15.model)
                assert now[0] is False  # comfy.model_management.in_training
                assert now[2:4] == before[2:4]  # the model's own parameters and buffers
                drawn.append(draw_two_steps(sd15))
                if unloading:
                    comfy.model_management.unload_all_models()
            assert comfy.model_management.in_training
            assert not any(p.is_inference() for p in sd15.model.parameters())

    assert fit(backbone, examples(), SETTINGS, look) == undisturbed
    assert not torch.equal(*drawn)  # drawn with the adapter as it stood each time
    assert surroundings(comfy, sd15.model)[2:4] == before[2:4]


def test_a_drawing_that_fails_leaves_the_model_ready_again(comfy, sd15):
    from krona_train.comfyui.model import ComfyBackbone

    comfy.model_management.load_models_gpu([sd15])
    backbone = ComfyBackbone(sd15)
    before = surroundings(comfy, sd15.model)
    with backbone.ready():
        with pytest.raises(ValueError, match="no picture"), backbone.paused():
            raise ValueError("no picture")
        assert comfy.model_management.in_training
    assert surroundings(comfy, sd15.model) == before


@pytest.mark.parametrize("compute", ["bf16", "fp16", "fp32"])
def test_the_model_computes_as_told_and_the_shared_one_as_before(comfy, sd15, compute):
    from krona_train.comfyui.model import ComfyBackbone

    def casting():
        cast = {name: getattr(m, "comfy_cast_weights", None) for name, m in sd15.model.named_modules()}
        return sd15.model.get_dtype_inference(), sd15.model.manual_cast_dtype, cast

    comfy.model_management.load_models_gpu([sd15])
    draw_two_steps(sd15)
    hash_before, before, drawn = weights_hash(sd15.model), casting(), draw_two_steps(sd15)
    seen = []
    backbone = ComfyBackbone(sd15, MemoryConfig(compute=compute))
    with backbone.ready():
        assert {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[
            compute
        ] == sd15.model.get_dtype_inference()
        layers = gradients.random_layers(backbone)
        module = backbone.module(next(iter(layers)))
        hook = module.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
        with gradients.attached(backbone, layers):
            gradients.loss_of(backbone, backbone.collate(examples(1))).backward()
        hook.remove()
        assert seen == [sd15.model.get_dtype_inference()]
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in gradients.factors(layers))
    assert casting() == before
    assert weights_hash(sd15.model) == hash_before
    assert torch.equal(draw_two_steps(sd15), drawn)


@pytest.mark.parametrize("size", [(4, 8, 8), (16, 2, 8, 8)])
def test_the_weight_of_a_noise_level_has_one_number_per_sample_whatever_the_latents_shape(comfy, size):
    import tiny_families

    from krona_train.comfyui.model import ComfyBackbone

    name = "SD15" if len(size) == 3 else "WAN21_T2V"
    backbone = ComfyBackbone(tiny_families.build(name))
    with backbone.ready():
        batch = backbone.collate([tiny_families.example(name, seed) for seed in range(3)])
        assert batch.x0.shape == (3, *size)
        sigma = backbone.noise_levels(torch.tensor([0.1, 0.5, 0.9]))
        assert backbone.loss_weight(sigma).shape == backbone.snr(sigma).shape == (3,)
        assert backbone.snr(sigma).diff().lt(0).all()
        noised = backbone.add_noise(batch.x0, torch.ones_like(batch.x0), sigma)
        for n in range(3):  # each sample at its own level
            alone = backbone.add_noise(batch.x0[n : n + 1], torch.ones_like(batch.x0[:1]), sigma[n : n + 1])
            assert_close(noised[n : n + 1], alone)


def test_compiled_blocks_have_the_same_gradients_on_the_host(comfy, sd15):
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    from krona_train.comfyui.model import ComfyBackbone

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError, OSError) as error:
        pytest.skip(f"torch.compile needs a C++ compiler: {error}")
    comfy.model_management.load_models_gpu([sd15])
    backbone = ComfyBackbone(sd15)
    one = [block for block in backbone.blocks() if hasattr(block, "attn1")]  # compiling takes half a minute per kind of block
    layers = gradients.random_layers(backbone)
    _, plain = gradients.gradients(backbone, layers, examples(1))
    before = surroundings(comfy, sd15.model)
    for parameter in gradients.factors(layers):
        parameter.grad = None
    with (
        backbone.ready(),
        gradients.attached(backbone, layers),
        prepared(one, MemoryConfig(compile=True)),
    ):
        gradients.loss_of(backbone, backbone.collate(examples(1))).backward()
    assert gradients.relative([p.grad for p in gradients.factors(layers)], plain) <= 1e-4
    assert surroundings(comfy, sd15.model) == before


# The text encoder.


@pytest.fixture
def with_clip(comfy):
    with torch.inference_mode():
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("sd15")), output_vae=False)
        return model, clip


def captioned(captions):
    """Examples whose embedding is of no use, so that nothing but the caption can be what was trained with."""
    from krona_train.comfyui.encode import TextCondition

    with_captions = []
    for example, caption in zip(examples(len(captions)), captions, strict=True):
        text = TextCondition(torch.full((1, 77, 768), torch.nan), {}, example.condition.size)
        with_captions.append(Example(example.latent, text, caption))
    return with_captions


TEXT = (TargetRule(factors=(64, 4), pattern="^clip_l.*layers.[01]\\."),)


def test_the_papers_count_with_a_text_encoder(comfy):
    """DiffuseKronA on SD 1.4 at 64 × 4 (facts of the released code): 520,928 numbers, 122,880 of them in CLIP-L."""
    from krona_host.model.layer_shape import layer_shape
    from krona_train.comfyui.text import TextEncoder

    clip = text_encoders.build("SD1.5")
    clip.clone = lambda: clip
    text = TextEncoder(clip).weights()
    unet = {
        name: shape for name, m in families.build("SD15").model.diffusion_model.named_modules() if (shape := layer_shape(m))
    }
    targets = select({**unet, **text})
    count = {
        part: sum(s.out_a * s.in_a + s.out_b * s.in_b for t in targets if (t.name in text) is part for s in [t.sizes])
        for part in (True, False)
    }
    assert count == {True: 122_880, False: 398_048}
    assert len(text) == 48


def test_the_names_of_text_layers_are_those_that_apply_finds(comfy, with_clip):
    from krona_host.names.resolution import resolve
    from krona_train.comfyui.model import ComfyBackbone

    model, clip = with_clip
    backbone = ComfyBackbone(model, clip=clip)
    targets = [t for t in select(backbone.weights()) if backbone.is_text(t.name)]
    assert len(targets) == 48
    layers = {
        t.name: Kron(Full(torch.zeros(t.sizes.out_a, t.sizes.in_a)), Full(torch.zeros(t.sizes.out_b, t.sizes.in_b)))
        for t in targets
    }
    resolution = resolve(Adapter(layers), model, clip)
    assert resolution.report() == "48 of 48 layers matched (48 in the text encoder)."
    assert {site.key for site, _ in resolution.clip} == {f"{name}.weight" for name in layers}
    assert all(backbone.module(name) is clip.cond_stage_model.get_submodule(name) for name in layers)


def test_a_caption_is_encoded_as_the_host_does(comfy, with_clip):
    from krona_train.comfyui.text import TextEncoder

    clip = with_clip[1].clone()
    clip.clip_layer(-2)
    text = TextEncoder(clip)
    for caption in ("a photo of sks dog", "a (very:1.3) long one " * 40):
        with torch.inference_mode():
            [[wanted, extras]] = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
            embedding, more = text.encode(caption)
        assert torch.equal(embedding, wanted)
        assert torch.equal(more["pooled_output"], extras["pooled_output"])


def test_gradients_of_the_text_encoder_agree_with_difference_quotients(comfy, with_clip):
    from krona_train.comfyui.model import ComfyBackbone

    model, clip = with_clip
    comfy.model_management.load_models_gpu([model, clip.patcher])
    backbone = ComfyBackbone(model, clip=clip)
    before = surroundings(comfy, model.model), surroundings(comfy, clip.cond_stage_model)
    hash_before = weights_hash(clip.cond_stage_model)
    layers = gradients.random_layers(backbone, TEXT)
    assert len(layers) == 8
    data = captioned(["a photo of sks dog", "sks dog"])
    loss, grads = gradients.gradients(backbone, layers, data)
    for mode in ("blocks", "offloaded"):
        again, again_grads = gradients.gradients(backbone, layers, data, mode)
        assert again == loss
        assert gradients.relative(again_grads, grads) <= 1e-5
    norm = torch.stack([g.norm() for g in grads]).norm()

    def at(step):
        with torch.no_grad():
            for p, g in zip(gradients.factors(layers), grads, strict=True):
                p.add_(g, alpha=float(step))
            value = gradients.loss_of(backbone, batch).item()
            for p, g in zip(gradients.factors(layers), grads, strict=True):
                p.sub_(g, alpha=float(step))
        return value

    with backbone.ready(), gradients.attached(backbone, layers):
        batch = backbone.collate(data)
        h = 0.01 / norm**2 * loss  # along the gradient, a hundredth of the loss
        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    assert_close(float(slope), float(norm**2), rtol=2e-3, atol=0)  # the host computes it in float32
    assert (surroundings(comfy, model.model), surroundings(comfy, clip.cond_stage_model)) == before
    assert weights_hash(clip.cond_stage_model) == hash_before


def test_training_the_text_encoder_alone_lowers_the_loss_and_the_caption_is_told_anew_each_step(comfy, with_clip):
    from krona_train.comfyui.model import ComfyBackbone

    model, clip = with_clip
    backbone = ComfyBackbone(model, clip=clip)
    data = captioned(["a photo of sks dog"])
    settings = TrainConfig(
        steps=3,
        optimizer=OptimizerConfig(learning_rate=2e-3, rate_by_width=0.0),
        adapter=AdapterConfig(targets=TEXT, text_encoder=True),
    )
    adapter = fit(backbone, data, settings)
    assert all(name.startswith("clip_l.") for name in adapter.layers)
    layers = gradients.random_layers(backbone, TEXT)

    def loss():
        with backbone.ready(), torch.no_grad(), gradients.attached(backbone, layers):
            return gradients.loss_of(backbone, backbone.collate(data)).item()

    with torch.no_grad():
        for layer in layers.values():
            layer.b.zero_()
        untrained = loss()
        for name, layer in layers.items():
            layer.a.copy_(adapter.layers[name].a.value)
            layer.b.copy_(adapter.layers[name].b.value)
    assert loss() < untrained


def test_encoded_captions_on_the_device_stay_below_their_limit(sd15, monkeypatch):
    """With room for two and a half, eight pictures are told the same as with room for all."""
    from krona_train.comfyui import model as module
    from krona_train.comfyui.model import ComfyBackbone

    data = examples(8)

    def told(limit):
        monkeypatch.setattr(module, "CONDITIONS_BYTES", limit)
        backbone, kept = ComfyBackbone(sd15), []
        with backbone.ready():
            conditions = []
            for example in (*data, *data):
                conditions += backbone.collate([example]).conditions
                kept.append(len(backbone._conditions))
        return [c["c_crossattn"].cond for c in conditions], max(kept)

    few, most = told(int(2.5 * 77 * 768 * 4))
    all_, everything = told(10**9)
    assert (most, everything) == (2, 8)
    assert all(torch.equal(a, b) for a, b in zip(few, all_, strict=True))


def test_only_layers_that_the_host_computes_plainly_are_computed_as_one_with_their_update():
    import comfy.ops

    from krona_host.model.layer_shape import is_plain

    plain = [kind.Linear(4, 6) for kind in (comfy.ops.disable_weight_init, comfy.ops.manual_cast)]
    assert all(map(is_plain, [*plain, torch.nn.Linear(4, 6)]))
    assert not is_plain(comfy.ops.fp8_ops.Linear(4, 6))
    patched = comfy.ops.manual_cast.Linear(4, 6)
    patched.weight_function = [lambda weight: 2 * weight]
    assert not is_plain(patched)
    unet = families.build("SD15").model.diffusion_model
    assert is_plain(unet.input_blocks[1][1].transformer_blocks[0].attn1.to_q)
