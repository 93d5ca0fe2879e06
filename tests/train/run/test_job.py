"""A training as a file: what is written is read back, paths start at the file's folder, and what is wrong is said in one line."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from krona_ops import TargetRule
from krona_ops.errors import ConfigError, DataError, KronaError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.config import DataConfig
from krona_train.data.choices import PictureFiles
from krona_train.data.source import read_pictures
from krona_train.run.job import Job, ModelFiles, load_job, to_text
from krona_train.settings.typed_in import typed_path

ROBOTS = Path(__file__).resolve().parents[3] / "samples" / "krobot"


def load(text, folder):
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_job(path)


def test_what_a_run_writes_is_what_another_reads(tmp_path):
    rules = (TargetRule(factors=(8, 4), pattern="attn1", rate=0.5), TargetRule())
    training = TrainConfig(
        steps=7,
        adapter=AdapterConfig(targets=rules),
        optimizer=OptimizerConfig(learning_rate=1e-7, betas=(0.5, 0.9)),
        data=DataConfig(resolution=64),
    )
    job = Job(
        name='a "robot": #1 \U0001f916',
        output=str(tmp_path),
        comfyui=str(tmp_path / "ComfyUI"),
        model=ModelFiles(diffusion_model="/m.safetensors", text_encoders=("/a", "/b c"), clip_type="FLUX", vae="/v"),
        pictures=PictureFiles("/p", "a photo: sks, robot", "folders", "sks", "a robot", "/c", 3, 2),
        training=training,
    )
    assert load(to_text(job), tmp_path) == job


def test_paths_start_at_the_files_folder_and_home_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("USERPROFILE", "/home/somebody")
    folder = tmp_path / "jobs"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)  # where the command is typed does not matter
    (folder / "run.yaml").write_text(
        "comfyui: ../ComfyUI\noutput: runs\n"
        "model: {checkpoint: ~/models/a.safetensors}\n"
        "pictures: {folder: robot, class_folder: /elsewhere/robots}\n"
    )
    for path in (folder / "run.yaml", Path("jobs/run.yaml")):
        job = load_job(path)
        assert job.model.checkpoint == "/home/somebody/models/a.safetensors"
        assert job.model.vae == ""
        assert Path(job.comfyui).resolve() == tmp_path / "ComfyUI"
        assert (job.output, job.pictures.folder) == (str(folder / "runs"), str(folder / "robot"))
        assert job.pictures.class_folder == "/elsewhere/robots"
    parts = load("model: {diffusion_model: d, text_encoders: [t, ../u], vae: v}", folder).model
    assert parts.text_encoders == (str(folder / "t"), str(folder / "../u"))
    assert (parts.diffusion_model, parts.vae) == (str(folder / "d"), str(folder / "v"))
    assert load("pictures: {prompts_file: p.txt}", folder).pictures.prompts_file == str(folder / "p.txt")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{prompts: [a red cat, 'a: b']}", PictureFiles(prompts=("a red cat", "a: b"))),
        ("{prompts: built-in, prompt_count: 3, prompt_seed: 4}", PictureFiles(prompts="built-in", prompt_count=3, prompt_seed=4)),
        ("{prompts_file: /p.txt, width: 64, height: 32}", PictureFiles(prompts_file="/p.txt", width=64, height=32)),
        ("{folder: /a, groups: true, prompts: captions}", PictureFiles("/a", groups=True, prompts="captions")),
    ],
)
def test_prompts_are_written_and_read_in_the_place_of_pictures(written, expected, tmp_path):
    job = load(f"pictures: {written}", tmp_path)
    assert job.pictures == expected
    assert job.pictures.is_of_prompts
    assert load(to_text(job), tmp_path).pictures == expected
    assert not load("pictures: {folder: /a}", tmp_path).pictures.is_of_prompts


def test_without_an_output_runs_are_beside_the_file(tmp_path):
    assert load("name: robot", tmp_path).output == str(tmp_path)


WRONG = {
    "an unknown setting": ("trainign: {steps: 3}", "no setting trainign.*Check its spelling"),
    "an unknown setting inside": ("training: {optimizer: {lr: 3}}", r"no setting training\.optimizer\.lr"),
    "a text for a number": ("training: {steps: many}", r"training\.steps is 'many'"),
    "a number for a text": ("name: 5", "name is 5"),
    "nothing for a part": ("model:", "model is None"),
    "a list for a part": ("pictures: [a]", r"pictures is \['a'\]"),
    "a number out of range": ("training: {steps: 0}", "steps is 0"),
    "settings that do not go together": ("training: {validation: {patience: 3}}", "needs a validation loss"),
    "two models": ("model: {checkpoint: a, diffusion_model: b}", "Both a checkpoint and a diffusion model"),
    "a choice that is none": ("pictures: {captions: everywhere}", r"pictures\.captions is 'everywhere'"),
    "no YAML": ("name: [", "no YAML"),
    "a tab": ("model:\n\tcheckpoint: a", "no YAML"),
    "a list": ("- a\n- b", "holds no settings"),
    "a text": ("hello", "holds no settings"),
    "a day that no month has": ("name: 2024-13-45", "no YAML of settings: month must be in 1..12"),
    "numbers for names": ("1: 2\nb: 3", "1|no YAML of settings"),
    "a Python object": ("name: !!python/object/apply:os.getcwd []", "no YAML: could not determine a constructor"),
    "an anchor that is not there": ("name: *x", "no YAML: found undefined alias"),
    "bytes that are no text": (
        b"name: \xff\xfe",
        "cannot be read: it is text in another encoding: byte 7, in line 1, is no UTF-8",
    ),
    "a zero": (b"name: a\x00b", "no YAML"),
    "UTF-16, as PowerShell writes it": ("name: K\u00e4fer".encode("utf-16"), r"it is text in UTF-16 .*Save it as UTF-8"),
    "UTF-16 without a mark": ("name: a".encode("utf-16-be"), r"it is text in UTF-16 .*Save it as UTF-8"),
    "Latin-1": (
        "name: a\nname: K\u00e4fer".encode("latin-1"),
        r"it is text in another encoding: byte 16, in line 2, is no UTF-8",
    ),
    "no name": ("name: ''", "name is ''; it must be a text that a folder can be called"),
    "a name of blanks": ('name: "  "', "name is '  '"),
    "a name of nothing but a path": ("name: ../..", r"name is '\.\./\.\.'"),
    "a setting that comes twice": ("training: {steps: 3, steps: 5}", "no YAML: steps is named twice in line 1"),
    "a Windows path in double quotes": (
        'model: {checkpoint: "C:\\pictures"}',
        "unknown escape character .* without quotes, or with /",
    ),
    "repeats of zero": ("pictures: {repeats: 0}", r"pictures\.repeats is 0; it must be from 1 to 10000"),
    "class pictures below zero": ("pictures: {class_count: -3}", r"pictures\.class_count is -3; it must be from 0 to 10000"),
    "pictures and prompts": ("pictures: {folder: a, prompts: [b]}", "comes from one place; here it would come from folder and prompts"),
    "prompts twice": ("pictures: {prompts_file: a, prompts: built-in}", "from prompts and prompts_file"),
    "a folder and a file of prompts": ("pictures: {prompts_file: a, folder: b}", "from folder and prompts_file"),
    "prompts and class pictures": ("pictures: {prompts: [b], class_count: 3}", "from prompts and class_count"),
    "captions of class pictures": ("pictures: {folder: a, prompts: captions, class_folder: c}", "folder and prompts and class_folder"),
    "captions of no folder": ("pictures: {prompts: captions}", "no folder with pictures is named"),
    "a prompt that is no list": (
        "pictures: {prompts: a red cat}",
        r"pictures\.prompts is 'a red cat'; it must be a list, each a text or one of built-in, captions",
    ),
    "a number among prompts": ("pictures: {prompts: [a, 3]}", r"pictures\.prompts\[1\] is 3; it must be a text"),
    "a rate that is no number": (
        "training: {optimizer: {learning_rate: .nan}}",
        r"training\.optimizer\.learning_rate is nan; it must be above 0",
    ),
    "a rate of infinity": ("training: {optimizer: {learning_rate: 1e999}}", r"learning_rate is inf; it must be above 0, to 1"),
    "a rate of four hundred digits": (
        f"training: {{optimizer: {{weight_decay: {'9' * 400}}}}}",
        r"weight_decay is inf; it must be from 0 to 10",
    ),
    "a seed of five thousand digits": (f"training: {{seed: 0x{'f' * 5000}}}", r"training\.seed is a number of 20000 bits"),
    "a rule's rate below zero": (
        "training: {adapter: {targets: [{rate: -1}]}}",
        r"training\.adapter\.targets\[0\]\.rate is -1\.0; it must be from 0",
    ),
    "a decay that never forgets": (
        "training: {optimizer: {betas: [0.9, 1.0]}}",
        r"training\.optimizer\.betas is \(0\.9, 1\.0\); it must be from 0, below 1",
    ),
    "a list for a choice": (
        "training: {objective: {levels: [a]}}",
        r"levels is \['a'\]; it must be one of uniform, logit_normal",
    ),
}


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_mark_of_utf8_at_the_start_is_no_part_of_the_text(mark, tmp_path):
    assert load(mark + "name: K\u00e4fer\n".encode(), tmp_path).name == "K\u00e4fer"


@pytest.mark.parametrize("quotes", ['""', "''", "\u201c\u201d"])
def test_paths_in_the_quotes_that_copying_leaves_around_them_are_meant_without(quotes, tmp_path):
    before, after = quotes
    path = f"{before}/models/my model.safetensors{after}"
    job = load(
        yaml.safe_dump(
            {
                "output": f" {before}runs{after} ",
                "start": path,
                "model": {"diffusion_model": path, "vae": path, "text_encoders": [path]},
                "pictures": {"folder": path, "class_folder": path},
            }
        ),
        tmp_path,
    )
    named = (job.start, job.model.diffusion_model, job.model.vae, *job.model.text_encoders)
    assert {*named, job.pictures.folder, job.pictures.class_folder} == {"/models/my model.safetensors"}
    assert job.output == str(tmp_path / "runs")
    assert load(f"pictures: {{folder: {before}{after}}}" if before != after else "{}", tmp_path).pictures.folder == ""
    assert typed_path("it's") == "it's"


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_file_is_said_with_its_name(what, tmp_path):
    text, message = WRONG[what]
    with pytest.raises(ConfigError, match=rf"(?s)^{tmp_path}/run\.yaml: .*({message})"):
        load(text, tmp_path)


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path):
    for path in (tmp_path / "nowhere.yaml", tmp_path, tmp_path / "nowhere" / "run.yaml"):
        with pytest.raises(ConfigError, match=rf"{path}: The file cannot be read: "):
            load_job(path)


def test_an_empty_file_is_a_job_of_defaults_that_lacks_its_pictures(tmp_path, monkeypatch):
    job = load("", tmp_path)
    assert job.training == TrainConfig()
    monkeypatch.chdir(ROBOTS)  # which has pictures: an empty name must not mean the folder in which one stands
    with pytest.raises(DataError, match="No folder with pictures is named"):
        read_pictures(job.pictures, job.training.data)


def test_the_pictures_of_a_job_are_those_of_its_folders(tmp_path):
    for name in ("robot", "others"):
        shutil.copytree(ROBOTS, tmp_path / name)
    (tmp_path / "robot" / "beach.txt").write_text("sks robot on a beach")
    text = """
pictures: {folder: robot, prompt: a photo of sks robot, trigger: sks, class_folder: others, class_count: 9, repeats: 3}
training: {data: {resolution: 64}}
"""
    job = load(text, tmp_path)
    dataset = read_pictures(job.pictures, job.training.data)
    assert sorted({picture.caption for picture in dataset.pictures}) == ["a photo of sks robot", "sks robot on a beach"]
    assert {picture.repeats for picture in dataset.pictures} == {3}
    assert {picture.caption for picture in dataset.class_pictures} == {dataset.class_caption}
    assert (dataset.resolution, dataset.missing_class_pictures) == (64, 9 - len(dataset.class_pictures))
    assert {picture.source.parent for picture in dataset.class_pictures} == {tmp_path / "others"}


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ("{folder: nowhere, prompt: a}", "nowhere: There is no such folder"),
        ("{folder: robot}", "The prompt is empty"),
        ("{folder: robot, prompt: a, class_folder: nowhere, class_prompt: b}", "nowhere: There is no such folder"),
        ("{folder: robot, prompt: a, class_folder: robot}", "needs the name of that class"),
        ("{folder: latin, prompt: a}", r"latin/beach\.txt: The caption file cannot be read.*Save it as UTF-8"),
    ],
)
def test_pictures_that_cannot_be_used_are_clear_errors(pictures, message, tmp_path):
    for name in ("robot", "latin"):
        shutil.copytree(ROBOTS, tmp_path / name)
    (tmp_path / "latin" / "beach.txt").write_bytes("ein Käfer".encode("latin-1"))
    job = load(f"pictures: {pictures}", tmp_path)
    with pytest.raises(KronaError, match=message):
        read_pictures(job.pictures, job.training.data)


def test_every_setting_of_a_job_has_a_word_about_it_and_plain_values(tmp_path):
    written = yaml.safe_load(to_text(Job()))
    assert list(written) == [field.name for field in dataclasses.fields(Job)]
    assert load(yaml.safe_dump(written), tmp_path) == dataclasses.replace(Job(), output=str(tmp_path))
