"""What goes wrong around a training, through the code that the nodes call: a clear error, and nothing that was there is lost."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from krona_ops import TargetRule, load
from krona_ops.errors import AdapterFileError, ConfigError, DataError, NonFiniteError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.config import DataConfig, PreviewConfig
from krona_train.run.events import Started, Stepped
from krona_train.run.state import TrainState, newest, states
from tools import tiny_models

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "krobot"
STEPS = 12
CONFIG = TrainConfig(
    steps=STEPS,
    save_every=3,
    optimizer=OptimizerConfig(learning_rate=5e-3, rate_by_width=0.0),
    data=DataConfig(resolution=64),
    preview=PreviewConfig(every=6, steps=1),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small sums are no faster with more, and other tests may want the other cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(comfy):
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(tiny_models.cached("sd15")))[:3]


@pytest.fixture
def pictures(tmp_path):
    shutil.copytree(SAMPLES, tmp_path / "krobot")
    return tmp_path / "krobot"


@pytest.fixture
def dataset(comfy):
    """What the dataset node gives for a folder."""
    from krona_pack.nodes.dataset import KronaDataset

    def _dataset(folder, prompt="a photo of sks robot", captions="from .txt files, else the prompt"):
        return KronaDataset.execute(prompt=prompt, folder=str(folder), captions=captions, resolution=64).args[0]

    return _dataset


@pytest.fixture
def train(models, monkeypatch, tmp_path):
    """The training of the node, with everything that it writes in a folder of this test."""
    import folder_paths
    from krona_pack.nodes.server.choices import HERE, NEW
    from krona_pack.nodes.server.training import train as _train

    (tmp_path / "output").mkdir()
    before = folder_paths.get_output_directory(), folder_paths.get_user_directory()
    folder_paths.set_output_directory(str(tmp_path / "output"))
    folder_paths.set_user_directory(str(tmp_path / "user"))

    def run(dataset, config=CONFIG, progress=lambda event: None, resume=NEW, model=None, name="robot"):
        own, clip, vae = models
        with torch.inference_mode():
            result = _train(
                model or own, clip, vae, dataset, config, name=name, resume=resume, where=HERE, progress=progress
            )  # fmt: skip
        return result.adapter.layers

    run.folder = tmp_path / "output" / "krona" / "robot"
    yield run
    folder_paths.set_output_directory(before[0])
    folder_paths.set_user_directory(before[1])


@pytest.fixture
def disk(tmp_path):
    """A real disk of 4 MB in place of the output folder; hands out a function that fills it and one that makes room."""
    output = tmp_path / "output"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(output)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    filler = output / "filler"

    def fill():
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    yield fill, filler.unlink
    subprocess.run(["umount", "--lazy", str(output)], check=True)


@pytest.fixture
def train_on_disk(train, disk):
    """As `train`, with the small disk in place."""
    return train


def at(moment, act):
    """A sink that does something once, when an event comes."""
    done = []

    def sink(event):
        if moment(event) and not done:
            done.append(event)
            act()

    return sink


def step(number):
    return lambda event: isinstance(event, Stepped) and event.step == number


def test_a_picture_that_is_gone_before_it_is_encoded_is_an_error_that_names_it(train, dataset, pictures):
    data = dataset(pictures)
    (pictures / "brick.jpg").unlink()
    with pytest.raises(DataError, match=r"krobot/brick\.jpg: The picture can no longer be read: .*Put it back"):
        train(data)
    assert not train.folder.exists()
    shutil.copy(SAMPLES / "brick.jpg", pictures)
    assert len(train(data, TrainConfig(steps=1, data=CONFIG.data))) == 8
    assert train.folder.exists()  # the first name, not the second


def test_a_caption_that_is_no_utf8_is_refused_with_its_name(dataset, pictures):
    (pictures / "brick.txt").write_bytes("ein Käfer".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"brick\.txt: The caption file cannot be read: 'utf-8' codec.*Save it as UTF-8, or delete it"
    ):
        dataset(pictures)
    assert len(dataset(pictures, captions="the prompt for every picture").pictures) == 5


def full_at(train, fill):
    """When the disk becomes full, and what has been kept by then."""
    metrics = train.folder / "metrics.jsonl"

    def fill_with_whole_pages():
        with metrics.open("a") as file:  # else the file's last page still has room
            file.write("\n" * (-metrics.stat().st_size % os.sysconf("SC_PAGE_SIZE")))
        fill()

    return {
        "at a state": (step(4), fill, 3),
        "at the metrics": (step(4), fill_with_whole_pages, 3),
        "at a preview": (step(5), fill, 4),
        "at the result": (step(11), fill, 9),
    }


@pytest.mark.parametrize("when", ["at a state", "at the metrics", "at a preview", "at the result"])
def test_a_full_disk_is_a_clear_error_and_what_was_saved_before_goes_on_bitwise(when, train_on_disk, disk, dataset, expected):
    train, (fill, make_room) = train_on_disk, disk
    moment, act, kept = full_at(train, fill)[when]
    config = TrainConfig(**{**vars(CONFIG), "save_every": 4 if when == "at a preview" else 3})  # a preview comes after a state
    with pytest.raises(AdapterFileError, match="cannot be written: No space left on device") as caught:
        train(dataset(SAMPLES), config, at(moment, act))
    assert str(train.folder) in str(caught.value)
    assert not list(train.folder.rglob("*.part"))
    assert not (train.folder / "adapter.safetensors").exists()
    make_room()
    assert TrainState.load(newest(train.folder)).step == kept
    assert f"What was trained is in {train.folder}; choose it in 'resume' to go on." in str(caught.value)
    assert train(dataset(SAMPLES), config, resume="robot") == expected
    assert len(states(train.folder)) == 2


@pytest.fixture(scope="module")
def expected(models, tmp_path_factory):
    """The adapter of a training in peace."""
    from krona_pack.nodes.dataset import KronaDataset

    from krona_train.session.material import Places, prepare
    from krona_train.session.training import HostTraining

    folder = tmp_path_factory.mktemp("peace")
    inputs = {"captions": "from .txt files, else the prompt", "resolution": 64}
    pictures = KronaDataset.execute(prompt="a photo of sks robot", folder=str(SAMPLES), **inputs).args[0]
    with torch.inference_mode():
        material = prepare(*models, pictures, CONFIG, Places(folder / "cache", folder / "class"), lambda *progress: None)
        return HostTraining(*models, material, CONFIG, "").run(folder / "run")[0].layers


def test_a_disk_that_is_full_from_the_start_is_a_clear_error(train_on_disk, disk, dataset):
    train, (fill, make_room) = train_on_disk, disk
    fill()
    events = []
    with pytest.raises(AdapterFileError, match=r"krona/robot: The run's folder cannot be written: No space left on device"):
        train(dataset(SAMPLES), CONFIG, events.append)
    assert events == []  # before the first step
    make_room()
    assert [path for path in train.folder.rglob("*") if path.is_file()] == []


def test_a_run_that_cannot_go_on_for_want_of_room_is_as_it_was(train_on_disk, disk, dataset, expected):
    train, (fill, make_room) = train_on_disk, disk
    short = TrainConfig(**{**vars(CONFIG), "steps": 5})
    train(dataset(SAMPLES), short)
    before = {path.name: path.read_bytes() for path in train.folder.iterdir() if path.is_file()}
    fill()
    with pytest.raises(AdapterFileError, match="No space left on device"):
        train(dataset(SAMPLES), CONFIG, resume="robot")
    make_room()
    assert {path.name: path.read_bytes() for path in train.folder.iterdir() if path.name in before} == before
    assert train(dataset(SAMPLES), CONFIG, resume="robot") == expected


def test_going_on_with_something_else_names_what_differs_and_changes_nothing(comfy, train, dataset, pictures):
    train(dataset(SAMPLES), TrainConfig(**{**vars(CONFIG), "steps": 3}))
    before = {path.name: path.read_bytes() for path in train.folder.iterdir() if path.is_file()}

    def refused(message, folder=SAMPLES, prompt="a photo of sks robot", model=None, **changes):
        with pytest.raises(ConfigError, match=message) as caught:
            train(dataset(folder, prompt), TrainConfig(**{**vars(CONFIG), **changes}), resume="robot", model=model)
        assert "choose it in 'resume'" not in str(caught.value)  # it cannot go on, so nobody shall be told to

    with torch.inference_mode():
        file = str(tiny_models.cached("sd15", clip=False, vae=False, seed=1))
        other = comfy.sd.load_checkpoint_guess_config(file, output_vae=False, output_clip=False)[0]
    refused("had another base model", model=other)
    rules = (TargetRule(factors=(32, 8)),)
    refused(r"has adapter\.targets = .*64, 4.*Set adapter\.targets back", adapter=AdapterConfig(targets=rules))
    refused("had other pictures or captions", prompt="another robot")
    (pictures / "brick.jpg").unlink()
    refused("had other pictures or captions", folder=pictures)
    shutil.copy(pictures / "grass.jpg", pictures / "brick.jpg")
    refused("had other pictures or captions", folder=pictures)
    refused(r"has data\.crops = 1", data=DataConfig(resolution=64, crops=2))
    refused(r"has optimizer\.learning_rate = 0\.005", optimizer=OptimizerConfig(learning_rate=1e-3))
    assert {path.name: path.read_bytes() for path in train.folder.iterdir() if path.is_file()} == before


def test_a_nan_in_step_seven_keeps_the_state_of_step_six(models, train, dataset, expected):
    bias = models[0].model.diffusion_model.out[2].bias
    kept = bias.clone()

    def poison():
        with torch.inference_mode():
            bias.fill_(torch.nan)

    try:
        with pytest.raises(NonFiniteError, match=r"loss became nan in step 7\. The factors of step 6 are kept.*choose it in"):
            train(dataset(SAMPLES), CONFIG, at(step(6), poison))
    finally:
        with torch.inference_mode():
            bias.copy_(kept)
    state = TrainState.load(newest(train.folder))
    assert state.step == 6
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())
    assert load(train.folder / "adapter-stopped-at-000006.safetensors").layers.keys() == expected.keys()
    assert train(dataset(SAMPLES), CONFIG, resume="robot") == expected


def test_an_interrupt_from_the_very_first_event_leaves_a_run_that_was_not_begun(train, dataset):
    def interrupt(event):
        if isinstance(event, Started):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset(SAMPLES), CONFIG, interrupt)
    assert newest(train.folder) is None
    assert not list(train.folder.glob("adapter*"))
