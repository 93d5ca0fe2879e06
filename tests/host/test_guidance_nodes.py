"""KronA Guidance and KronA One Step through the real server, and any loader's strength as a guidance."""

import io

import graphs
import numpy as np
import pytest
import torch
from graphs import link, node
from PIL import Image
from torch.testing import assert_close

from krona_ops import TargetRule, save
from krona_ops.errors import ConfigError
from krona_ops.formats.guidance import Guided
from krona_ops.formats.one_step import OneStep
from krona_train import AdapterConfig, OptimizerConfig
from krona_train.adapters.bank import Bank, choose
from krona_train.adapters.trainee import Recipe
from krona_train.batches.examples import Example
from krona_train.config import EmaConfig
from krona_train.settings.groups import MAIN
from tools.comfyui.server import PromptRejected, RunFailed

WORLD = {"1": node("KronaWorldLoader")}
MODEL, CLIP, VAE = link(1), link(1, 1), link(1, 2)
GUIDED = Guided(1.0, 6.0, 4.0, "blurry")


@pytest.fixture(scope="module")
def files(server, world, random_adapter):
    folder = server.base / "models" / "loras" / "guidance"
    folder.mkdir(parents=True, exist_ok=True)
    adapter = random_adapter(world[0], factors=(4, 2), size=0.3)
    save(adapter.with_metadata(**GUIDED.metadata()), folder / "guided.safetensors")
    save(adapter, folder / "ordinary.safetensors")
    for name, sigma in (("largest", 0.0), ("lower", 2.5), ("too high", 5000.0)):
        save(adapter.with_metadata(**OneStep(sigma).metadata()), folder / f"{name}.safetensors")
    return {name: f"guidance/{name}.safetensors" for name in ("guided", "ordinary", "largest", "lower", "too high")}


def picture(server, graph, model, **sampler):
    rendering = graphs.render(model, CLIP, VAE, "guidance", steps=2)
    rendering["22"]["inputs"].update(sampler)
    result = server.client.run({**WORLD, **graph, **rendering})
    [file] = result.files("24")
    return np.asarray(Image.open(io.BytesIO(server.client.view(**file))), dtype=int)


def report(server, graph):
    result = server.client.run({**WORLD, **graph, "9": node("PreviewAny", source=link(2, 1))})
    return result.outputs["9"]["text"][0]


def refused(server, graph, output=1):
    with pytest.raises((PromptRejected, RunFailed)) as caught:
        server.client.run({**WORLD, **graph, "9": node("PreviewAny", source=link(2, output))})
    return str(caught.value)


@pytest.mark.parametrize(("guidance", "strength"), [(1.0, 0.0), (2.5, 0.5), (7.0, 2.0)])
def test_the_node_is_load_lora_at_the_strength_that_the_guidance_is(server, files, guidance, strength):
    ours = {"2": node("KronaGuidance", model=MODEL, guidance=guidance, file=files["guided"])}
    stock = node("LoraLoaderModelOnly", model=MODEL, lora_name=files["guided"], strength_model=strength)
    drawn = picture(server, ours, link(2), cfg=1.0)
    assert np.abs(drawn - picture(server, {"2": stock}, link(2), cfg=1.0)).max() <= 1
    plain = picture(server, {}, MODEL, cfg=1.0)
    assert np.array_equal(drawn, plain) == (guidance == 1.0)


def test_it_says_what_the_guidance_is_and_when_it_is_outside_of_the_training(server, files):
    def said(guidance):
        return report(server, {"2": node("KronaGuidance", model=MODEL, guidance=guidance, file=files["guided"])})

    assert said(2.5) == (
        'Guidance 2.5 is strength 0.5; draw with cfg 1. It leads away from "blurry", as trained; another negative prompt does nothing at cfg 1.'
    )
    assert "It was trained for guidance from 1 to 6: this is outside." in said(7.0)


def test_what_has_learnt_no_guidance_is_refused_by_name(server, files):
    text = refused(server, {"2": node("KronaGuidance", model=MODEL, guidance=3.0, file=files["ordinary"])})
    assert "This adapter has learnt no guidance." in text
    text = refused(server, {"2": node("KronaGuidance", model=MODEL, guidance=3.0, file="(none)")})
    assert "There is no adapter to apply. Choose a file or connect an adapter." in text


def test_an_adapter_on_a_wire_takes_the_place_of_the_file(server, files):
    loaded = {"3": node("KronaLoad", file=files["guided"])}
    wired = node("KronaGuidance", model=MODEL, guidance=4.0, file="(none)", krona=link(3))
    filed = node("KronaGuidance", model=MODEL, guidance=4.0, file=files["guided"])
    a, b = (picture(server, graph, link(2), cfg=1.0) for graph in ({**loaded, "2": wired}, {"2": filed}))
    assert np.array_equal(a, b)


def test_one_step_is_what_the_hosts_sampler_takes(server):
    """SamplerCustom with these levels and KSampler with one step: the same picture."""
    one = {
        "2": node("KronaOneStep", model=MODEL, sigma=0.0),
        "3": node("KSamplerSelect", sampler_name="euler"),
        "5": node("CLIPTextEncode", clip=CLIP, text="a photo of a red robot"),
        "6": node("CLIPTextEncode", clip=CLIP, text=""),
        "7": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "8": node(
            "SamplerCustom", model=MODEL, add_noise=True, noise_seed=3, cfg=1.0, positive=link(5), negative=link(6),
            sampler=link(3), sigmas=link(2), latent_image=link(7),
        ),
        "10": node(
            "KSampler", model=MODEL, seed=3, steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", positive=link(5),
            negative=link(6), latent_image=link(7), denoise=1.0,
        ),
    }  # fmt: skip
    ends = {}
    for n, origin in (("20", 8), ("21", 10)):
        ends[n] = node("VAEDecode", samples=link(origin), vae=VAE)
        ends[f"{n}1"] = node("PreviewImage", images=link(n))
    result = server.client.run({**WORLD, **one, **ends})
    a, b = (
        np.asarray(Image.open(io.BytesIO(server.client.view(**result.files(n)[0])))) for n in ("201", "211")
    )  # fmt: skip
    assert np.array_equal(a, b)
    assert np.ptp(a) > 50


def test_a_level_that_the_model_does_not_know_is_refused(server):
    text = refused(server, {"2": node("KronaOneStep", model=MODEL, sigma=5000.0)}, output=0)
    assert "The model knows no noise level 5000." in text


def test_one_step_begins_at_the_level_of_the_adapter_unless_one_is_typed(comfy, world, files, server):
    from krona_pack.nodes.one_step import KronaOneStep

    from krona_ops import load

    adapters = {name: load(server.base / "models" / "loras" / file) for name, file in files.items()}
    largest = float(world[0].get_model_object("model_sampling").sigma_max)

    def sigmas(sigma, **adapter):
        return KronaOneStep.execute(world[0], sigma, **adapter).args[0].tolist()

    assert sigmas(0.0) == pytest.approx([largest, 0.0])
    assert sigmas(0.0, krona=adapters["largest"]) == pytest.approx([largest, 0.0])
    assert sigmas(0.0, krona=adapters["lower"]) == [2.5, 0.0]
    assert sigmas(1.5, krona=adapters["lower"]) == [1.5, 0.0]
    with pytest.raises(ConfigError, match="has not learnt to draw in one step"):
        sigmas(0.0, krona=adapters["guided"])
    with pytest.raises(ConfigError, match=r"no noise level 5000.*trained for another model"):
        sigmas(0.0, krona=adapters["too high"])


def test_a_file_of_another_level_is_drawn_from_there_and_apply_says_so(server, files):
    """From the file, as from an adapter on a wire; and another picture than from the model's largest level."""
    strengths = {"strength_model": 1.0, "strength_clip": 1.0}
    applied = {"2": node("KronaLoadApply", model=MODEL, clip=CLIP, file=files["lower"], **strengths)}

    def drawn(**level):
        graph = {
            "3": node("KronaOneStep", model=link(2), sigma=0.0, **level),
            "4": node("KSamplerSelect", sampler_name="euler"),
            "5": node("CLIPTextEncode", clip=CLIP, text="a photo of a red robot"),
            "7": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "8": node(
                "SamplerCustom", model=link(2), add_noise=True, noise_seed=3, cfg=1.0, positive=link(5), negative=link(5),
                sampler=link(4), sigmas=link(3), latent_image=link(7),
            ),
            "9": node("VAEDecode", samples=link(8), vae=VAE),
            "10": node("PreviewImage", images=link(9)),
        }  # fmt: skip
        [file] = server.client.run({**WORLD, **applied, **graph}).files("10")
        return np.asarray(Image.open(io.BytesIO(server.client.view(**file))), dtype=int)

    by_file, by_wire, by_default = drawn(file=files["lower"]), drawn(krona=link(2, 2)), drawn()
    assert np.array_equal(by_file, by_wire)
    assert np.abs(by_file - by_default).max() > 20
    said = {**applied, "3": node("KronaApply", model=MODEL, krona=link(2, 2), mode="auto", **strengths), "9": node("PreviewAny", source=link(3, 2))}
    [text] = server.client.run({**WORLD, **said}).outputs["9"]["text"]
    assert "one step from noise level 2.5" in text
    assert "KronA One Step" in text


def test_a_strength_is_the_gate_of_the_training(comfy, world, tmp_path):
    """The host's own loader at strength s, against samples of one batch, each with the gate of its guidance."""
    from krona_train.comfyui.encode import ComfyEncoder, PictureSize
    from krona_train.comfyui.model import ComfyBackbone

    model, clip, vae = world
    encoder, size = ComfyEncoder(clip, vae), PictureSize(64, 64, 0, 0, 64, 64)
    with torch.inference_mode():
        texts = encoder.encode_captions(["a red robot", "a bird at night"])
    shape = tuple(vae_latent(vae))
    latents = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    captions = ("a red robot", "a bird at night", "a red robot")
    examples = [Example(x, encoder.condition(texts[c], size, c), c) for x, c in zip(latents, captions, strict=True)]
    rules = (TargetRule((4, 2)), TargetRule((4, 2), projections=(), pattern=r"\.ff\.|time_embed|conv"))
    backbone = ComfyBackbone(model)
    with backbone.ready():
        recipe = Recipe(AdapterConfig(targets=rules), OptimizerConfig(), EmaConfig(0.0), 10, seed=3, number=0)
        bank, rng = Bank(backbone, {MAIN: choose(backbone, recipe)}), torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in bank.main.parameters:
                parameter += 0.05 * torch.randn(parameter.shape, generator=rng)
            batch = backbone.collate(examples)
            sigma = torch.tensor([5.0, 1.0, 0.3])
            x_t = backbone.add_noise(batch.x0, torch.randn(batch.x0.shape, generator=rng), sigma)
            with bank.attached(), bank.only(**{MAIN: torch.tensor([0.5, 1.0, 5 / 3])}):
                trained = backbone.predict(x_t, sigma, batch.conditions)
            plain = backbone.predict(x_t, sigma, batch.conditions)
        file = save(bank.main.result(), tmp_path / "guided.safetensors")
    lora = comfy.utils.load_torch_file(str(file))
    for n, guidance in enumerate((2.5, 4.0, 6.0)):
        strength = GUIDED.strength(guidance)
        with torch.inference_mode():
            stock, _ = comfy.sd.load_lora_for_models(model, None, lora, strength, 0)
        twin = ComfyBackbone(stock)
        with twin.ready(), torch.no_grad():
            again = twin.predict(x_t[n : n + 1], sigma[n : n + 1], twin.collate(examples[n : n + 1]).conditions)
        scale = trained[n].abs().max().item()
        assert_close(again[0], trained[n], rtol=0, atol=1e-5 * scale)
        assert (plain[n] - trained[n]).abs().max() > 1e-2 * scale


def vae_latent(vae):
    with torch.inference_mode():
        return vae.encode(torch.zeros(1, 64, 64, 3)).shape[1:]
