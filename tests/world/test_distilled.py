"""Distilled adapters of the small world: prompts, recipes, and what is measured of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.world.draw import draw
from benchmarks.world.grammar import Scene
from benchmarks.world.judge_distilled import JUDGED, WAYS, Drawn, Gallery, Way, drawn_as_learnt, written
from benchmarks.world.train_distilled import RECIPES, Asked, asked, settings
from krona_ops import Adapter
from krona_train.config import from_yaml, to_yaml
from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.kinds import objective_of
from krona_train.run.metadata import describe


@pytest.fixture(scope="module")
def gallery(comfy):
    return Gallery(prompts=2, seeds=2)


@pytest.fixture(scope="module")
def one_step(gallery):
    return gallery.draw(gallery.model, WAYS["base"])


def test_prompts_to_judge_with_are_drawn_apart_from_those_that_are_learnt():
    learnt, judged = ([asked(stream, n).text for n in range(40)] for stream in (0, JUDGED))
    assert learnt == [asked(0, n).text for n in range(40)]
    assert learnt != judged
    assert len(set(learnt)) > 35
    assert Asked("robot", "red", Scene("waving", "hat", "beach", "night")).text == (
        "a photo of a red robot waving with a hat on the beach at night"
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_training_that_can_be_written(name):
    config = settings(RECIPES[name], RECIPES[name].steps)
    assert from_yaml(to_yaml(config)) == config
    assert objective_of(config.objective, config.prior).name == config.objective.kind


def test_errors_on_held_out_drawings_are_those_of_the_sampler_that_was_learnt_from():
    way = {"sampler": "dpmpp_2m", "scheduler": "karras"}
    recipe = replace(RECIPES["guidance"], objective=GuidanceConfig(**way))
    about = describe(settings(recipe, 20), name="g", family="small world", captions=(), resolution=64)
    how = drawn_as_learnt(Adapter({}, about), 5.0)
    assert (how.sampler, how.scheduler, how.lowest, how.highest) == ("dpmpp_2m", "karras", 5.0, 5.0)
    older = json.loads(about["krona.config"])
    older["objective"] = {name: value for name, value in older["objective"].items() if name not in way}
    how = drawn_as_learnt(Adapter({}, {"krona.config": json.dumps(older)}), 5.0)
    assert (how.sampler, how.scheduler) == ("euler", "normal")


def test_a_part_takes_the_place_of_its_row(tmp_path):
    file = tmp_path / "distilled.json"
    written(file, [{"part": "pairs-mse", "n": 1}, {"part": "base", "n": 1}], {"benchmark": "distilled"})
    written(file, [{"part": "teacher", "n": 2}, {"part": "base", "n": 2}], {"benchmark": "distilled"})
    rows = json.loads(file.read_text())["trials"]
    assert rows == [{"part": "teacher", "n": 2}, {"part": "base", "n": 2}, {"part": "pairs-mse", "n": 1}]


def test_the_teacher_draws_what_the_world_is_drawn_with(gallery):
    prompts = [each.text for each in gallery.asked]
    pictures = draw(gallery.model, gallery.clip, gallery.vae, prompts, range(len(prompts)))
    ours = gallery.draw(gallery.model, WAYS["teacher"])
    assert np.abs(ours.pictures.astype(int) - pictures).max() <= 1
    assert WAYS["teacher"].calls == 24
    assert (Way(1).calls, Way(3, 2.0).calls) == (1, 6)
    row = gallery.row(ours, ours)
    assert row["latents_error"] == row["pixels_error"] == 0
    assert row["accuracy"] >= 0.75
    assert row["accuracy 95 %"][0] <= row["accuracy"] <= row["accuracy 95 %"][1]
    assert row["agreement 95 %"][0] < row["agreement"] < row["agreement 95 %"][1]


def test_a_blurred_picture_has_less_high_frequencies(gallery, one_step):
    sharp = gallery.row(one_step, one_step)
    small = torch.from_numpy(one_step.pictures).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(small, 4), scale_factor=4.0, mode="bilinear")
    blurred = gallery.row(Drawn(one_step.latents, small.permute(0, 2, 3, 1).round().byte().numpy()), one_step)
    assert blurred["frequencies"] < sharp["frequencies"]
    assert blurred["mirrored"] < 0.5 * sharp["mirrored"]
    assert blurred["latents_error"] == 0 < blurred["pixels_error"]


def test_pictures_vary_where_their_noise_does(gallery, one_step):
    assert gallery.row(one_step, one_step)["diversity"] > 1e-4
    same = Drawn(one_step.latents, np.repeat(one_step.pictures[::2], 2, axis=0))
    assert gallery.row(same, one_step)["diversity"] == 0
