"""The node KronA Prompts, as the host calls it: where its prompts come from, what it refuses, what it gives."""

import pytest
import torch
from PIL import Image

from krona_ops.errors import ConfigError, DataError
from krona_train.config import DataConfig
from krona_train.data.pictures import Dataset, from_tensor
from krona_train.data.prompts import built_in_prompts
from krona_train.data.source import read_pictures
from krona_train.run.job import Job, load_job, to_text


@pytest.fixture(scope="module")
def node(comfy):
    from krona_pack.nodes.prompts import KronaPrompts

    return KronaPrompts


@pytest.fixture
def inputs(comfy, monkeypatch, tmp_path):
    """The host's input folder, and a file of prompts in it."""
    import folder_paths

    (tmp_path / "input").mkdir()
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    (tmp_path / "input" / "p.txt").write_text("# mine\na red cat\n\na dog\n", encoding="utf-8")
    return tmp_path / "input"


def run(node, prompts="", count=0, seed=0, **changes):
    return node.execute(prompts, count, seed, **changes).args


def test_lines_a_file_captions_or_the_built_in_list(node, inputs):
    made, report = run(node, "a red cat\n# no\n\na dog\na red cat")
    assert made.prompts == ("a red cat", "a dog")
    assert report == "2 prompts.\na red cat\na dog"
    assert run(node, file="p.txt")[0].prompts == ("a red cat", "a dog")
    assert run(node, file=str(inputs / "p.txt"))[0].prompts == ("a red cat", "a dog")
    pictures = from_tensor(torch.rand(3, 16, 16, 3), "a photo of sks dog")
    settings = DataConfig(resolution=64, masks=True, flip=True, caption_dropout=0.2, shuffles=3, keep_tags=2)
    made, report = run(node, dataset=Dataset(pictures, settings=settings))
    assert (made.prompts, made.pictures, report) == (("a photo of sks dog",), (), "1 prompt.\na photo of sks dog")
    assert made.settings == DataConfig(resolution=64, caption_dropout=0.2, shuffles=3, keep_tags=2)
    made, report = run(node)
    assert made.prompts == built_in_prompts()
    assert report.splitlines()[0] == "300 prompts."
    assert report.splitlines()[1:] == [*built_in_prompts()[:5], "…"]


def test_so_many_are_drawn_by_the_seed_and_made_so_large(node):
    made, _ = run(node, count=7, seed=2, width=96, height=64)
    assert len(made.prompts) == 7
    assert set(made.prompts) < set(built_in_prompts())
    assert run(node, count=7, seed=3)[0].prompts != made.prompts
    assert (made.width, made.height) == (96, 64)
    with pytest.raises(DataError, match="3 prompts are wanted, and there are 2"):
        run(node, "a\nb", count=3)


def test_a_runs_file_can_make_the_same_data_set_again(node, inputs):
    given = Dataset(from_tensor(torch.rand(1, 16, 16, 3), "a cat"))
    made = [run(node, "a\nb\nc", 2, 5, width=64)[0], run(node, file="p.txt")[0], run(node, count=9)[0], run(node, dataset=given)[0]]
    for each in made:
        (inputs / "run.yaml").write_text(to_text(Job(pictures=each.source)), encoding="utf-8")
        again = read_pictures(load_job(inputs / "run.yaml").pictures, each.settings)
        assert (again.prompts, again.width, again.height) == (each.prompts, each.width, each.height)
    assert run(node, "\n".join(map(str, range(5_001))))[0].source is None
    assert run(node, "\n".join(str(n) * 100 for n in range(1_000)))[0].source is None


def test_what_is_wrong_is_said(node, inputs):
    with pytest.raises(ConfigError, match="The prompts come from prompts and file, and can come from one place"):
        run(node, "a cat", file="p.txt")
    with pytest.raises(ConfigError, match="from file and dataset"):
        run(node, file="p.txt", dataset=run(node)[0])
    with pytest.raises(DataError, match="There are no prompts"):
        run(node, "# nothing but this")
    (inputs / "bad.txt").write_bytes(b"caf\xe9")
    for name, message in {"nowhere.txt": "There is no such file", "bad.txt": "is no UTF-8", "p.jpg": "is a .txt file"}.items():
        assert message in node.validate_inputs(file=name)
        with pytest.raises(DataError) as refused:
            run(node, file=str(inputs / name))
        assert str(inputs) not in str(refused.value)
    assert node.validate_inputs(file=" ") is node.validate_inputs() is node.validate_inputs(file="p.txt") is True


def test_a_file_that_has_changed_is_read_again(node, inputs):
    before = node.fingerprint_inputs(file="p.txt")
    assert node.fingerprint_inputs(file="p.txt", prompts="") == before
    (inputs / "p.txt").write_text("another one, longer than it was before")
    assert node.fingerprint_inputs(file="p.txt") != before
    assert node.fingerprint_inputs(file="") is node.fingerprint_inputs(file="nowhere.txt") is None


def test_a_server_for_others_reads_no_file_elsewhere(node, inputs, monkeypatch, tmp_path):
    import comfy.cli_args

    (tmp_path / "secret.txt").write_text("a secret")
    (inputs / "link.txt").symlink_to(tmp_path / "secret.txt")
    assert run(node, file=str(tmp_path / "secret.txt"))[0].prompts == ("a secret",)
    monkeypatch.setattr(comfy.cli_args.args, "listen", "0.0.0.0")
    for name in (str(tmp_path / "secret.txt"), "../secret.txt", "link.txt", str(tmp_path / "nowhere.txt")):
        with pytest.raises(DataError, match="This server reads data sets from ComfyUI's own folders only"):
            run(node, file=name)
        assert "own folders only" in node.validate_inputs(file=name)
    assert run(node, file="p.txt")[0].prompts == ("a red cat", "a dog")


def test_captions_of_the_node_krona_dataset_become_prompts(node, comfy, tmp_path):
    from krona_pack.nodes.dataset import KronaDataset

    for name in ("a", "b"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a photo of {name}")
    given = KronaDataset.execute(prompt="x", folder=str(tmp_path), captions="from .txt files, else the prompt", resolution=64).args[0]
    made, _ = run(node, dataset=given)
    assert made.prompts == ("a photo of a", "a photo of b")
    assert made.resolution == 64
    again, _ = run(node, dataset=run(node, dataset=made, width=96, height=32)[0], count=1, height=48)
    assert again.prompts[0] in made.prompts
    assert (again.width, again.height) == (96, 48)
