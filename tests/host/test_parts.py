"""Parts that do not belong together: named before a folder exists, and nothing that works is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_families
import torch

from krona_ops import TargetRule, load, to_low_rank
from krona_ops.errors import ConfigError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.config import DataConfig, DenoisingConfig, PriorConfig
from tools import tiny_models

CONFIG = TrainConfig(
    steps=2,
    batch_size=1,
    adapter=AdapterConfig(targets=(TargetRule(factors=(8, 4)),)),
    optimizer=OptimizerConfig(learning_rate=5e-3, rate_by_width=0.0),
    data=DataConfig(resolution=64, bucket_step=8),
)


@pytest.fixture(scope="module")
def parts(comfy):
    """Models, text encoders and VAEs of three families, by family."""
    from krona_host.model.small_world import load_world

    torch.set_num_threads(1)
    with torch.inference_mode():
        sd15 = comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("sd15")))[:3]
        flux = comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("flux")), output_clip=False)[:3]
        bare = comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("sd15", clip=False, vae=False)), output_clip=False)[
            :3
        ]
        return {"sd15": sd15, "flux": flux, "world": load_world(), "bare": bare}


@pytest.fixture
def train(comfy, parts, tmp_path):
    """What the node does, in folders of this test: the parts by family."""
    import folder_paths
    from krona_pack.nodes.dataset import KronaDataset
    from krona_pack.nodes.server.choices import HERE, NEW
    from krona_pack.nodes.server.training import train as _train

    before = folder_paths.get_output_directory(), folder_paths.get_user_directory()
    folder_paths.set_output_directory(str(tmp_path / "output"))
    folder_paths.set_user_directory(str(tmp_path / "user"))
    dataset = KronaDataset.execute(
        prompt="a photo of sks robot", folder="world/robot", captions="from .txt files, else the prompt", resolution=64
    ).args[0]

    def run(model, clip, vae, config=CONFIG, resume=NEW, dataset=dataset, progress=lambda event: None, **more):
        kinds = [parts[name][place] if isinstance(name, str) else name for place, name in enumerate((model, clip, vae))]
        with torch.inference_mode():
            return _train(*kinds, dataset, config, name="run", resume=resume, where=HERE, progress=progress, **more)

    run.folder, run.dataset = tmp_path / "output" / "krona", dataset
    yield run
    folder_paths.set_output_directory(before[0])
    folder_paths.set_user_directory(before[1])


WRONG = {
    "no VAE": (("sd15", "sd15", "bare"), r"^The checkpoint brings no VAE\. Load one with its own loader node"),
    "no text encoder": (("sd15", None, "sd15"), r"^The checkpoint brings no text encoder \(CLIP\)\. Load one"),
    "neither": (("sd15", None, "bare"), r"brings no text encoder \(CLIP\) and no VAE\. Load them"),
    "no model": ((None, "sd15", "sd15"), "brings no diffusion model"),
    "SD's VAE for Flux": (("flux", "sd15", "sd15"), r"^vae: .* makes latents of 4 channels .* this flux1 model draws latents of 16 "),
    "Flux's VAE for SD": (("sd15", "sd15", "flux"), "^vae: .* latents of 16 channels .* this sd_v1 model draws latents of 4 "),
    "SD's text encoder for the small world": (("world", "sd15", "world"), r"^clip: This small_world model .* \(text 1 × 77 × 768"),
    "the small world's text encoder for SD": (("sd15", "world", "sd15"), r"^clip: This sd_v1 model .* \(text 1 × \d+ × 128"),
    "SD's text encoder for Flux": (("flux", "sd15", "flux"), r"^clip: This flux1 model cannot take .* text encoder"),
}  # fmt: skip


@pytest.mark.parametrize("resume", ["(new run)", "(go on if it is the same)"])
@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_belong_together_is_named_and_leaves_no_folder(what, resume, train):
    names, message = WRONG[what]
    with pytest.raises(ConfigError, match=message):
        train(*names, resume=resume)
    assert not (train.folder / "run").exists()


def test_a_refused_training_leaves_no_open_bar_in_the_console(train, capsys):
    from krona_pack.nodes.server.progress import Progress

    progress = Progress(2, None)
    with pytest.raises(ConfigError):
        train("sd15", "sd15", "bare", progress=progress)
    assert "0/2" not in capsys.readouterr().err
    train("world", "world", "world", progress=progress)
    assert "2/2" in capsys.readouterr().err


def test_a_wrong_text_encoder_is_named_before_class_pictures_are_drawn_too(train):
    wanted = replace(train.dataset, class_prompt="a photo of a robot", class_count=1)
    with pytest.raises(ConfigError, match=r"^clip: This small_world model cannot take"):
        train("world", "sd15", "world", replace(CONFIG, prior=PriorConfig(1.0, "pictures")), dataset=wanted)


def test_a_vae_is_judged_by_what_it_makes_not_by_what_it_says_of_itself(comfy, parts):
    from krona_train.comfyui.parts import require_parts

    model, clip, vae = parts["sd15"]
    require_parts(model, clip, SimpleNamespace(latent_channels=99, latent_dim=2, encode=vae.encode))
    require_parts(model, clip, SimpleNamespace(encode=None))  # another pack's, which says nothing: it is taken at its word
    with pytest.raises(ConfigError, match="makes latents of 99 channels and 1 dimension,"):
        require_parts(model, clip, SimpleNamespace(latent_channels=99, latent_dim=1, encode=lambda pixels: 1 / 0))


FOREIGN = [("WAN21_T2V", "HunyuanVideo"), ("QwenImage", "CosmosT2V"), ("HunyuanVideo", "WAN21_T2V"), ("CosmosT2V", "WAN21_T2V")]


@pytest.mark.parametrize(("mine", "other"), FOREIGN)
def test_vaes_with_latents_of_one_shape_are_told_apart_by_their_class(comfy, mine, other):
    import comfy.ldm.cosmos.vae
    import comfy.ldm.wan.vae

    from krona_train.comfyui.parts import require_parts

    networks = {"WAN21_T2V": comfy.ldm.wan.vae.WanVAE, "QwenImage": comfy.ldm.wan.vae.WanVAE}
    networks["CosmosT2V"] = comfy.ldm.cosmos.vae.CausalContinuousVideoTokenizer

    def vae_of(name):
        return SimpleNamespace(latent_channels=16, latent_dim=3, first_stage_model=networks[name].__new__(networks[name]))

    model = tiny_families.build(mine)
    if mine in networks:
        require_parts(model, object(), vae_of(mine))
    if other in networks:
        with pytest.raises(
            ConfigError, match=r"^vae: The VAE belongs to another family: it makes those of (Wan21|Cosmos1CV8x8x8), "
        ):
            require_parts(model, object(), vae_of(other))


def test_models_that_see_a_second_picture_say_so_in_the_run(comfy, parts):
    from krona_train.comfyui.parts import notes_on

    net = parts["sd15"][0].model
    assert notes_on(net) == ()
    net.set_inpaint()
    try:
        assert notes_on(net)[0].startswith("This is an inpainting model.")
    finally:
        net.concat_keys = ()
    kind = comfy.model_base.SD15_instructpix2pix
    assert notes_on(kind.__new__(kind))[0].startswith("This model (SD15_instructpix2pix) is made to see a second picture")
    assert "second picture" in notes_on(SimpleNamespace(image_to_video=True))[0]


def test_a_run_starts_from_an_adapter_of_any_dialect_and_its_file_starts_it_again(train, parts):
    """The node's way: a LoRA under kohya's names, other rates; then the run's own file, on the command line's way."""
    from krona_host.names.canonical import canonical
    from krona_ops import Adapter, save
    from krona_train.run.job import load_job
    from krona_train.session.command import start_of

    model = parts["world"][0]
    first = train("world", "world", "world").adapter
    loras = Adapter({name: to_low_rank(delta, 4).delta for name, delta in first.layers.items()}, first.metadata)
    kohya = load(save(loras, train.folder / "kohya.safetensors", "kohya-lora", rank=4))
    assert not set(kohya.layers) & set(first.layers)
    result = train("world", "world", "world", start=kohya)
    rows = (result.run.folder / "metrics.jsonl").read_text().splitlines()
    assert "brought into the form that is trained, which loses" in rows[0]
    assert '"krona.start"' in str(result.adapter.metadata.keys()).replace("'", '"')
    job = load_job(result.run.folder / "run.yaml")
    assert job.start == str(result.run.folder / "start.safetensors")
    again = start_of(job, model, None)
    started = load(result.run.folder / "start.safetensors")
    assert again.layers == started.layers
    assert set(started.layers) == set(canonical(kohya, model).layers)
    # The same start, queued again, is the same training and nothing is trained; none is another one.
    same = train("world", "world", "world", start=kohya, resume="(go on if it is the same)")
    assert same.run.folder == result.run.folder
    other = train("world", "world", "world", resume="(go on if it is the same)")
    assert other.run.folder != result.run.folder


def test_embedded_guidance_is_told_to_the_models_that_take_it_and_to_no_others(comfy, parts):
    from krona_host.model.families import embeds_guidance
    from krona_train import fit
    from krona_train.batches.examples import Example
    from krona_train.comfyui.encode import PictureSize, TextCondition
    from krona_train.comfyui.model import ComfyBackbone

    size = PictureSize(64, 64, 0, 0, 64, 64)
    received = {}
    for name in ("Flux", "FluxSchnell", "Chroma", "HunyuanVideo", "SD15"):
        model, tiny = tiny_families.build(name), tiny_families.TINY[name]
        extras = {key: torch.randn(shape) for key, shape in tiny.extras.items()}
        text = TextCondition(torch.randn(1, *tiny.context), extras, size)
        example = Example(torch.randn(tiny.latent), text, "a")
        for guidance in (1.0, 4.0, 0.0):
            seen, real = [], model.model.apply_model

            def spy(x, t, real=real, seen=seen, **kw):
                seen.append(kw.get("guidance"))
                return real(x, t, **kw)

            model.model.apply_model = spy
            config = TrainConfig(steps=1, objective=DenoisingConfig(embedded_guidance=guidance))
            fit(ComfyBackbone(model, guidance=guidance), [example], config)
            del model.model.apply_model
            received[name, guidance] = None if seen[0] is None else float(seen[0][0])
        assert embeds_guidance(model.model) == (name in ("Flux", "HunyuanVideo"))
    assert [received["Flux", g] for g in (1.0, 4.0, 0.0)] == [1.0, 4.0, 3.5]
    assert [received["HunyuanVideo", g] for g in (1.0, 4.0, 0.0)] == [1.0, 4.0, 6.0]
    assert [received["Chroma", g] for g in (1.0, 4.0, 0.0)] == [0.0, 0.0, 0.0]
    assert [received["SD15", g] for g in (1.0, 4.0, 0.0)] == [None, None, None]
