"""Class pictures that the model draws: kept for the next training where its weights tell what it draws, and nowhere else."""

import numpy as np
import pytest
import torch
from PIL import Image

from krona_train import TrainConfig
from krona_train.config import PreviewConfig, PriorConfig
from krona_train.data.pictures import Dataset, Picture

PICTURE = Picture(torch.zeros(64, 64, 3), "a photo of sks dog", "dog.png")
DATASET = Dataset((PICTURE,), resolution=64, class_prompt="a photo of a dog", class_count=2)
CONFIG = TrainConfig(steps=1, prior=PriorConfig(1.0, "pictures"), preview=PreviewConfig(steps=2))


@pytest.fixture
def with_class(world, tmp_path):
    """The class pictures of a training on another model of the small world, as arrays, and how many were drawn for it."""
    from krona_train.session.material import Places, with_drawn_class_pictures

    def make(model):
        made = []

        def progress(done, total, what):
            made.append(done)

        with torch.inference_mode(), with_drawn_class_pictures(
            model, *world[1:], DATASET, 64, CONFIG, Places(tmp_path / "cache", tmp_path / "class"), progress
        ) as dataset:  # fmt: skip
            files = [picture.source for picture in dataset.class_pictures]
            return [np.asarray(Image.open(file)) for file in files], 2 - made[0], files

    return make


def test_a_model_that_its_weights_tell_draws_them_once(world, with_class, tmp_path):
    first, drawn, files = with_class(world[0])
    assert drawn == 2
    again, drawn, same_files = with_class(world[0].clone())
    assert drawn == 0
    assert files == same_files
    assert all(file.is_relative_to(tmp_path / "class") for file in files)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_model_that_draws_otherwise_gets_its_own_and_leaves_none(world, with_class, tmp_path):
    usual, _, _ = with_class(world[0])
    changed = world[0].clone()
    changed.set_model_sampler_post_cfg_function(lambda args: args["denoised"] / 2)
    for _ in range(2):
        pictures, drawn, files = with_class(changed)
        assert drawn == 2
        assert not any(np.array_equal(a, b) for a, b in zip(pictures, usual, strict=True))
        assert not any(file.exists() for file in files)
    assert len(list((tmp_path / "class").rglob("*.png"))) == 2
    _, drawn, _ = with_class(world[0])
    assert drawn == 0


def test_they_are_encoded_before_they_go(world, tmp_path):
    from krona_train.session.material import Places, prepare

    changed = world[0].clone()
    changed.set_model_sampler_post_cfg_function(lambda args: args["denoised"] / 2)
    with torch.inference_mode():
        places = Places(tmp_path / "cache", tmp_path / "class")
        plain, other = (prepare(model, *world[1:], DATASET, CONFIG, places, lambda *args: None) for model in (world[0], changed))
    assert len(plain.class_items) == len(other.class_items) == 2
    for a, b in zip(plain.class_items, other.class_items, strict=True):
        assert not torch.equal(a.forms[0].latent, b.forms[0].latent)
