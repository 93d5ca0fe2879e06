"""The base with two levels, pictures of other sizes, and the adapters that learn them."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import quality
from benchmarks.pages import quality as page
from benchmarks.world import autoencoder, summary
from benchmarks.world.draw import draw
from benchmarks.world.judge_resolutions import Gallery, for_the_judges, written
from benchmarks.world.pictures import for_training, held_out, picture
from benchmarks.world.pretrain import Base, layers_that_matter, part, start_two_levels, with_text, write_two_levels
from benchmarks.world.train_resolutions import RECIPES, settings
from krona_ops.errors import AdapterFileError
from krona_train.adapters.targets import targets_of
from krona_train.config import from_yaml, to_yaml


@pytest.fixture(scope="module")
def world(comfy):
    from krona_host.model import small_world as world

    return world


@pytest.fixture(scope="module")
def one_level(world):
    """The shipped base, as its training has it, and the latents and captions of a few pictures."""
    weights = {name: tensor.float() for name, tensor in load_file(world.FILE).items()}
    shots = [for_training(n) for n in range(16)]
    vae = world.build_vae(part(weights, "vae.")).first_stage_model
    ids = weights[world.IDS].tolist()
    place = {token: n for n, token in enumerate(ids)}
    lines = [[token for token, *_ in world.build_clip().tokenize(shot.caption)["l"][0]] for shot in shots]
    base = with_text(world, Base(world, len(ids)), weights)
    base.unet.load_state_dict(part(weights, "unet."))
    latents = autoencoder.encode(vae, np.stack([picture(shot) for shot in shots]))
    return base, latents, torch.tensor([[place[token] for token in line] for line in lines])


@pytest.fixture(scope="module")
def started(world, one_level):
    """The base of two levels as its training begins."""
    weights = {name: tensor.float() for name, tensor in load_file(world.FILE).items()}
    base = with_text(world, Base(world, len(weights[world.IDS]), "two levels"), weights)
    start_two_levels(base.unet, one_level[0].unet, layers_that_matter(*one_level))
    return base


@pytest.fixture(scope="module")
def loaded(world, started, tmp_path_factory):
    file = tmp_path_factory.mktemp("two") / "world.safetensors"
    shutil.copy(world.FILE, file)
    write_two_levels(started, file.with_name(world.TWO_LEVELS))
    with torch.inference_mode():
        return file, world.load_world(file, base="two levels")


@pytest.mark.parametrize(("side", "most"), [(48, 6.0), (96, 3.0), (128, 2.0)])
def test_a_picture_of_another_size_is_the_same_picture(side, most):
    for n in range(0, 12, 4):
        own, other = picture(held_out(n)), picture(held_out(n), side)
        assert other.shape == (side, side, 3)
        far = np.abs(for_the_judges(other[None])[0].astype(int) - own).mean()
        stranger = np.abs(picture(held_out(n + 4)).astype(int) - own).mean()
        assert far < most < stranger


def test_pictures_of_the_judges_own_size_reach_them_as_they_are():
    own = picture(held_out(0))[None]
    assert for_the_judges(own) is own


def test_the_base_with_two_levels_begins_near_the_trained_one(one_level, started):
    """An error of v that hardly rises; a base of random weights has one of about 1."""
    base, latents, tokens = one_level
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    told = torch.arange(len(latents)) * 1000 // len(latents)
    with torch.no_grad():
        trained, begins = (float(each(latents, noise, told, tokens)) for each in (base, started))
    assert trained < begins < trained + 0.1


def test_the_lower_level_changes_nothing_at_first(started):
    """Only the blur of what comes back from it does: with other features down there, the same prediction."""
    rng = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 32, 8, 8, generator=rng), torch.randn(2, 24, 128, generator=rng)
    told = torch.tensor([100.0, 800.0])
    unet = started.unet
    with torch.no_grad():
        before = unet(x, told, context=context)
        layer = unet.input_blocks[3][0].in_layers[2].weight
        kept = layer.clone()
        layer.zero_()
        after = unet(x, told, context=context)
        layer.copy_(kept)
    assert torch.equal(before, after)


def test_the_second_base_has_a_downsampler_and_an_upsampler_and_draws_at_every_size(world, loaded):
    _, parts = loaded
    names = parts[0].model.state_dict()
    assert {name for name in names if name.endswith((".op.weight", ".conv.weight"))} == {
        "diffusion_model.input_blocks.2.0.op.weight", "diffusion_model.output_blocks.1.1.conv.weight"
    }  # fmt: skip
    for side in (48, 96):
        drawn = draw(*parts, ["a photo of a cat in the city by day"], [1], side=side)
        assert drawn.shape == (1, side, side, 3)


def test_the_shipped_second_base_draws_what_it_is_asked_for_at_its_own_size_and_less_of_it_at_others(comfy):
    gallery = Gallery(12)
    rows = {side: gallery.row(gallery.drawn(gallery.model, side)) for side in (64, 96)}
    assert rows[64]["mean"] >= 0.95
    assert rows[96]["mean"] <= 0.85
    assert gallery.row(gallery.real(96))["mean"] >= 0.98


def test_the_file_of_the_second_base_is_small_and_named_where_it_is_missing(world, loaded, tmp_path):
    file, _ = loaded
    for shipped in (file, world.FILE):
        assert shipped.with_name(world.TWO_LEVELS).stat().st_size <= 12e6
    shutil.copy(world.FILE, tmp_path / "world.safetensors")
    with pytest.raises(AdapterFileError, match=r"two-levels\.safetensors"):
        world.load_world(tmp_path / "world.safetensors", base="two levels")


@pytest.mark.parametrize(("name", "count"), [("norms", 24), ("convolutions", 2), ("both", 26), ("attention", 48)])
def test_a_recipe_trains_these_layers_and_can_be_written(loaded, name, count):
    from krona_train.comfyui.model import ComfyBackbone

    config = settings(RECIPES[name], RECIPES[name].steps)
    assert from_yaml(to_yaml(config)) == config
    model = loaded[1][0]
    targets = targets_of(ComfyBackbone(model, guidance=0.0), config.adapter)
    assert len(targets) == count


def test_a_row_takes_the_place_of_that_of_the_same_part_and_size(tmp_path):
    file, about = tmp_path / "resolutions.json", {"benchmark": "resolutions"}
    written(file, [{"part": "both", "side": 96, "n": 1}, {"part": "base", "side": 96, "n": 1}], about)
    written(file, [{"part": "base", "side": 96, "n": 2}, {"part": "base", "side": 48, "n": 2}], about)
    rows = json.loads(file.read_text())["trials"]
    assert [(row["part"], row["side"], row["n"]) for row in rows] == [("base", 48, 2), ("base", 96, 2), ("both", 96, 1)]


def of(part, side, mean):
    return {"part": part, "side": side, "mean": mean, "kind": mean - 0.1}


def test_the_headline_says_what_share_of_the_lost_accuracy_came_back():
    rows = [
        of("base", 64, 0.9), of("base", 96, 0.5), of("base", 48, 0.7), of("both", 96, 0.8), of("both", 48, 0.75),
        of("both", 64, 0.88),
    ]  # fmt: skip
    assert summary.resolution_headline(rows) == pytest.approx(
        {"resadapter_gain_96": 0.75, "resadapter_gain_48": 0.25, "resadapter_cost_64": 0.02}
    )
    assert summary.resolution_headline(rows[1:]) == {}
    assert summary.resolution_headline([of("base", 64, 0.9), of("base", 96, 0.9), of("both", 96, 0.9)]) == {}
    table = page.resolutions({"resolutions": rows})
    assert "| the base, trained at 64 | – | 70.0 / 60.0 % | 90.0 / 80.0 % | 50.0 / 40.0 % | – |" in table


def test_rows_are_read_of_these_judges_alone_the_newest_of_each(tmp_path):
    for name, date, judges, mean in (
        ("a", "2026-01-02", "these", 0.2),
        ("b", "2026-01-01", "these", 0.1),
        ("c", "2026-01-03", "others", 0.3),
    ):
        (tmp_path / f"resolutions-{name}.json").write_text(
            json.dumps({"date": date, "judged by": judges, "trials": [of("base", 64, mean)]})
        )
    assert [row["mean"] for row in quality.of_resolutions(tmp_path, "these")] == [0.2]
    assert quality.of_resolutions(tmp_path, "nobody") == []
