"""Tiny models in the host, and adapters that fit them."""

import shutil

import pytest
import torch
from graphs import lay_out

from krona_ops import Adapter, Full, Kron, TargetRule, select
from tools import tiny_models
from tools.comfyui.server import PACK, Server


@pytest.fixture(scope="session")
def sd15_file():
    return tiny_models.cached("sd15", clip=False, vae=False)


@pytest.fixture
def sd15(comfy, sd15_file):
    """A fresh SD1.5-type model, loaded as a loader node does it."""
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(sd15_file), output_vae=False, output_clip=False)[0]


@pytest.fixture(scope="module")
def world(comfy):
    """MODEL, CLIP and VAE of the small world."""
    from krona_host.model.small_world import load_world

    with torch.inference_mode():
        return load_world()


@pytest.fixture(scope="module")
def prompts(world):
    """Three prompts as conditions."""
    clip = world[1]
    texts = ("a red robot", "blurry", "at night")
    with torch.inference_mode():
        return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]


@pytest.fixture
def load(comfy):
    """Load a model with what is patched on it and hand out the network; the model is kept, as a running graph keeps it."""
    kept = []

    def _load(model):
        kept.append(model)
        with torch.inference_mode():
            comfy.model_management.load_models_gpu([model])
            return model.model

    return _load


@pytest.fixture(scope="session")
def random_adapter():
    """An adapter with random factors for the attention layers of a model."""

    def make(model, seed=0, factors=(8, 4), layout="kron", size=0.1, limit=None):
        from krona_train.comfyui.model import ComfyBackbone

        rng = torch.Generator().manual_seed(seed)
        layers = {}
        for target in select(ComfyBackbone(model).weights(), (TargetRule(factors=factors),))[:limit]:
            s = target.sizes
            a = torch.randn(s.out_a, s.in_a, generator=rng)
            b = torch.randn(s.out_b, s.in_b, *s.kernel, generator=rng) * size / (s.in_a * s.in_b) ** 0.5
            layers[target.name] = Kron(Full(a), Full(b), layout=layout)
        return Adapter(layers)

    return make


@pytest.fixture
def predict():
    """The model's prediction for one fixed noisy latent, as `apply_model` gives it while sampling."""

    def _predict(net, seed=5):
        rng = torch.Generator().manual_seed(seed)
        x, context = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 77, 768, generator=rng)
        with torch.inference_mode():
            return net.apply_model(x, torch.tensor([1.5, 0.4]), c_crossattn=context)

    return _predict


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """ComfyUI with the pack under a folder name that is no Python name."""
    base = lay_out(tmp_path_factory.mktemp("with pack"))
    shutil.copytree(PACK / "samples" / "krobot", base / "input" / "krobot")
    others = PACK / "tests" / "support" / "packs_of_others"
    with Server(base, packs={"comfyui-krona (test) 1.0": PACK, "packs of others": others}, cpu=True) as running:
        running.log_of_start = running.log()  # before other tests make it complain on purpose
        yield running
