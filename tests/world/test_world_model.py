"""The world's own model in the host: written, read again, the same; captions mean what the training saw."""

import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.world import autoencoder
from benchmarks.world.draw import draw
from benchmarks.world.pictures import for_training, picture
from krona_ops.errors import AdapterFileError


@pytest.fixture(scope="module")
def world(comfy):
    from krona_host.model import small_world as world

    return world


@pytest.fixture(scope="module")
def untrained(world):
    """Autoencoder, base and token numbers, with the first weights of the recipe."""
    from benchmarks.world.pretrain import Base, initialise, tokenized

    vae = world.build_vae().first_stage_model
    initialise(vae, 1)
    ids, tokens = tokenized(world, [for_training(n).caption for n in range(50)])
    base = Base(world, len(ids))
    with torch.no_grad():  # layers that begin at zero would hide what lies before them
        for name, parameter in base.named_parameters():
            if not parameter.any() and parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.02)
    return types.SimpleNamespace(vae=vae, base=base, ids=ids, tokens=tokens)


@pytest.fixture(scope="module")
def loaded(world, untrained, tmp_path_factory):
    from benchmarks.world.pretrain import write

    file = tmp_path_factory.mktemp("world") / "world.safetensors"
    write(world, untrained.vae, untrained.base, untrained.ids, file)
    with torch.inference_mode():
        return file, world.load_world(file)


def test_everything_is_trained_in_single_precision(untrained):
    assert {p.dtype for p in untrained.base.parameters()} == {torch.float32}
    assert {p.dtype for p in untrained.vae.parameters()} == {torch.float32}


def test_the_file_is_small(loaded):
    assert loaded[0].stat().st_size <= 12e6


def test_a_caption_is_encoded_as_in_training(untrained, loaded):
    _, (_, clip, _) = loaded
    caption = for_training(3).caption
    with torch.inference_mode():
        context = clip.encode_from_tokens(clip.tokenize(caption))
        expected = untrained.base.read(untrained.tokens[3][None])
    assert context.shape == (1, 24, 128)
    assert (context - expected).norm() < 2e-3 * expected.norm()


def test_the_model_predicts_v(world, untrained, loaded, comfy):
    _, (model, _, _) = loaded
    rng = torch.Generator().manual_seed(0)
    x0, noise, context = (torch.randn(s, generator=rng) for s in [(1, 32, 8, 8), (1, 32, 8, 8), (1, 24, 128)])
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        sampling = model.model.model_sampling
        sigma = sampling.sigmas[300][None]
        x = sampling.noise_scaling(sigma, noise, x0, False)
        denoised = model.model.apply_model(x, sigma, c_crossattn=context)
        signal = (sigma**2 + 1).rsqrt()
        v = untrained.base.unet(signal * x0 + (1 - signal**2).sqrt() * noise, torch.tensor([300.0]), context=context)
    expected = signal * (signal * x0 + (1 - signal**2).sqrt() * noise) - (1 - signal**2).sqrt() * v
    assert (denoised - expected).norm() < 5e-3 * expected.norm()


def test_a_picture_goes_through_the_autoencoder_at_an_eighth_of_its_side(untrained, loaded):
    _, (_, _, vae) = loaded
    pixels = torch.from_numpy(picture(for_training(0)))[None].float() / 255
    with torch.inference_mode():
        latent = vae.encode(pixels)
        again = vae.decode(latent)
        inside = autoencoder.encode(untrained.vae, picture(for_training(0))[None])
    assert latent.shape == (1, 32, 8, 8)
    assert again.shape == (1, 64, 64, 3)
    assert (latent - inside).norm() < 5e-3 * inside.norm()


def test_pictures_are_drawn_each_from_its_own_seed(loaded):
    _, parts = loaded
    captions = ["a photo of a red robot standing on the beach by day", "a photo of a cat", "a photo of a cat"]
    together = draw(*parts, captions, [1, 2, 3])
    assert together.shape == (3, 64, 64, 3)
    alone = draw(*parts, captions[1:2], [2])
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 2
    assert np.abs(together[1].astype(int) - together[2]).max() > 2


def test_a_file_without_a_layer_of_the_text_encoder_is_refused(world, loaded, tmp_path):
    weights = load_file(loaded[0])
    name = next(name for name in weights if "mlp.fc1.weight" in name)
    file = tmp_path / "world.safetensors"
    save_file({key: tensor for key, tensor in weights.items() if key != name}, file)
    with pytest.raises(AdapterFileError, match=r"mlp\.fc1\.weight"):
        world.load_world(file)


def test_latents_are_brought_to_unit_variance_and_pictures_stay(world, untrained):
    import copy

    vae = copy.deepcopy(untrained.vae)
    pictures = np.stack([picture(for_training(n)) for n in range(12)])
    x = autoencoder.pixels(pictures)
    with torch.no_grad():
        before = vae.decode(autoencoder.encode(vae, pictures))
        autoencoder.standardise(vae, autoencoder.encode(vae, pictures))
        latents = autoencoder.encode(vae, pictures)
        after = vae.decode(latents)
    assert x.shape == before.shape
    places = torch.nn.functional.pixel_shuffle(latents, world.PACKED)
    assert places.mean((0, 2, 3)).abs().max() < 1e-4
    assert (places.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert (after - before).norm() < 1e-4 * before.norm()


def test_an_unknown_word_is_always_the_same_noise(world):
    rows, ids = torch.randn(5, 128), torch.tensor([1, 7, 9, 49406, 49407])
    table = world.token_table(rows, ids)
    assert torch.equal(table, world.token_table(rows, ids))
    assert torch.equal(table[ids], rows)
    assert abs(table[100:].std() / rows.std() - 1) < 0.05


@pytest.mark.parametrize("contents", [None, b"", b"no safetensors file"])
def test_a_file_that_is_none_is_named(world, tmp_path, contents):
    file = tmp_path / "world.safetensors"
    if contents is not None:
        file.write_bytes(contents)
    with pytest.raises(AdapterFileError, match=r"world\.safetensors"):
        world.load_world(file)


def test_a_file_of_something_else_is_named(world, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"unet.weight": torch.zeros(2, 3)}, file)
    with pytest.raises(AdapterFileError, match=r"^other\.safetensors: This is no model of the small world: .* 'make world'"):
        world.load_world(file)
