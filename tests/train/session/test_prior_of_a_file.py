"""Class pictures mean the same in a run.yaml as in a graph: they are trained on, unless something else is said."""

from pathlib import Path

import pytest

from krona_train.config import DataConfig, PriorConfig, TrainConfig
from krona_train.data.choices import PictureFiles
from krona_train.data.pictures import Dataset, Picture
from krona_train.data.source import unused_class_pictures
from krona_train.run.job import Job, load_job, to_text
from krona_train.session.choices import Settings

PLAIN, FOLDER, COUNT = (
    "{folder: a}",
    "{folder: a, class_folder: b, class_prompt: c}",
    "{folder: a, class_count: 9, class_prompt: c}",
)


def prior_of(pictures, training, folder):
    (folder / "run.yaml").write_text(f"pictures: {pictures}\ntraining: {training}\n")
    return load_job(folder / "run.yaml").training.prior


@pytest.mark.parametrize(
    ("pictures", "training", "prior"),
    [
        (PLAIN, "{}", PriorConfig()),
        (FOLDER, "{}", PriorConfig(1.0, "pictures")),
        (COUNT, "{steps: 9}", PriorConfig(1.0, "pictures")),
        (FOLDER, "{prior: {weight: 0.5}}", PriorConfig(0.5, "pictures")),
        (PLAIN, "{prior: {weight: 0.5}}", PriorConfig(0.5, "model")),
        (FOLDER, "{prior: {weight: 0}}", PriorConfig(0.0, "model")),
        (FOLDER, "{prior: {weight: 0.5, source: model}}", PriorConfig(0.5, "model")),
    ],
)
def test_class_pictures_switch_the_prior_on_where_nothing_else_is_said(pictures, training, prior, tmp_path):
    assert prior_of(pictures, training, tmp_path) == prior


@pytest.mark.parametrize("has_class", [False, True])
@pytest.mark.parametrize("choice", ["auto", "off", "model", "pictures"])
def test_a_file_means_what_the_graph_that_wrote_it_meant(choice, has_class, tmp_path):
    dataset = Dataset((), settings=DataConfig(), class_count=9 * has_class)
    config = Settings(prior=choice, prior_weight=0.5).applied_to(TrainConfig(), dataset)
    pictures = PictureFiles("/a", class_folder="/b" * has_class, class_count=9 * has_class)
    (tmp_path / "run.yaml").write_text(to_text(Job(pictures=pictures, training=config)))
    assert load_job(tmp_path / "run.yaml").training.prior == config.prior


def test_class_pictures_that_another_prior_leaves_unused_are_named():
    dataset = Dataset((), class_pictures=(Picture(Path("b.png"), "a dog", "b.png"),))
    assert unused_class_pictures(dataset, PriorConfig(1.0, "pictures")) == ()
    assert unused_class_pictures(Dataset(()), PriorConfig()) == ()
    [off] = unused_class_pictures(dataset, PriorConfig())
    [other] = unused_class_pictures(dataset, PriorConfig(1.0, "model"))
    assert off.text() == "Class pictures are not used (1), the prior is off: b.png"
    assert other.text() == "Class pictures are not used (1), the prior is the model's own prediction: b.png"
