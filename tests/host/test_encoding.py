"""Pictures and captions through the host's own VAE and text encoders, and what tells two of those apart."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from krona_train.config import DataConfig
from krona_train.data.cache import Cache
from krona_train.data.encoding import encode
from krona_train.data.folder import from_folder
from krona_train.data.pictures import Dataset
from tools import tiny_models

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "krobot"


def opened(comfy, **options):
    """``(clip, vae)`` of a tiny checkpoint, loaded as a loader node does it."""
    options = {"kind": "sd15", **options}
    kind = options.pop("kind")
    with torch.inference_mode():
        file = tiny_models.cached(kind, **options)
        return comfy.sd.load_checkpoint_guess_config(str(file), output_model=False)[1:3]


@pytest.fixture(autouse=True)
def inference():
    """As nodes run."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def models(comfy):
    return opened(comfy)


@pytest.fixture
def encoder(models):
    from krona_train.comfyui.encode import ComfyEncoder

    return ComfyEncoder(*models)


@pytest.fixture
def folder(tmp_path):
    """A wide and an upright picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, box in {"beach": (0, 40, 256, 200), "table": (60, 0, 190, 256)}.items():
        image = Image.open(SAMPLES / f"{name}.jpg").convert("RGB").resize((256, 256))
        image.crop(box).save(folder / f"{name}.png")
    (folder / "table.txt").write_text("sks robot, on a table, pink")
    return folder


def dataset(folder, **settings):
    settings = DataConfig(bucket_step=32, **settings)
    return Dataset(from_folder(folder, "a photo of sks robot"), 128, trigger="sks", settings=settings)


class Counted:
    """Counts the calls of two functions of the host's."""

    def __init__(self, monkeypatch, clip, vae):
        self.calls = {"vae": 0, "clip": 0}
        for name, owner, method in (("vae", vae, "encode"), ("clip", clip, "encode_from_tokens_scheduled")):
            monkeypatch.setattr(owner, method, self._counting(name, getattr(owner, method)))

    def _counting(self, name, original):
        def call(*args, **kwargs):
            self.calls[name] += 1
            return original(*args, **kwargs)

        return call


def test_a_second_run_calls_neither_encoder_and_sees_the_same_bits(models, folder, tmp_path, monkeypatch):
    from krona_train.comfyui.encode import ComfyEncoder

    settings = {"crops": 2, "flip": True, "shuffles": 2, "caption_dropout": 0.2}
    counted = Counted(monkeypatch, *models)
    fresh = encode(dataset(folder, **settings), 128, ComfyEncoder(*models), with_class=True)
    once = dict(counted.calls)
    for _ in range(2):
        before = dict(counted.calls)
        kept = encode(dataset(folder, **settings), 128, ComfyEncoder(*models), Cache(tmp_path / "cache"), with_class=True)
    # Two pictures, two cuts each, mirrored; three captions, each with and without the trigger, and an empty one.
    assert once == {"vae": 8, "clip": 7}
    assert before == {"vae": 16, "clip": 14}
    assert counted.calls == before
    for one, two in zip(fresh, kept, strict=True):
        pairs = list(zip((*one.forms, *one.uncaptioned), (*two.forms, *two.uncaptioned), strict=True))
        for a, b in pairs:
            assert torch.equal(a.latent, b.latent)
            for left, right in ((a.condition, b.condition), (a.class_condition, b.class_condition)):
                assert torch.equal(left.embedding, right.embedding)
                assert left.embedding.dtype == right.embedding.dtype
                assert left.extras.keys() == right.extras.keys()
                assert left.size == right.size
                assert left.caption == right.caption
                for name, value in left.extras.items():
                    assert torch.equal(value, right.extras[name]) if torch.is_tensor(value) else value == right.extras[name]


def test_shapes_and_sizes_keep_width_and_height_apart(encoder, folder):
    wide, upright = encode(dataset(folder), 128, encoder)
    assert [tuple(item.forms[0].latent.shape) for item in (wide, upright)] == [(4, 12, 20), (4, 20, 12)]
    sizes = [item.forms[0].condition.size for item in (wide, upright)]
    assert [(s.width, s.height, s.target_width, s.target_height) for s in sizes] == [(256, 160, 160, 96), (130, 256, 96, 160)]
    assert wide.forms[0].condition.embedding.shape == (1, 77, 768)
    assert wide.forms[0].condition.caption == "a photo of sks robot"


def test_flipped_latents_are_encodings_of_mirrored_pixels(encoder, folder):
    for item in encode(dataset(folder, flip=True, crops=2), 128, encoder):
        for straight, mirrored in zip(item.forms[::2], item.forms[1::2], strict=True):
            assert not torch.equal(straight.latent, mirrored.latent)
            # The tiny VAE's kernels look to the right and down, so its latents mirror up to a pixel of each 8.
            difference = (straight.latent.flip(-1) - mirrored.latent).abs().mean()
            assert difference < 0.25 * (straight.latent - mirrored.latent).abs().mean()


def test_what_is_cached_can_be_trained_on(comfy, models, folder, tmp_path):
    from krona_train import TrainConfig, fit
    from krona_train.comfyui.encode import ComfyEncoder
    from krona_train.comfyui.model import ComfyBackbone

    model = comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("sd15")), output_vae=False, output_clip=False)[0]
    adapters = []
    for cache in (None, Cache(tmp_path / "cache"), Cache(tmp_path / "cache")):
        items = encode(dataset(folder, flip=True), 64, ComfyEncoder(*models), cache)
        adapters.append(fit(ComfyBackbone(model), items, TrainConfig(steps=2)))
    assert adapters[0] == adapters[1] == adapters[2]


# Identity


@pytest.fixture(scope="module")
def identities(comfy):
    from krona_train.comfyui.identity import clip_identity, vae_identity

    return clip_identity, vae_identity


def test_the_same_file_loaded_twice_is_the_same_encoder(comfy, models, identities):
    """Also when memory is not fresh: the host leaves a weight that SD1.5's files lack, and nothing uses, as it finds it."""
    used = [torch.randn(768, 768) for _ in range(200)]
    del used
    again = opened(comfy)
    for identity, one, two in zip(identities, models, again, strict=True):
        assert identity(one) is not None
        assert identity(one) == identity(two)


def test_an_encoder_is_the_same_before_and_after_use(models, identities):
    before = [identity(part) for identity, part in zip(identities, models, strict=True)]
    clip, vae = models
    clip.encode_from_tokens_scheduled(clip.tokenize("a dog"))
    vae.encode(torch.rand(1, 64, 64, 3))
    assert [identity(part) for identity, part in zip(identities, models, strict=True)] == before


def test_other_weights_are_another_encoder(comfy, models, identities):
    clip_identity, vae_identity = identities
    clip, vae = models
    assert clip_identity(opened(comfy, seed=1)[0]) != clip_identity(clip)
    changed = opened(comfy)[1]
    next(changed.first_stage_model.parameters()).view(-1)[0] += 1
    assert vae_identity(changed) != vae_identity(vae)
    assert vae_identity(opened(comfy, kind="sdxl")[1]) != vae_identity(vae)  # another scale and nothing else


def test_clip_skip_is_another_encoder(models, identities):
    clip_identity, _ = identities
    skipped = models[0].clone()
    assert clip_identity(skipped) == clip_identity(models[0])
    skipped.clip_layer(-2)
    assert clip_identity(skipped) != clip_identity(models[0])
    other = models[0].clone()
    other.clip_layer(-3)
    assert clip_identity(other) not in (clip_identity(skipped), clip_identity(models[0]))
    tokens = models[0].clone()
    tokens.set_tokenizer_option("min_length", 154)
    assert clip_identity(tokens) != clip_identity(models[0])


def lora(clip, seed=0):
    """A LoRA for one layer of the text encoder, as the host's loader gives it."""
    import comfy.lora

    key = next(k for k in clip.cond_stage_model.state_dict() if k.endswith("layers.0.self_attn.q_proj.weight"))
    rng = torch.Generator().manual_seed(seed)
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    file = {
        f"{name}.lora_down.weight": torch.randn(4, 768, generator=rng),
        f"{name}.lora_up.weight": torch.randn(768, 4, generator=rng),
        f"{name}.alpha": torch.tensor(4.0),
    }
    return comfy.lora.load_lora(file, {name: key})


def test_a_lora_on_the_text_encoder_is_another_encoder_at_every_strength(models, identities):
    clip_identity, _ = identities
    clip = models[0]

    def patched(seed, strength):
        clone = clip.clone()
        assert clone.add_patches(lora(clip, seed), strength)
        return clone

    plain = clip_identity(clip)
    of_patched = [clip_identity(patched(*case)) for case in ((0, 1.0), (0, 0.5), (1, 1.0))]
    assert None not in of_patched
    assert len({plain, *of_patched}) == 4
    assert clip_identity(patched(0, 1.0)) == of_patched[0]
    # While the patched clone is loaded, the shared weights hold its patch; the identities stay what they are.
    loaded = patched(0, 1.0)
    loaded.encode_from_tokens_scheduled(loaded.tokenize("a dog"))
    assert clip_identity(clip) == plain
    assert clip_identity(loaded) == of_patched[0]
    clip.encode_from_tokens_scheduled(clip.tokenize("a dog"))


def test_an_adapter_of_ours_on_the_text_encoder_is_another_encoder(models, identities):
    from krona_host.patching.apply import apply_adapter
    from krona_ops import Adapter, Kron
    from krona_ops.updates.factor import Full

    clip_identity, _ = identities
    rng = torch.Generator().manual_seed(0)
    layer = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj"
    adapter = Adapter({layer: Kron(Full(torch.randn(32, 4, generator=rng)), Full(torch.randn(24, 192, generator=rng)))})
    clips = [apply_adapter(adapter, clip=models[0], strength_clip=s, mode="merge").clip for s in (1.0, 0.5, 1.0)]
    of_patched = [clip_identity(clip) for clip in clips]
    assert of_patched[0] == of_patched[2]
    assert None not in of_patched
    assert len({clip_identity(models[0]), *of_patched}) == 3
    # Beside the weights is code, which has no identity that a later run could know.
    assert clip_identity(apply_adapter(adapter, clip=models[0], mode="bypass").clip) is None


def test_what_works_by_code_has_no_identity(models, identities):
    clip_identity, _ = identities
    clone = models[0].clone()
    clone.patcher.add_wrapper_with_key("apply_model", "someone", lambda *args: None)
    assert clip_identity(clone) is None
    clone = models[0].clone()
    clone.patcher.model_options["someone"] = object()
    assert clip_identity(clone) is None
    clone = models[0].clone()
    clone.patcher.model_options["someone"] = {"strength": 1.0}
    assert clip_identity(clone) not in (None, clip_identity(models[0]))


def test_a_checkpoint_without_vae_is_refused_in_the_hosts_own_words(comfy, models, folder):
    from krona_train.comfyui.encode import ComfyEncoder

    _, vae = opened(comfy, clip=False, vae=False)
    with pytest.raises(RuntimeError, match="VAE is invalid"):
        encode(dataset(folder), 64, ComfyEncoder(models[0], vae))


def test_captions_with_embedding_files_are_not_kept(encoder):
    assert encoder.text_identity("a photo of embedding:mine") is None
    assert encoder.text_identity("a photo") is not None


def test_sdxl_checkpoints_are_encoded_with_their_pooled_output(comfy, folder, tmp_path):
    from krona_train.comfyui.encode import ComfyEncoder

    (folder / "table.png").unlink()  # the text encoders of SDXL have one size only, and take seconds for each caption
    clip, vae = opened(comfy, kind="sdxl", clip=True)
    first = encode(dataset(folder), 128, ComfyEncoder(clip, vae), Cache(tmp_path / "cache"))
    again = encode(dataset(folder), 128, ComfyEncoder(clip, vae), Cache(tmp_path / "cache"))
    for one, two in zip(first, again, strict=True):
        assert one.forms[0].condition.embedding.shape == (1, 77, 2048)
        pooled = one.forms[0].condition.extras["pooled_output"]
        assert pooled.shape == (1, 1280)
        assert torch.equal(pooled, two.forms[0].condition.extras["pooled_output"])
        assert torch.isfinite(pooled).all()
