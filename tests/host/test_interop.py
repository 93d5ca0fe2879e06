"""Files of ours in the hands of PEFT and diffusers: the same tiny weights, the same predictions as in the host."""

import pytest
import torch
from torch.testing import assert_close

from krona_ops import save


@pytest.fixture(scope="module")
def context():
    rng = torch.Generator().manual_seed(4)
    return torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 77, 768, generator=rng), torch.tensor([1.5, 0.4])


@pytest.fixture
def unet(comfy, sd15):
    """The host's tiny UNet as a diffusers model with the same weights."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers 0.42 needs Python 3.11 or newer")
    model = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(320,), down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",), mid_block_type=None, layers_per_block=1, cross_attention_dim=768, attention_head_dim=8,
    )  # fmt: skip
    state = sd15.model.state_dict()
    names = comfy.utils.unet_to_diffusers(sd15.model.model_config.unet_config)
    ours = {key: state[f"diffusion_model.{name}"].clone() for key, name in names.items() if f"diffusion_model.{name}" in state}
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert not unexpected
    assert not missing
    return model.eval()


def in_host(net, context):
    x, text, sigma = context
    seen = []
    hook = net.diffusion_model.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.inference_mode():
        net.apply_model(x, sigma, c_crossattn=text)
        timesteps = net.model_sampling.timestep(sigma)
    hook.remove()
    return seen[0], timesteps.clone()


def in_diffusers(unet, context, timesteps):
    x, text, sigma = context
    with torch.no_grad():
        return unet(x / (sigma[:, None, None, None] ** 2 + 1).sqrt(), timesteps, encoder_hidden_states=text).sample


def assert_agrees(weight, expected, base):
    assert (weight - expected).norm() <= 1e-4 * expected.norm()
    assert (expected - base).norm() > 1e-2 * base.norm()


def test_both_models_agree_without_an_adapter(sd15, load, unet, context):
    host, timesteps = in_host(load(sd15), context)
    assert_close(in_diffusers(unet, context, timesteps), host, rtol=1e-4, atol=1e-4)


def test_peft_loads_our_lokr_onto_a_diffusers_unet(sd15, load, unet, context, random_adapter, tmp_path):
    from peft import PeftModel

    from krona_host.names.diffusers_names import renamer
    from krona_host.patching.apply import apply_adapter

    base, timesteps = in_host(load(sd15), context)
    adapter = random_adapter(sd15, factors=(8, 8), size=0.3)
    save(adapter, tmp_path / "adapter_model.safetensors", "peft", rename=renamer(sd15, "peft"))
    expected, _ = in_host(load(apply_adapter(adapter, sd15).model), context)
    wrapped = PeftModel.from_pretrained(unet, str(tmp_path))
    assert_agrees(in_diffusers(wrapped, context, timesteps), expected, base)


def test_diffusers_loads_our_lora_through_its_pipeline(sd15, load, unet, context, random_adapter, tmp_path):
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    from krona_host.names.diffusers_names import renamer
    from krona_host.patching.apply import apply_adapter

    base, timesteps = in_host(load(sd15), context)
    adapter = random_adapter(sd15, factors=(8, 4), size=0.3)
    path = save(adapter, tmp_path / "x.safetensors", "lora", rank=320, rename=renamer(sd15, "diffusers"))
    expected, _ = in_host(load(apply_adapter(adapter, sd15).model), context)
    pipeline = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=DDPMScheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    assert_agrees(in_diffusers(pipeline.unet, context, timesteps), expected, base)


def test_official_files_go_out_and_come_back(sd15, random_adapter, tmp_path):
    from krona_host.names.canonical import canonical
    from krona_host.names.diffusers_names import renamer
    from krona_ops import load as load_file

    adapter = random_adapter(sd15, layout="shuffled")
    path = save(adapter, tmp_path / "pytorch_lora_weights.safetensors", "diffusekrona", rename=renamer(sd15, "processor"))
    again = load_file(path)
    assert all(".processor.to_" in name for name in again.layers)
    assert dict(canonical(again, sd15).layers) == dict(adapter.layers)


def test_official_files_take_feed_forward_layers_and_text_encoders_too(sd15, tmp_path):
    """As the released code names them with ``--unet_tune_mlp`` and ``--train_text_encoder``."""
    from krona_host.names.canonical import canonical
    from krona_host.names.diffusers_names import renamer
    from krona_ops import Adapter, Full, Kron
    from krona_ops import load as load_file

    def update(out, into):
        return Kron(Full(torch.randn(4, 2)), Full(torch.randn(out // 4, into // 2)), 1.0, "shuffled")

    weights = sd15.model.state_dict()
    block = next(key.removesuffix(".attn1.to_q.weight") for key in weights if key.endswith(".attn1.to_q.weight"))
    names = [f"{block}.{rest}" for rest in ("ff.net.0.proj", "ff.net.2", "attn1.to_q", "attn2.to_out.0")]
    layers = {name: update(*weights[f"{name}.weight"].shape) for name in names}
    text = {
        f"clip_l.transformer.text_model.encoder.layers.0.{rest}": update(24, 16) for rest in ("self_attn.out_proj", "mlp.fc1")
    }
    path = save(Adapter({**layers, **text}), tmp_path / "x.safetensors", "diffusekrona", rename=renamer(sd15, "processor"))
    again = load_file(path)
    assert any(name.startswith("unet.") and name.endswith(".ff.net.2") for name in again.layers)
    assert any(name.endswith(".attn2.processor.to_out") for name in again.layers)
    assert "text_encoder.text_model.encoder.layers.0.mlp.fc1" in again.layers
    renamed = canonical(again, sd15).layers
    assert all(renamed[name] == delta for name, delta in layers.items())
