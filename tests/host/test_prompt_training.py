"""Trainings of the real host that learn from prompts alone, and those that need pictures."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch.testing import assert_close

from krona_ops import TargetRule
from krona_ops.errors import ConfigError, DataError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.config import DataConfig, PreviewConfig, PriorConfig
from krona_train.data.choices import PictureFiles
from krona_train.data.source import read_pictures
from krona_train.objectives import kinds
from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.objectives.protocol import Loss, Stateless


@dataclass(frozen=True)
class DrawnConfig:
    kind: ClassVar[str] = "drawn"


class Drawn(Stateless):
    """An objective that learns from prompts alone: what the model makes of pure noise becomes small."""

    config_type, name, needs = DrawnConfig, "drawn", frozenset()

    def __init__(self, config):
        self.config = config

    def losses(self, piece):
        backbone, batch = piece.backbone, piece.batch
        assert not batch.has_pictures
        noise = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(0)).to(batch.x0)
        sigma = backbone.noise_levels(torch.full((len(noise),), 0.9))
        x_t = backbone.add_noise(batch.x0, noise, sigma)
        yield Loss(backbone.predict(x_t, sigma, batch.conditions).square().flatten(1).mean(1))


def prepared(world, dataset, config, place):
    from krona_train.session.material import Places, prepare

    with torch.inference_mode():
        return prepare(*world, dataset, config, Places(place / "c", place / "p"), lambda *progress: None)


def test_a_training_learns_from_prompts_alone(world, tmp_path, monkeypatch):
    from krona_train.comfyui.encode import encode_captions
    from krona_train.session.material import Material
    from krona_train.session.training import HostTraining

    monkeypatch.setattr(kinds, "OBJECTIVES", (*kinds.OBJECTIVES, Drawn))
    config = TrainConfig(
        steps=2,
        objective=DrawnConfig(),
        adapter=AdapterConfig(targets=(TargetRule((8, 4), ("k",)),)),
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )
    dataset = read_pictures(PictureFiles(prompts=("a red robot", "a bird"), width=64, height=32), config.data)
    made = prepared(world, dataset, config, tmp_path)
    material = Material.load(made.save(tmp_path / "encoded.safetensors"))
    assert material.captions == ("a red robot", "a bird")
    assert material.resolution == 45  # a square of 64 × 32 pixels
    for item, text in zip(material.items, material.captions, strict=True):
        [form] = item.forms
        assert form.latent is None
        vae = world[2]
        with torch.inference_mode():
            assert form.shape == tuple(vae.encode(torch.rand(1, 32, 64, 3))[0].shape)
            assert_close(form.condition.embedding, encode_captions(world[1], [text])[text][0])
    result, run_made = HostTraining(*world, material, config, "").run(tmp_path / "run")
    assert run_made.steps == [1, 2]
    assert any(delta.dense().abs().max() > 0 for delta in result.layers.values())
    assert result.metadata["ss_num_train_images"] == "0"
    assert "a red robot" not in str(result.metadata)  # it calls nothing up
    square = prepared(world, replace(dataset, width=0, height=0), config, tmp_path)
    with torch.inference_mode():
        assert square.items[0].forms[0].shape == tuple(world[2].encode(torch.rand(1, 64, 64, 3))[0].shape)
    previewed = replace(config, preview=PreviewConfig(every=1))
    assert prepared(world, dataset, previewed, tmp_path).prompts[0].text == "a red robot"


@pytest.mark.parametrize("kind", [GuidanceConfig, PairsConfig])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"objective": {"sampler": "eulre"}}, r"no sampler 'eulre'.*objective\.sampler"),
        ({"prior": PriorConfig(1.0, "model")}, "Prior preservation goes with denoising, and not with .*Set prior.weight to 0"),
        ({"prior": PriorConfig(1.0, "pictures")}, "Prior preservation goes with denoising, and not with .*Set prior.weight to 0"),
    ],
)
def test_what_a_distillation_cannot_do_is_refused_before_anything_is_drawn(world, tmp_path, kind, wrong, said):
    """As a run.yaml has it."""
    dataset = read_pictures(PictureFiles(prompts=("a bird",)), DataConfig())
    config = TrainConfig(steps=1, objective=kind(**wrong.get("objective", {})), prior=wrong.get("prior", PriorConfig()))
    with pytest.raises(ConfigError) as caught:
        prepared(world, dataset, config, tmp_path)
    assert re.search(said, f"{caught.value} {caught.value.where}")
    assert not any(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("prior", ["off", "model", "pictures"])
def test_ordinary_training_says_that_it_needs_pictures_before_anything_is_encoded(world, tmp_path, prior):
    from krona_train.session.choices import Settings

    dataset = read_pictures(PictureFiles(prompts="built-in"), DataConfig())
    config = Settings(prior=prior).applied_to(TrainConfig(steps=1), dataset)
    with pytest.raises(DataError, match="prompts and no pictures; the objective denoising needs pictures"):
        prepared(world, dataset, config, tmp_path)
    assert not any(tmp_path.rglob("*.safetensors"))
