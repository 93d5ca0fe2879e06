"""Several sizes of training: ResAdapter's law in whole numbers, each picture at every size, encoded once."""

import logging
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from mean_encoder import MeanEncoder
from PIL import Image

from krona_ops.errors import ConfigError, DataError
from krona_train import TrainConfig
from krona_train.batches.examples import Group
from krona_train.batches.fingerprint import fingerprint
from krona_train.batches.order import Order
from krona_train.batches.samples import Samples
from krona_train.config import DataConfig, ValidationConfig, from_yaml, to_yaml
from krona_train.data.cache import Cache
from krona_train.data.choices import PictureFiles
from krona_train.data.encoding import encode
from krona_train.data.folder import from_folder
from krona_train.data.pictures import Dataset
from krona_train.data.resolutions import describe_sizes, require_multiples, size_weights
from krona_train.data.source import read_pictures
from krona_train.drawing.contact_sheet import contact_sheet
from krona_train.monitor.validation import keep_out

SD15 = {128: 9, 256: 4, 384: 1, 768: 4, 1024: 16}
SDXL = {256: 36, 384: 25, 512: 16, 768: 4, 1280: 4, 1408: 9, 1536: 16}
SIZES = {32: 4, 48: 1, 96: 4}
"""Weights of three sizes around 64."""


@pytest.fixture
def folder(tmp_path):
    """A wide picture, a square one that comes twice as often, and an upright one."""
    rng = np.random.default_rng(5)
    for name, (width, height) in {"a": (300, 150), "2_two/b": (160, 160), "c": (120, 200)}.items():
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return tmp_path / "pictures"


def dataset(folder, **settings):
    return Dataset(from_folder(folder, "a photo"), 64, settings=DataConfig(bucket_step=16, **settings))


@pytest.mark.parametrize(("native", "weights"), [(512, SD15), (1024, SDXL), (64, SIZES)])
def test_weights_are_whole_numbers_in_the_shares_of_the_papers_law(native, weights):
    assert size_weights(tuple(weights), native) == weights
    law = {x: Fraction((x - native) ** 2, sum((y - native) ** 2 for y in weights)) for x in weights}
    total = sum(weights.values())
    assert {x: Fraction(weight, total) for x, weight in weights.items()} == law
    assert size_weights((*weights, native), native) == weights  # its own, of weight 0, is left out


def test_an_epoch_has_each_picture_at_each_size_as_often_as_the_law_says(folder):
    items = encode(dataset(folder), 64, MeanEncoder(), sizes=SIZES)
    weights = [*SIZES.values()]
    assert sorted([item.repeats for item in items][n : n + 3] for n in (0, 3, 6)) == [weights, weights, [2 * w for w in weights]]
    counted = Counter()
    samples = Samples(items, TrainConfig(batch_size=3, seed=5))
    by_latent = {id(item.forms[0]): n for n, item in enumerate(items)}
    epoch = sum(item.repeats for item in items)
    assert epoch == 4 * sum(SIZES.values())
    for round_ in range(2):
        counted.clear()
        for number in range(round_ * epoch, (round_ + 1) * epoch):
            batch = samples.batch(number)
            assert len({sample.example.latent.shape for sample in batch}) == 1
            counted.update(by_latent[id(sample.example)] for sample in batch)
        assert counted == {n: 3 * item.repeats for n, item in enumerate(items)}
    areas = Counter()
    for n, count in counted.items():
        areas[tuple(SIZES)[n % 3]] += count
    assert areas == {size: 3 * 4 * weight for size, weight in SIZES.items()}


def test_each_picture_keeps_its_shape_at_every_size_and_is_encoded_once_per_size(folder, tmp_path):
    encoder, cache = MeanEncoder(), Cache(tmp_path / "cache")
    items = encode(dataset(folder), 64, encoder, cache, sizes=SIZES)
    assert encoder.asked.count("a photo") == 1
    assert len([each for each in encoder.asked if not isinstance(each, str)]) == 9
    for start in (0, 3, 6):
        assert [item.is_again for item in items[start : start + 3]] == [False, True, True]
    alone = [encode(dataset(folder), size, MeanEncoder()) for size in SIZES]
    for n, of_size in enumerate(alone):
        assert all(torch.equal(items[3 * k + n].forms[0].latent, item.forms[0].latent) for k, item in enumerate(of_size))
    encoder.asked.clear()
    again = encode(dataset(folder), 64, encoder, Cache(tmp_path / "cache"), sizes=SIZES)
    assert encoder.asked == []
    assert fingerprint(again) == fingerprint(items) != fingerprint(encode(dataset(folder), 64, encoder, cache))


def test_groups_become_one_size_at_every_size(tmp_path):
    rng = np.random.default_rng(1)
    for group in ("one", "two"):
        (tmp_path / group).mkdir()
        for n in range(3):
            Image.fromarray(rng.integers(0, 256, (80, 100, 3), np.uint8)).save(tmp_path / group / f"{n}.png")
    files = PictureFiles(folder=str(tmp_path), prompt="a photo", groups=True)
    items = encode(read_pictures(files, DataConfig(resolution=64, bucket_step=16, flip=True)), 64, MeanEncoder(), sizes=SIZES)
    assert all(isinstance(item, Group) and len(item.members) == 3 and item.cuts == 2 for item in items)
    assert [(item.repeats, item.is_again) for item in items] == [(w, n > 0) for _ in "ab" for n, w in enumerate(SIZES.values())]
    assert all(len({member.forms[0].latent.shape for member in item.members}) == 1 for item in items)


def test_what_is_validated_on_is_kept_out_at_all_sizes(folder):
    items = encode(dataset(folder), 64, MeanEncoder(), sizes=SIZES)
    config = TrainConfig(steps=4, validation=ValidationConfig(every=2, pictures=1))
    trained, kept = keep_out(items, config)
    assert (len(trained), len(kept)) == (6, 3)
    assert [item.is_again for item in kept] == [False, True, True]
    with pytest.raises(DataError, match="Keeping 3 of 3 pictures out"):
        keep_out(items, replace(config, validation=ValidationConfig(every=2, pictures=3)))


def test_the_order_with_tensors_is_the_order_of_before():
    """Drawn one by one, as it was until there were many repeats."""
    from bisect import bisect_right

    from krona_train.randomness import generator

    repeats = [9, 4, 1, 4, 16]
    order = Order(list("abcde"), repeats, 1, seed=3)
    ends = [9, 13, 14, 18, 34]
    for number in (0, 1, 33, 34, 90):
        round_, position = divmod(number, 34)
        tickets = torch.randperm(34, generator=generator(3, "buckets", round_)).tolist()
        assert order.batch(number) == [bisect_right(ends, tickets[position])]


def test_the_log_says_the_shares_the_models_own_size_and_what_is_enlarged(folder):
    sizes = (32, 48, 64, 96, 256)
    data = dataset(folder, resolutions=sizes)
    weights = size_weights(sizes, 64)
    assert weights == {32: 4, 48: 1, 96: 4, 256: 144}
    assert describe_sizes(data, 64, weights) == (
        "Sizes that are trained, each picture at every one: 32: 4 of 153, 48: 1 of 153, 96: 4 of 153, 256: 144 of 153.",
        "64 is the model's own size, whose weight is 0: it is not trained.",
        "3 of 3 pictures are smaller than 256 and are enlarged to it.",
    )


def test_a_picture_much_smaller_than_a_size_is_enlarged_as_ever_and_named(folder, caplog):
    with caplog.at_level(logging.WARNING):
        items = encode(dataset(folder), 64, MeanEncoder(), sizes={512: 1})
    assert "has only 120 × 200 pixels and is enlarged to" in caplog.text
    assert len(items) == 3


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((128, 100), r"100 is no multiple of 8.*Take 96 or 104"),
        ((128, 256, 128), r"The size 128 is named twice.*Name it once"),
        ((4,), r"resolutions"),
        ((8192,), r"resolutions"),
    ],
)
def test_wrong_sizes_are_named(sizes, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(resolutions=sizes)


def test_sizes_that_the_model_cannot_draw_and_its_own_alone_are_refused():
    with pytest.raises(DataError, match=r"^resolutions: 72 is no multiple of 16, the pixels that one place.*Take 64 or 80"):
        require_multiples((64, 72), 16)
    require_multiples((64, 80), 16)
    with pytest.raises(DataError, match=r"The only size that is named, 512, is the model's own, for which there is nothing to learn"):
        size_weights((512,), 512)


def test_sizes_go_through_a_file_and_are_no_setting_of_prompts(folder):
    config = DataConfig(resolutions=(128, 256))
    assert from_yaml(to_yaml(config), DataConfig) == config
    assert from_yaml("resolutions: [128, 256]", DataConfig) == config
    with pytest.raises(ConfigError, match="prompts in the place of pictures, and also resolutions"):
        Dataset((), prompts=("a cat",), settings=config)


def test_the_contact_sheet_says_how_many_sizes(folder, monkeypatch):
    from krona_train.drawing import contact_sheet as module

    texts = []
    wrapped = module.wrapped
    monkeypatch.setattr(module, "wrapped", lambda text, *rest: texts.append(text) or wrapped(text, *rest))
    contact_sheet(dataset(folder, resolutions=(32, 96, 128)))
    assert sum("3 sizes, 32 to 128" in text for text in texts) == 3
