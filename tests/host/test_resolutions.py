"""Several sizes of training in the real host: the node, what is encoded, a training of the small world at other sizes and its resume."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from krona_ops import TargetRule
from krona_ops.errors import ConfigError, DataError
from krona_ops.targets.parts import NORMS
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.config import DataConfig
from krona_train.data.choices import PictureFiles
from krona_train.data.source import read_pictures

SIZES = (48, 64, 96, 128)
"""Of which 64 is the world's own."""
SETTINGS = TrainConfig(
    steps=4,
    batch_size=2,
    save_every=2,
    adapter=AdapterConfig(targets=(TargetRule(part=NORMS),)),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    data=DataConfig(resolutions=SIZES),
)


@pytest.fixture
def folder(tmp_path):
    """Two pictures of noise, a square one and a wide one."""
    for number, size in enumerate(((80, 80), (160, 80))):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def prepared(world, folder, tmp_path, config=SETTINGS):
    from krona_train.session.material import Places, prepare

    pictures = read_pictures(PictureFiles(str(folder), "a photo of a thing"), config.data)
    with torch.inference_mode():
        return prepare(*world, pictures, config, Places(tmp_path / "cache", tmp_path / "class"), lambda *progress: None)


def test_a_training_at_several_sizes_says_them_and_goes_on_to_the_same_bits(world, folder, tmp_path):
    from krona_train.run.state import TrainState, newest
    from krona_train.session.material import Material
    from krona_train.session.training import HostTraining

    material = prepared(world, folder, tmp_path)
    assert [item.repeats for item in material.items] == [1, 4, 16] * 2
    assert material.resolution == 64
    assert material.notes == (
        "Sizes that are trained, each picture at every one: 48: 1 of 21, 96: 4 of 21, 128: 16 of 21.",
        "64 is the model's own size, whose weight is 0: it is not trained.",
        "1 of 2 pictures are smaller than 96 and are enlarged to it.",
        "2 of 2 pictures are smaller than 128 and are enlarged to it.",
    )
    sides = Counter(tuple(item.forms[0].latent.shape[1:]) for item in material.items)
    assert len(sides) > 3  # of each size, and of its shapes
    packed = Material.load(material.save(tmp_path / "encoded.safetensors"))
    assert [item.is_again for item in packed.items] == [False, True, True] * 2

    whole, _ = HostTraining(*world, packed, SETTINGS, "").run(tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert set(material.notes) <= set(next(row for row in rows if row["event"] == "started")["notes"])
    HostTraining(*world, material, replace(SETTINGS, steps=2), "").run(tmp_path / "parts")
    state = TrainState.load(newest(tmp_path / "parts"))
    again = prepared(world, folder, tmp_path)  # from the cache
    resumed, _ = HostTraining(*world, again, SETTINGS, "").run(tmp_path / "parts", resume=state)
    assert resumed.layers == whole.layers
    assert all(delta.dense().abs().max() > 0 for delta in whole.layers.values())

    other = replace(SETTINGS, data=DataConfig(resolutions=(48, 96)))
    with pytest.raises(ConfigError, match=r"The saved training has data\.resolutions = "):
        HostTraining(*world, prepared(world, folder, tmp_path, other), other, "").run(tmp_path / "parts", resume=state)


def test_sizes_that_do_not_fit_the_model_are_refused_before_anything_is_encoded(world, folder, tmp_path):
    with pytest.raises(DataError, match="The only size that is named, 64, is the model's own"):
        prepared(world, folder, tmp_path, replace(SETTINGS, data=DataConfig(resolutions=(64,))))
    from krona_train.session.material import trained_sizes

    class Wide:
        """A model whose latents stand for 32 pixels."""

        def get_model_object(self, name):
            assert name == "latent_format"
            return type("Format", (), {"spacial_downscale_ratio": 32})()

    data = read_pictures(PictureFiles(str(folder), "a photo"), DataConfig(resolutions=(96, 720)))
    with pytest.raises(DataError, match=r"720 is no multiple of 32, the pixels that one place.*Take 704 or 736"):
        trained_sizes(Wide(), data, 1024)
    plain = read_pictures(PictureFiles(str(folder), "a photo"), DataConfig())
    assert trained_sizes(Wide(), plain, 1024) == ((), {})
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("text", "sizes"), [("", ()), ("128, 256,384", (128, 256, 384)), (" 128 ; 256\n384 ", (128, 256, 384))]
)
def test_the_node_reads_sizes_with_commas(comfy, folder, text, sizes):
    from krona_pack.nodes.dataset import FROM_FILES, KronaDataset

    dataset, _ = KronaDataset.execute("a photo", folder=str(folder), captions=FROM_FILES, resolution=64, resolutions=text).args
    assert dataset.settings.resolutions == sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("128, big", r"resolutions: big is no size in pixels\. Write for example 128, 256"),
        ("128.5", r"128\.5 is no size in pixels"),
        ("-128", r"-128 is no size"),
        ("100", r"100 is no multiple of 8"),
        ("128 128", r"128 is named twice"),
    ],
)
def test_the_node_names_what_is_no_size(comfy, folder, text, message):
    from krona_pack.nodes.dataset import FROM_FILES, KronaDataset

    with pytest.raises(ConfigError, match=message):
        KronaDataset.execute("a photo", folder=str(folder), captions=FROM_FILES, resolution=0, resolutions=text)
