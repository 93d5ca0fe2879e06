"""Pictures by the host's sampler: what its own nodes draw, bitwise repeatable, and without a trace."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from krona_ops.errors import ConfigError, NonFiniteError
from krona_train.config import PreviewConfig
from krona_train.data.class_pictures import make_class_pictures
from tools import tiny_models

QUICK = PreviewConfig(steps=2, width=64, height=48)
CAPTIONS = ("a photo of sks robot", "a drawing of sks robot")


@pytest.fixture(scope="module")
def checkpoint(comfy):
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("sd15")))
    return model, clip, vae


@pytest.fixture(scope="module")
def prompts(checkpoint):
    from krona_train.comfyui.sampling import encode_prompts

    return encode_prompts(checkpoint[1], (*CAPTIONS, ""))


@pytest.fixture
def previewer(checkpoint, prompts):
    from krona_train.comfyui.sampling import ComfyPreviewer

    model, _, vae = checkpoint
    return ComfyPreviewer(model, vae, prompts[:2], prompts[2], QUICK, (64, 64))


def pixels(picture):
    return np.asarray(picture)


def generators():
    return torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()


def same(left, right):
    return torch.equal(left[0], right[0]) and left[1:] == right[1:]


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m_sde", "euler_ancestral"])
def test_it_is_the_picture_of_the_hosts_own_nodes(checkpoint, prompts, sampler):
    """Bitwise, with the same kernel for attention; ``ddim`` seeds the process's generator, the two others draw noise on the way."""
    import nodes
    from krona_train.comfyui.sampling import sample, with_steady_attention

    model, _, vae = checkpoint
    torch.manual_seed(5)
    before = generators()
    ours = sample(
        model, prompts[0], prompts[2], width=64, height=48, steps=3, guidance=5.0, sampler=sampler, scheduler="normal", seed=9, vae=vae
    )  # fmt: skip
    assert same(generators(), before)
    twin = model.clone()
    twin.model_options = with_steady_attention(model.model_options)
    positive, negative = ([[p.embedding, dict(p.extras)]] for p in (prompts[0], prompts[2]))
    with torch.inference_mode():
        latent = {"samples": torch.zeros(1, 4, 6, 8)}
        [out] = nodes.common_ksampler(twin, 9, 3, 5.0, sampler, "normal", positive, negative, latent)
        theirs = vae.decode(out["samples"])[0]
    assert ours.mode == "RGB"
    assert ours.size == (64, 48)
    assert np.array_equal(pixels(ours), (theirs * 255).round().numpy().astype(np.uint8))
    assert np.ptp(pixels(ours)) > 20


@pytest.mark.parametrize("inference", [True, False])
def test_two_calls_give_the_same_pictures_and_move_nothing_random(previewer, inference):
    torch.manual_seed(1)
    with torch.inference_mode(inference):
        before = generators()
        first = previewer()
        torch.randn(3)
        second = previewer()
    torch.manual_seed(1)
    assert same(generators(), before)
    assert len(first) == 2
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(pixels(first[0]), pixels(first[1]))


def test_each_prompt_has_a_noise_of_its_own(previewer):
    from dataclasses import replace

    twice = replace(previewer, conditions=previewer.conditions[:1] * 2)()
    assert not np.array_equal(pixels(twice[0]), pixels(twice[1]))
    other = replace(previewer, config=replace(QUICK, seed=1))()
    assert not np.array_equal(pixels(other[0]), pixels(previewer()[0]))


def test_it_sees_what_is_trained_and_pauses_the_training(previewer, checkpoint):
    from contextlib import contextmanager
    from dataclasses import replace

    events = []

    @contextmanager
    def paused():
        events.append("paused")
        yield
        events.append("goes on")

    before = previewer()
    layer = checkpoint[0].model.diffusion_model.get_submodule("input_blocks.1.1.transformer_blocks.0.attn1.to_out.0")
    hook = layer.register_forward_hook(lambda module, args, out: 3 * out)
    try:
        after = replace(previewer, paused=paused)()
    finally:
        hook.remove()
    assert events == ["paused", "goes on"]
    assert not np.array_equal(pixels(before[0]), pixels(after[0]))
    assert np.array_equal(pixels(before[0]), pixels(previewer()[0]))


def test_texts_are_encoded_anew_where_the_text_encoder_learns(previewer, prompts):
    from dataclasses import replace

    learnt = replace(previewer, encode=lambda: (prompts[1::-1], prompts[2]), config=replace(QUICK, seed=0))()
    expected = replace(previewer, conditions=prompts[1::-1])()
    assert [pixels(p).tolist() for p in learnt] == [pixels(p).tolist() for p in expected]


def test_a_training_is_the_same_with_and_without_previews(checkpoint, previewer):
    """Bit for bit; the pictures of step 0 are the model's own, those of the end are of the model with the result applied."""
    from dataclasses import replace

    from krona_host.patching.apply import apply_adapter
    from krona_train import TrainConfig, fit
    from krona_train.batches.examples import Example
    from krona_train.comfyui.encode import PictureSize, TextCondition
    from krona_train.comfyui.model import ComfyBackbone
    from krona_train.config import OptimizerConfig
    from krona_train.run.events import Previewed

    model, _, _ = checkpoint
    text = previewer.conditions[0]
    size = PictureSize(64, 64, 0, 0, 64, 64)
    with torch.inference_mode():
        latent = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0)) / 0.18215
    data = [Example(latent, TextCondition(text.embedding, text.extras, size), "x")]
    settings = TrainConfig(
        steps=4, preview=replace(QUICK, every=2), optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0)
    )
    backbone, events = ComfyBackbone(model), []
    during = replace(previewer, model=backbone.patcher, paused=backbone.paused)
    plain = previewer()
    with torch.inference_mode():  # as nodes run
        watched = fit(backbone, data, settings, events.append, preview=during)
        assert fit(ComfyBackbone(model), data, settings) == watched
    drawn = {event.step: event.pictures for event in events if isinstance(event, Previewed)}
    assert sorted(drawn) == [0, 2, 4]
    applied = replace(previewer, model=apply_adapter(watched, backbone.patcher).model)()
    for number in range(2):
        assert np.abs(pixels(drawn[0][number]).astype(int) - pixels(plain[number])).max() <= 2  # fp32 here, fp16 there
        assert not np.array_equal(pixels(drawn[0][number]), pixels(drawn[4][number]))
        assert np.abs(pixels(drawn[4][number]).astype(int) - pixels(applied[number])).max() <= 2


@pytest.mark.parametrize(("field", "named"), [("sampler", "dpmpp_2m"), ("scheduler", "karras")])
def test_a_name_that_the_host_does_not_know_is_refused_with_those_it_knows(previewer, field, named):
    from dataclasses import replace

    from krona_train.comfyui.sampling import check_sampler

    check_sampler(QUICK)
    wrong = replace(QUICK, **{field: "nonsense"})
    with pytest.raises(ConfigError, match=f"no {field}") as caught:
        check_sampler(wrong)
    assert named in caught.value.expected
    with pytest.raises(ConfigError, match=f"no {field}"):  # before any training
        replace(previewer, config=wrong)
    with pytest.raises(ConfigError, match=rf"^objective\.{field}: .*no {field}"):
        check_sampler(wrong, "objective")


def test_an_interrupt_stops_the_drawing(comfy, previewer):
    before = generators()
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        previewer()
    assert same(generators(), before)
    previewer()


def test_class_pictures_that_were_interrupted_go_on_to_the_same_set(checkpoint, prompts, tmp_path):
    from krona_train.comfyui.sampling import class_painter

    model, _, vae = checkpoint
    draw = class_painter(model, vae, prompts[0], prompts[2], QUICK, (64, 64))

    class Killed(Exception):
        pass

    def kill(done, total):
        if done == 2:
            raise Killed

    make_class_pictures(tmp_path / "whole", 3, draw, prompt=CAPTIONS[0])
    with pytest.raises(Killed):
        make_class_pictures(tmp_path / "parts", 3, draw, kill, prompt=CAPTIONS[0])
    assert len(list((tmp_path / "parts").iterdir())) == 2
    paths = make_class_pictures(tmp_path / "parts", 3, draw, prompt=CAPTIONS[0])
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in sorted((tmp_path / "whole").iterdir())]
    drawn = {Image.open(p).tobytes() for p in paths}
    assert len(drawn) == 3


def test_a_picture_that_is_nan_is_black_as_a_preview_and_an_error_as_a_class_picture(previewer, checkpoint, prompts, caplog):
    from krona_train.comfyui.sampling import class_painter

    model, _, vae = checkpoint
    hook = model.model.diffusion_model.register_forward_hook(lambda module, args, out: out * float("nan"))
    try:
        [black, _] = previewer()
        with pytest.raises(NonFiniteError, match="draws NaN"):
            class_painter(model, vae, prompts[0], prompts[2], QUICK, (64, 64))(0)
    finally:
        hook.remove()
    assert black.size == (64, 48)
    assert not pixels(black).any()
    assert "a preview is black" in caplog.text


def test_the_latent_has_the_shape_of_the_models_own_format(comfy):
    import comfy.latent_formats as formats

    from krona_train.comfyui.sampling import latent_shape

    class Model:
        def __init__(self, kind):
            self.kind = kind

        def get_model_object(self, name):
            return {"latent_format": self.kind()}[name]

    assert latent_shape(Model(formats.SD15), 64, 48) == (1, 4, 6, 8)
    assert latent_shape(Model(formats.Flux), 100, 60) == (1, 16, 7, 12)
    assert latent_shape(Model(formats.Wan21), 64, 48) == (1, 16, 1, 6, 8)
    assert latent_shape(Model(formats.LTXV), 64, 96) == (1, 128, 1, 3, 2)
    with pytest.raises(ConfigError, match="no pictures"):
        latent_shape(Model(formats.StableAudio1), 64, 64)


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_other_families_draw_too(comfy, kind):
    from krona_train.comfyui.sampling import Prompt, sample

    with torch.inference_mode():
        model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached(kind)), output_clip=False)
        positive, negative = (Prompt(c, *entry) for c, entry in zip("ab", tiny_models.conditioning(kind, "ab"), strict=True))
    picture = sample(
        model, positive, negative, width=64, height=32, steps=2, guidance=2.0, sampler="euler", scheduler="simple", seed=0, vae=vae
    )  # fmt: skip
    assert picture.size == (64, 32)
    assert np.ptp(pixels(picture)) > 20


def test_the_hosts_weights_are_as_before(checkpoint, previewer):
    net = checkpoint[0].model
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    previewer()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
