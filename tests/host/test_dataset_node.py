"""The node KronA Dataset, as the host calls it: what it refuses before anything runs, what it notices, what it gives."""

import inspect
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from krona_ops.errors import DataError

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "krobot"
OLD = ["prompt", "folder", "images", "captions", "resolution"]
NEW = [
    *("images_mask", "masks", "trigger", "class_prompt", "class_folder", "class_pictures", "repeats", "buckets", "crops"),
    *("flip", "caption_dropout", "shuffles", "keep_tags", "texts", "groups", "resolutions"),
]


@pytest.fixture(scope="module")
def node(comfy):
    from krona_pack.nodes.dataset import KronaDataset

    return KronaDataset


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(SAMPLES, tmp_path / "krobot")
    return tmp_path / "krobot"


def run(node, folder="", **changes):
    inputs = {
        "prompt": "a photo of sks robot", "captions": "from .txt files, else the prompt", "resolution": 64, **changes
    }  # fmt: skip
    return node.execute(folder=str(folder), **inputs).args


def test_old_inputs_are_as_saved_graphs_have_them_and_new_ones_come_last(node):
    inputs = node.define_schema().inputs
    assert [i.id for i in inputs] == OLD + NEW
    assert [getattr(i, "default", None) for i in inputs[:5]] == [
        *("a photo of sks dog", "", None, "from .txt files, else the prompt", 0)
    ]
    assert all(i.optional and i.advanced and i.tooltip for i in inputs[5:])
    assert inputs[3].options[:2] == ["from .txt files, else the prompt", "the prompt for every picture"]


def test_new_inputs_default_to_the_settings_of_the_trainer(node, folder):
    from krona_train.config import DataConfig

    dataset, preview = run(node, folder)
    assert dataset.settings == DataConfig(resolution=64)
    assert len(dataset.pictures) == 5
    assert dataset.missing_class_pictures == 0
    assert preview.ndim == 4
    defaults = {i.id: i.default for i in node.define_schema().inputs if hasattr(i, "default")}
    again, _ = run(node, folder, **{name: defaults[name] for name in NEW if name in defaults})
    assert again.settings == dataset.settings


def test_what_is_chosen_arrives_in_the_data_set(node, folder):
    chosen = {"buckets": False, "crops": 3, "flip": True, "masks": True, "caption_dropout": 0.1, "shuffles": 4, "keep_tags": 2}
    dataset, _ = run(node, folder, repeats=3, trigger="sks", class_pictures=7, class_folder=str(SAMPLES), **chosen)
    assert {name: getattr(dataset.settings, name) for name in chosen} == chosen
    assert {picture.repeats for picture in dataset.pictures} == {3}
    assert {picture.caption for picture in dataset.class_pictures} == {"a photo of robot"}
    assert dataset.missing_class_pictures == 2


def test_masks_from_the_graph_belong_to_the_pictures_from_the_graph(node, folder):
    mask = torch.zeros(1, 32, 48)
    mask[..., :20] = 1
    dataset, _ = run(node, folder, images=torch.rand(2, 32, 48, 3), images_mask=mask)
    assert [picture.mask is None for picture in dataset.pictures] == [True] * 5 + [False] * 2
    with pytest.raises(DataError, match="masks of 48 × 31 pixels are connected for 2 pictures of 48 × 32"):
        run(node, images=torch.rand(2, 32, 48, 3), images_mask=mask[:, 1:])


def test_a_folder_that_is_wrong_is_told_before_anything_runs(node, folder, tmp_path):
    """And nothing else: the host shows the sentence at each input that is looked at, so only one is."""
    assert inspect.getfullargspec(node.validate_inputs).args == ["cls", "folder"]
    assert node.validate_inputs(folder=str(folder)) is True
    assert node.validate_inputs(folder="  ") is True
    assert "There is no such folder" in node.validate_inputs(folder="nowhere")
    (empty := tmp_path / "empty").mkdir()
    assert "no pictures" in node.validate_inputs(folder=str(empty)).lower()


def test_each_node_looks_at_one_input_before_it_runs(comfy):
    """The host reports a mistake once for each input that a node's check names."""
    from krona_pack.nodes import extension

    checks = {
        cls.__name__: inspect.getfullargspec(cls.validate_inputs) for cls in extension.NODES if "validate_inputs" in vars(cls)
    }
    assert checks
    assert {name for name, spec in checks.items() if len(spec.args) > 2 or spec.varkw} == set()


@pytest.mark.parametrize("captions", ["from .txt files, else the prompt", "from .txt files, else from folder names"])
def test_what_else_is_wrong_is_told_when_the_node_runs(node, folder, captions):
    def refused(message, **inputs):
        with pytest.raises(DataError, match=message):
            run(node, folder, **{"captions": captions, **inputs})

    refused("There is no such folder", class_folder="nowhere", trigger="sks")
    refused("Fill in class_prompt", class_folder=str(SAMPLES))
    refused("There is no choice 'elsewhere' for captions", captions="elsewhere")
    Image.new("L", (10, 10)).save(folder / "beach-mask.png")
    run(node, folder, captions=captions)
    refused("The mask beach-mask.png has 10 × 10 pixels", masks=True)
    (folder / "beach.txt").write_bytes(b"\xff\xfe\x00\xd8")
    refused("beach.txt: The caption file cannot be read")
    run(node, folder, captions="the prompt for every picture")


def test_a_class_that_cannot_be_named_is_refused_before_hours_of_drawing(node, folder):
    with pytest.raises(DataError, match="Fill in class_prompt"):
        run(node, folder, class_pictures=100)
    with pytest.raises(DataError, match='The trigger "xyz" is not in the caption'):
        run(node, folder, class_pictures=100, trigger="xyz")


def test_changes_of_captions_masks_and_class_pictures_are_noticed(node, folder, tmp_path):
    others = tmp_path / "others"
    (others / "2_robot").mkdir(parents=True)
    shutil.copy(SAMPLES / "grass.jpg", others / "2_robot")

    def seen():
        return node.fingerprint_inputs(folder=str(folder), class_folder=str(others), prompt="x", masks=True)

    before = seen()
    assert seen() == before
    changes = [folder / "beach.txt", folder / "beach-mask.png", folder / "more.png", others / "2_robot" / "grass.txt"]
    for path in changes:
        path.write_bytes(b"new")
        assert seen() != before
        before = seen()
    mask = folder / "beach-mask.png"
    mask.write_bytes(b"old")  # as long as before, and later, however coarse the disk's clock is
    os.utime(mask, ns=(mask.stat().st_atime_ns, mask.stat().st_mtime_ns + 2_000_000_000))
    assert seen() != before
    assert node.fingerprint_inputs(folder="", class_folder=None) == []
