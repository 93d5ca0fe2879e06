"""The tiny checkpoints load in the real ComfyUI, and are good enough to train, sample, encode and decode with."""

import importlib
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tools import tiny_models
from tools.generate import samples

# kind, options, the class that ComfyUI must choose, million parameters of the backbone, an attention weight
MODELS = {
    "sd15": ("sd15", {"clip": False}, "BaseModel", (13.6, 13.7), "attn2.to_v.weight"),
    "sd15-shaped": ("sd15", {"clip": False, "layout": "shaped"}, "BaseModel", (44.0, 44.5), "attn2.to_v.weight"),
    "sdxl": ("sdxl", {}, "SDXL", (60.0, 61.0), "attn2.to_v.weight"),
    "flux": ("flux", {}, "Flux", (1.0, 1.1), "img_attn.qkv.weight"),
    "sd3": ("sd3", {}, "SD3", (0.14, 0.15), "attn.qkv.weight"),
}
DETECTED = {"sd15": "SD15", "sd15-shaped": "SD15", "sdxl": "KOALA_700M", "flux": "Flux", "sd3": "SD3"}


@pytest.fixture(scope="session")
def comfy_host():
    """ComfyUI as a library, on the CPU."""
    if "comfy" not in sys.modules:
        sys.path.insert(0, os.environ["COMFYUI_PATH"])
        importlib.import_module("comfy.cli_args").args.cpu = True
    return importlib.import_module("comfy.sd")


@pytest.fixture(scope="module")
def loaded(comfy_host):
    """``loaded(name) -> (model, clip, vae)``, each file loaded once."""
    kept = {}

    def load(name):
        if name not in kept:
            kind, options, *_ = MODELS[name]
            kept[name] = comfy_host.load_checkpoint_guess_config(str(tiny_models.cached(kind, **options)))[:3]
        return kept[name]

    return load


def prompt(name):
    return tiny_models.conditioning(MODELS[name][0], ["a photo of sks robot"])


@torch.inference_mode()
def sampled(model, positive, seed=3, steps=2):
    """Latents of a 64 × 64 picture."""
    sample = importlib.import_module("comfy.sample")
    empty = torch.zeros(1, model.model.latent_format.latent_channels, 8, 8)
    noise = sample.prepare_noise(empty, seed)
    return sample.sample(model, noise, steps, 1.0, "euler", "normal", positive, positive, empty, seed=seed, disable_pbar=True)


def photograph(size=64):
    """A shipped sample as an IMAGE ``(1, size, size, 3)``."""
    import numpy as np
    from PIL import Image

    with Image.open(samples.SHIPPED / "beach.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB").resize((size, size)), np.float32) / 255.0
    return torch.from_numpy(pixels)[None]


@pytest.mark.parametrize("name", MODELS)
def test_comfyui_recognises_the_model(name, loaded):
    _, _, expected, (low, high), _ = MODELS[name]
    model, clip, vae = loaded(name)
    assert type(model.model).__name__ == expected
    assert type(model.model.model_config).__name__ == DETECTED[name]
    assert clip is None
    assert vae is not None
    parameters = sum(p.numel() for p in model.model.diffusion_model.parameters()) / 1e6
    assert low < parameters < high


@pytest.mark.parametrize("name", MODELS)
def test_sampling_gives_a_picture_that_is_neither_nan_nor_of_one_colour(name, loaded):
    model, _, vae = loaded(name)
    latents = sampled(model, prompt(name))
    assert torch.isfinite(latents).all()
    picture = vae.decode(latents)
    assert picture.shape == (1, 64, 64, 3)
    assert torch.isfinite(picture).all()
    assert picture.std() > 0.02
    assert 0.1 < picture.mean() < 0.9


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_is_finite_and_depends_on_the_prompt(name, loaded):
    model, _, _ = loaded(name)
    one, other = (sampled(model, tiny_models.conditioning(MODELS[name][0], [text])) for text in ("a robot", "a dog"))
    assert torch.isfinite(one).all()
    assert (one - other).norm() > 1e-4 * one.norm()


@pytest.mark.parametrize("name", MODELS)
def test_a_change_of_an_attention_weight_changes_the_picture(name, loaded):
    """Otherwise nobody could see what an adapter learned."""
    model, _, vae = loaded(name)
    suffix = MODELS[name][4]
    key = next(k for k in model.model.state_dict() if k.endswith(suffix))
    weight = model.model.state_dict()[key]
    patched = model.clone()
    delta = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) / math.sqrt(weight.shape[1])
    assert patched.add_patches({key: (delta,)}, 1.0) == [key]
    before, after = (vae.decode(sampled(m, prompt(name), steps=3)) for m in (model, patched))
    assert (before - after).abs().max() > 1 / 255


@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux", "sd3"])
def test_the_vae_encodes_the_mean_colours_of_8_by_8_pixels(name, loaded):
    model, _, vae = loaded(name)
    channels = model.model.latent_format.latent_channels
    picture = photograph()
    latents = vae.encode(picture)
    assert latents.shape == (1, channels, 8, 8)
    for_model = model.model.process_latent_in(latents)
    assert 0.3 < for_model.std() < 1.5  # what noise schedules are made for is 1

    means = picture[0].reshape(8, 8, 8, 8, 3).mean(dim=(1, 3)) - 0.5  # (8, 8, 3)
    basis = torch.stack([torch.cos(torch.pi * (torch.arange(channels) + 0.5) * j / channels) for j in range(3)], dim=1)
    basis = basis / basis.norm(dim=0)
    expected = 1.5 * math.sqrt(channels) * torch.einsum("hwc,kc->khw", means, basis)
    torch.testing.assert_close(for_model[0], expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_the_vae_gives_colours_back(name, loaded):
    _, _, vae = loaded(name)
    picture = torch.empty(1, 64, 64, 3)
    picture[..., 0], picture[..., 1], picture[..., 2] = 0.3, 0.55, 0.7
    again = vae.decode(vae.encode(picture))
    # towards the edge the decoder's zero padding mixes in grey
    torch.testing.assert_close(again[:, 16:-16, 16:-16], picture[:, 16:-16, 16:-16], rtol=0, atol=0.02)


def test_the_full_text_encoder_tells_prompts_apart(comfy_host):
    """The demo's checkpoint; 246 MB, so it stays in the cache."""
    model, clip, vae, _ = comfy_host.load_checkpoint_guess_config(str(tiny_models.cached("sd15")))
    robot, dog = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a photo of sks robot", "a dog"))
    assert robot[0][0].shape == (1, 77, 768)
    assert torch.isfinite(robot[0][0]).all()
    assert (robot[0][0] - dog[0][0]).norm() > 0.02 * robot[0][0].norm()
    picture = vae.decode(sampled(model, robot))
    assert torch.isfinite(picture).all()
    assert picture.std() > 0.02


@pytest.mark.parametrize(("kind", "options"), [("sd15", {"clip": False}), ("flux", {}), ("sd3", {})])
def test_two_builds_are_equal_to_the_byte(kind, options, tmp_path, comfy_host):
    first, again, other = (tmp_path / name for name in ("1", "2", "3"))
    tiny_models.BUILDERS[kind](first, **options)
    tiny_models.BUILDERS[kind](again, **options)
    tiny_models.BUILDERS[kind](other, **options, seed=1)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_a_fresh_process_writes_the_same_bytes(tmp_path, comfy_host):
    script = Path(tiny_models.__file__)
    environment = os.environ | {"COMFYUI_PATH": str(tiny_models.comfyui_folder())}
    command = [sys.executable, str(script), "sd3", str(tmp_path / "1"), "--dtype", "fp32", "--seed", "5", "--depth", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert str(tmp_path / "1") in done.stdout
    tiny_models.build_sd3(tmp_path / "2", dtype="fp32", seed=5, depth=2)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    with safe_open(tmp_path / "1", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118  (not a dict)


def test_an_option_of_another_kind_is_refused(tmp_path):
    command = [sys.executable, tiny_models.__file__, "flux", str(tmp_path / "1"), "--layout", "minimal"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "flux has no option layout" in done.stderr


def test_without_comfyui_the_error_says_what_to_set(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    done = subprocess.run(
        [sys.executable, tiny_models.__file__, "flux", str(tmp_path / "1")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: COMFYUI_PATH is '', which is no ComfyUI. Set it to the folder with ComfyUI's main.py")
    assert not (tmp_path / "1").exists()


def test_importing_the_builder_imports_neither_comfy_nor_torch():
    code = "import sys; import tools.tiny_models; print([m for m in ('comfy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny_models.PACK, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", tiny_models.FAMILIES)
def test_the_same_caption_is_encoded_the_same_and_another_differently(kind):
    one, same, other = tiny_models.conditioning(kind, ["a", "a", "b"])
    family = tiny_models.FAMILIES[kind]
    assert one[0].shape == (1, family.tokens, family.context)
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], tiny_models.conditioning(kind, ["a"], seed=1)[0][0])
    if family.pooled:
        assert one[1]["pooled_output"].shape == (1, family.pooled)
        assert torch.equal(one[1]["pooled_output"], same[1]["pooled_output"])
    else:
        assert one[1] == {}


@pytest.fixture
def empty_cache(tmp_path, monkeypatch, comfy_host):
    monkeypatch.setenv("KRONA_CACHE", str(tmp_path))
    return tmp_path / "tiny"


def test_the_cache_builds_once_per_set_of_options(empty_cache, monkeypatch):
    path = tiny_models.cached("sd3")
    assert path.parent == empty_cache
    assert tiny_models.cached("sd3", seed=1) != path
    monkeypatch.setitem(tiny_models.BUILDERS, "sd3", None)  # a second build would fail
    assert tiny_models.cached("sd3") == path
    assert sorted(empty_cache.iterdir()) == sorted({path, tiny_models.cached("sd3", seed=1)})


def test_a_build_that_fails_leaves_nothing_in_the_cache(empty_cache, monkeypatch):
    def fails(path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setitem(tiny_models.BUILDERS, "sd3", fails)
    with pytest.raises(OSError, match="disk full"):
        tiny_models.cached("sd3")
    assert list(empty_cache.iterdir()) == []


def test_the_cache_forgets_what_nobody_asked_for_in_two_weeks(empty_cache):
    path = tiny_models.cached("sd3")
    fresh, stale = empty_cache / "flux-0.safetensors", empty_cache / "flux-1.safetensors"
    for file, days in ((path, 20), (fresh, 13), (stale, 15)):
        file.touch()
        os.utime(file, (time.time() - days * 86400,) * 2)
    tiny_models.cached("sd3")  # asking counts
    assert sorted(empty_cache.iterdir()) == sorted([path, fresh])
