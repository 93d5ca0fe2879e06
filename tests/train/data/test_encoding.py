"""From pictures and captions to items, with an encoder small enough to write down."""

import logging

import numpy as np
import pytest
import torch
from mean_encoder import MeanEncoder
from PIL import Image

from krona_ops.errors import DataError
from krona_train.config import DataConfig
from krona_train.data.buckets import PictureSize
from krona_train.data.cache import Cache
from krona_train.data.encoding import encode, encode_class_pictures
from krona_train.data.folder import from_folder
from krona_train.data.pictures import Dataset, from_tensor


@pytest.fixture
def folder(tmp_path):
    """A wide picture, an upright one and a square one, each of its own noise."""
    rng = np.random.default_rng(5)
    (tmp_path / "pictures").mkdir()
    for name, (width, height) in {"a": (300, 150), "b": (120, 200), "c": (160, 160)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / "pictures" / f"{name}.png")
    (tmp_path / "pictures" / "b.txt").write_text("a photo of sks dog, beach, sun, ball")
    return tmp_path / "pictures"


def dataset(folder, prompt="a photo of sks dog", trigger="", class_prompt="", **settings):
    step = {"bucket_step": 32, **settings}
    pictures = from_folder(folder, prompt, masks=settings.get("masks", False))
    return Dataset(pictures, 128, trigger, class_prompt, settings=DataConfig(**step))


def test_every_picture_becomes_an_item_of_its_own_shape(folder):
    items = encode(dataset(folder), 128, MeanEncoder())
    # (C, height, width), which tells a transposition
    assert [tuple(item.forms[0].latent.shape) for item in items] == [(3, 12, 20), (3, 20, 12), (3, 16, 16)]
    assert [item.forms[0].caption for item in items] == [
        "a photo of sks dog",
        "a photo of sks dog, beach, sun, ball",
        "a photo of sks dog",
    ]
    assert all(len(item.forms) == 1 and item.uncaptioned == () and item.repeats == 1 for item in items)
    squares = encode(dataset(folder, buckets=False), 128, MeanEncoder())
    assert {tuple(item.forms[0].latent.shape) for item in squares} == {(3, 16, 16)}


def test_each_form_is_told_how_it_was_cut(folder):
    [wide, upright, _] = encode(dataset(folder, crops=2, flip=True), 128, MeanEncoder())
    sizes = [form.condition[-1] for form in wide.forms]
    # 300 × 150 fills 160 × 96 as 192 × 96; each cut is followed by its mirror image, from the other side.
    assert sizes == [PictureSize(300, 150, left, 0, 160, 96) for left in (0, 32, 32, 0)]
    sizes = [form.condition[-1] for form in upright.forms]
    # 120 × 200 fills 96 × 160 exactly: one cut, and its mirror image.
    assert sizes == [PictureSize(120, 200, 0, 0, 96, 160)] * 2
    squares = encode(dataset(folder, buckets=False, crops=3, flip=True), 128, MeanEncoder())
    lefts = [form.condition[-1].crop_left for form in squares[0].forms]
    assert lefts == [0, 128, 64, 64, 128, 0]


def test_flipped_latents_are_encodings_of_mirrored_pixels(folder):
    for item in encode(dataset(folder, crops=2, flip=True), 128, MeanEncoder()):
        for straight, mirrored in zip(item.forms[::2], item.forms[1::2], strict=True):
            assert (straight.latent.flip(-1) - mirrored.latent).abs().max() <= 1 / 255
            assert (straight.latent - mirrored.latent).abs().max() > 0.01


def test_every_order_of_a_caption_meets_every_cut(folder):
    item = encode(dataset(folder, flip=True, shuffles=3), 128, MeanEncoder())[1]
    captions = [form.caption for form in item.forms]
    assert len(captions) == 6
    assert captions[:3] == captions[3:]
    assert len(set(captions)) == 3
    assert captions[0] == "a photo of sks dog, beach, sun, ball"
    other = encode(dataset(folder, shuffles=3), 128, MeanEncoder(), seed=1)[1]
    assert {form.caption for form in other.forms} != set(captions)


def test_dropped_captions_are_encoded_as_empty_ones(folder):
    for item in encode(dataset(folder, caption_dropout=0.1, flip=True), 128, MeanEncoder()):
        assert [form.caption for form in item.uncaptioned] == ["", ""]
        for form, bare in zip(item.forms, item.uncaptioned, strict=True):
            assert bare.latent is form.latent
            assert bare.condition[0].tolist() == [[[0, 0]]]
            assert bare.condition[-1] == form.condition[-1]


def test_the_class_of_every_form_is_encoded_where_it_is_wanted(folder):
    encoder = MeanEncoder()
    items = encode(dataset(folder, trigger="sks", caption_dropout=0.5), 128, encoder, with_class=True)
    assert "a photo of dog" in encoder.asked
    assert "a photo of dog, beach, sun, ball" in encoder.asked
    assert items[1].uncaptioned[0].condition[2] == ""
    for form in (*items[1].forms, *items[1].uncaptioned):
        assert form.class_condition[2] == "a photo of dog, beach, sun, ball"
        assert form.class_condition[0][0, 0, 0] == len("a photo of dog, beach, sun, ball")
        assert form.class_condition[-1] == form.condition[-1]
    items = encode(dataset(folder, class_prompt="a dog"), 128, MeanEncoder(), with_class=True)
    assert {item.forms[0].class_condition[0][0, 0, 0].item() for item in items} == {5.0}
    assert encode(dataset(folder, trigger="sks"), 128, MeanEncoder())[0].forms[0].class_condition is None
    with pytest.raises(DataError, match="Fill in class_prompt"):
        encode(dataset(folder), 128, MeanEncoder(), with_class=True)


def test_conditions_are_shared_by_no_two_cuts(folder):
    items = encode(dataset(folder, class_prompt="a dog", flip=True), 128, MeanEncoder(), with_class=True)
    conditions = [c for item in items for form in item.forms for c in (form.condition, form.class_condition)]
    assert len({id(c) for c in conditions}) == len(conditions)


def test_masks_come_on_the_latents_grid_and_are_mirrored_too(folder):
    mask = np.zeros((150, 300), np.uint8)
    mask[:, :100] = 255
    Image.fromarray(mask).save(folder / "a-mask.png")
    wide, upright, _ = encode(dataset(folder, masks=True, flip=True), 128, MeanEncoder())
    straight, mirrored = wide.forms
    assert straight.mask.shape == (12, 20)
    # The third of 192 pixels is white; the cut begins at pixel 16, so white ends with its sixth place.
    assert torch.allclose(straight.mask[:, :5], torch.ones(12, 5))
    assert torch.allclose(straight.mask[:, 7:], torch.zeros(12, 13))
    assert (straight.mask.flip(-1) - mirrored.mask).abs().max() <= 1 / 255
    assert upright.forms[0].mask is None


def test_cuts_that_the_mask_leaves_nothing_of_are_left_out():
    images, mask = torch.rand(1, 64, 256, 3), torch.zeros(1, 64, 256)
    mask[..., :20] = 1
    off = DataConfig(buckets=False, crops=4)
    [item] = encode(Dataset(from_tensor(images, "a dog", mask), 64, settings=off), 64, MeanEncoder())
    assert [form.condition[-1].crop_left for form in item.forms] == [0]
    middle = Dataset(from_tensor(images, "a dog", mask), 64, settings=DataConfig(buckets=False))
    with pytest.raises(DataError, match="picture 1: What the mask leaves of the picture is cut off"):
        encode(middle, 64, MeanEncoder())


def test_repeats_go_with_the_item(folder):
    items = encode(Dataset(from_folder(folder, "a dog", repeats=7), 64), 64, MeanEncoder())
    assert [item.repeats for item in items] == [7] * 3


def test_class_pictures_are_encoded_as_they_are(folder):
    own = from_tensor(torch.rand(1, 64, 64, 3), "a photo of sks dog, in a park")
    settings = DataConfig(bucket_step=32, crops=3, flip=True, shuffles=3, caption_dropout=0.5)
    whole = Dataset(own, 128, class_pictures=from_folder(folder, "a dog"), settings=settings)
    items = encode_class_pictures(whole, 128, MeanEncoder())
    assert [tuple(item.forms[0].latent.shape) for item in items] == [(3, 12, 20), (3, 20, 12), (3, 16, 16)]
    assert all(len(item.forms) == 1 and not item.uncaptioned for item in items)
    assert items[0].forms[0].caption == "a dog"
    with pytest.raises(DataError, match="There are no class pictures"):
        encode_class_pictures(Dataset(own, 128), 128, MeanEncoder())


# Once, and never again


def test_each_caption_and_each_cut_is_encoded_once(folder):
    encoder = MeanEncoder()
    twice = dataset(folder)
    encode(Dataset(twice.pictures * 2, 128, settings=twice.settings), 128, encoder)
    assert len(encoder.asked) == 2 + 3


def values(item):
    forms = (*item.forms, *item.uncaptioned)
    return [(f.latent, f.condition[0], f.condition[1]["pooled_output"], f.mask) for f in forms]


def test_the_second_time_nothing_is_encoded_and_everything_is_bitwise_the_same(folder, tmp_path):
    settings = {"crops": 2, "flip": True, "shuffles": 2, "caption_dropout": 0.1}
    fresh = encode(dataset(folder, **settings), 128, MeanEncoder())
    first = encode(dataset(folder, **settings), 128, MeanEncoder(), Cache(tmp_path / "cache"))
    idle = MeanEncoder()
    second = encode(dataset(folder, **settings), 128, idle, Cache(tmp_path / "cache"))
    assert idle.asked == []
    for made, kept, again in zip(fresh, first, second, strict=True):
        for row in zip(values(made), values(kept), values(again), strict=True):
            for one, two, three in zip(*row, strict=True):
                assert (one is two is three) if one is None else (torch.equal(one, two) and torch.equal(one, three))
        assert again.forms[0].condition[1]["weight"] == 0.5
        assert again.forms[0].condition[1]["none"] is None
        assert again.forms[0].condition[-1] == made.forms[0].condition[-1]


def test_only_what_has_changed_is_encoded_again(folder, tmp_path):
    def asked(identity="mean", **settings):
        encoder = MeanEncoder(identity)
        encode(dataset(folder, **settings), 128, encoder, Cache(tmp_path / "cache"))
        return encoder.asked

    assert len(asked()) == 5
    assert asked() == []
    Image.new("RGB", (300, 150), "red").save(folder / "a.png")
    assert asked() == [(96, 160, 3)]
    (folder / "c.txt").write_text("another")
    assert asked() == ["another"]
    assert len(asked(flip=True)) == 3  # the mirror images
    assert len(asked(buckets=False)) == 2  # the square one is cut as before
    assert len(asked("another encoder")) == 3 + 3
    (folder / "a.png").rename(folder / "z.png")
    assert asked() == []


def test_pictures_from_the_graph_are_told_apart_by_their_pixels(tmp_path):
    def asked(images):
        encoder = MeanEncoder()
        encode(Dataset(from_tensor(images, "a dog"), 64), 64, encoder, Cache(tmp_path))
        return len(encoder.asked)

    images = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert asked(images) == 3
    assert asked(images.clone()) == 0
    images[1, 0, 0, 0] += 0.1
    assert asked(images) == 1


def test_an_encoder_that_cannot_be_told_apart_is_not_cached(folder, tmp_path):
    for _ in range(2):
        encoder = MeanEncoder(identity=None)
        encode(dataset(folder), 128, encoder, Cache(tmp_path / "cache"))
        assert len(encoder.asked) == 5
    assert not (tmp_path / "cache").exists()


def test_a_caption_with_extras_that_no_file_holds_is_encoded_each_time(folder, tmp_path):
    for expected in (5, 2):
        encoder = MeanEncoder(extras={"hooks": object()})
        items = encode(dataset(folder), 128, encoder, Cache(tmp_path / "cache"))
        assert len(encoder.asked) == expected
        assert "hooks" in items[0].forms[0].condition[1]


def test_a_damaged_entry_is_encoded_again(folder, tmp_path):
    encode(dataset(folder), 128, MeanEncoder(), Cache(tmp_path / "cache"))
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    encoder = MeanEncoder()
    encode(dataset(folder), 128, encoder, Cache(tmp_path / "cache"))
    assert len(encoder.asked) == 5
    idle = MeanEncoder()
    encode(dataset(folder), 128, idle, Cache(tmp_path / "cache"))
    assert idle.asked == []


# What goes wrong


def test_progress_is_told_and_may_cancel(folder):
    told = []
    encode(dataset(folder), 128, MeanEncoder(), progress=lambda *event: told.append(event))
    assert [(done, total) for done, total, _ in told] == [(n, 5) for n in range(6)]
    assert [what for _, _, what in told[2:]] == ["a.png", "b.png", "c.png", ""]
    assert told[0][2] == 'caption "a photo of sks dog"'

    class CancelledError(Exception):
        pass

    def cancel(done, total, what):
        if what == "b.png":
            raise CancelledError

    encoder = MeanEncoder()
    with pytest.raises(CancelledError):
        encode(dataset(folder), 128, encoder, progress=cancel)
    assert len(encoder.asked) == 3


def test_a_picture_that_is_deleted_or_changed_in_the_middle_is_named(folder):
    def delete(done, total, what):
        if what == "a.png":
            (folder / "b.png").unlink()
            (folder / "c.png").write_bytes(b"half")

    whole = dataset(folder)
    with pytest.raises(DataError, match=r"b\.png: The picture can no longer be read"):
        encode(whole, 128, MeanEncoder(), progress=delete)
    without = Dataset((whole.pictures[0], whole.pictures[2]), 128)
    with pytest.raises(DataError, match=r"c\.png: The picture can no longer be read"):
        encode(without, 128, MeanEncoder())


def test_a_picture_that_becomes_nan_is_named(folder):
    Image.new("RGB", (128, 128), "white").save(folder / "b.png")
    with pytest.raises(DataError, match=r"b\.png: The VAE turns a picture into NaN"):
        encode(dataset(folder), 128, MeanEncoder())


def test_a_picture_that_is_much_too_small_gets_a_warning_that_names_it(folder, caplog):
    with caplog.at_level(logging.WARNING):
        encode(dataset(folder), 128, MeanEncoder())
        assert caplog.text == ""
        encode(dataset(folder), 512, MeanEncoder())
    assert "c.png has only 160 × 160 pixels and is enlarged to 512 × 512" in caplog.text
    assert caplog.text.count("c.png") == 1
