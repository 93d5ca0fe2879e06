"""What the quality benchmark compares, and how it adds up."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import quality
from benchmarks.pages import quality as page
from benchmarks.world import ideas, summary, training
from benchmarks.world.contenders import CONTENDERS, IDEAS, MOSA, PAPER, RECIPE, SETTINGS, WHOLE
from benchmarks.world.grammar import vocabulary
from benchmarks.world.losses import LEVELS, loss
from benchmarks.world.plan import BEYOND, CORE, IDEA_RATES, PARTS, PROMISING, beyond, missing, trials
from benchmarks.world.subjects import SCENES, WORD, subjects
from benchmarks.world.summary import RATES
from benchmarks.world.trial import DEFAULTS, STEPS, Trial, as_it_comes, switched_on
from krona_ops import TargetRule, select
from krona_ops.errors import NonFiniteError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.adapters.attach import attached
from krona_train.adapters.layers.difference import DifferenceLayer
from krona_train.adapters.trainee import build_layers
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example
from krona_train.batches.samples import Samples, as_items
from krona_train.randomness import generator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def material():
    rng = torch.Generator().manual_seed(1)
    data = [Example(torch.randn(4, 6, 5, generator=rng), torch.randn(7, 24, generator=rng), f"picture {n}") for n in range(3)]
    config = TrainConfig(
        steps=9,
        batch_size=2,
        adapter=AdapterConfig(targets=(TargetRule((8, 4)),), init_std=RECIPE),
        optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, rate_b=3.0),
    )
    return training.Material(ToyBackbone(), as_items(data), config)


def test_a_start_that_changes_nothing_is_the_trainer_bit_for_bit(material):
    expected = fit(material.backbone, material.items, material.config)
    assert training.with_start(lambda layers, material: None)(material).adapter == expected
    assert expected.parameters > 0


@pytest.mark.parametrize(("start", "is_zero"), [(training.as_core_starts, "a"), (training.as_lycoris_starts, "b")])
def test_lokr_starts_as_its_libraries_do(material, start, is_zero):
    """Kaiming-uniform with a = √5 is uniform in ± 1/√(fan in) (PyTorch's `kaiming_uniform_`, whose bound is compared)."""
    backbone, config = material.backbone, material.config
    targets = select(backbone.weights(), (TargetRule((2, 3)),))
    layers = build_layers(targets, config.adapter, config.seed, backbone.device)
    start(layers, material)
    for layer in layers.values():
        zero, random = (layer.a, layer.b) if is_zero == "a" else (layer.b, layer.a)
        assert not zero.any()
        like = torch.nn.init.kaiming_uniform_(torch.empty(4000, random.shape[1]), a=5**0.5)
        assert random.abs().max() <= like.abs().max() * 1.01
        assert abs(random.std() / like.std() - 1) < 0.5


def test_lokr_as_core_starts_learns_something(material):
    trained = training.with_start(training.as_core_starts)(material)
    assert any(delta.dense().any() for delta in trained.adapter.layers.values())
    assert trained.parameters == trained.adapter.parameters


@pytest.mark.parametrize("name", IDEAS)
def test_an_idea_trains_something_on_the_layers_that_it_says(material, name):
    idea = CONTENDERS[name]
    config = replace(
        material.config, adapter=idea.adapter, optimizer=replace(material.config.optimizer, **dict(idea.optimizer))
    )
    layers = idea.train(replace(material, config=config)).adapter.layers
    assert all(delta.dense().any() for delta in layers.values())
    expected = 4 if name.endswith("alone") or name == "idea: half of the layers" else 8
    assert len(layers) == expected or (name.startswith("idea: factors by budget") and 0 < len(layers) <= 8)


def test_the_gradient_is_that_of_a_dense_update(material):
    """Against a finite difference of the loss along a random direction."""
    backbone = material.backbone
    targets = select(backbone.weights(), material.config.adapter.targets)[:2]
    config = replace(material.config, seed=material.config.seed + 1_000)
    with backbone.ready():
        found = ideas.gradients(material, targets)
        samples = Samples(material.items, config)
        rng = torch.Generator().manual_seed(3)
        way = {name: torch.randn(g.shape, generator=rng) for name, g in found.items()}

        def loss(step):
            probes = {t.name: DifferenceLayer(t) for t in targets}
            with torch.no_grad(), attached(backbone, probes):
                for name, probe in probes.items():
                    probe.value.copy_(step * way[name])
                return float(np.mean([float(ideas.loss_of(backbone, samples, config, n)) for n in range(ideas.LOOKS)]))

        slope = (loss(1e-2) - loss(-1e-2)) / 2e-2
    assert slope == pytest.approx(sum(float((found[n] * way[n]).sum()) for n in found), rel=2e-2)


def test_orthogonal_and_gradient_starts_are_as_long_as_the_recipe(material):
    targets = select(material.backbone.weights(), material.config.adapter.targets)
    for start in (ideas.orthogonal, ideas.by_gradient):
        layers = build_layers(targets, material.config.adapter, 0, material.backbone.device)
        with material.backbone.ready():
            start(layers, material)
        for layer in layers.values():
            rows, columns = layer.a.shape
            assert float(layer.a.norm()) == pytest.approx((rows * columns) ** 0.5 / rows, rel=1e-5)
            assert not layer.b.any()
            if start is ideas.orthogonal:
                gram = layer.a.mT @ layer.a if rows >= columns else layer.a @ layer.a.mT
                assert torch.allclose(gram, gram[0, 0] * torch.eye(len(gram)), atol=1e-6)


def test_a_small_start_is_as_small_for_every_shape(material):
    targets = select(material.backbone.weights(), (TargetRule((16, 4)),))
    mixed = build_layers(
        [*targets[::2], *select(material.backbone.weights(), (TargetRule((2, 2)),))[1::2]],
        material.config.adapter,
        0,
        material.backbone.device,
    )
    before = {name: layer.a.detach().clone() for name, layer in mixed.items()}
    ideas.small(mixed, material)
    assert {tuple(layer.a.shape) for layer in mixed.values()} >= {(2, 2), (16, 4)}
    for name, layer in mixed.items():
        assert torch.allclose(layer.a, before[name] * layer.a.shape[0] * ideas.SMALL)
    spread = torch.cat([layer.a.detach().flatten() for layer in mixed.values()]).std()
    assert float(spread) == pytest.approx(ideas.SMALL, rel=0.2)


def test_full_fine_tuning_moves_everything_and_leaves_no_trace(material):
    net = material.backbone.net
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    trained = training.full_fine_tuning(material)
    assert trained.parameters == sum(p.numel() for p in net.parameters())
    named = {name.removesuffix(".weight"): p for name, p in before.items()}
    assert {name: delta.shape for name, delta in trained.adapter.layers.items()} == {n: p.shape for n, p in named.items()}
    assert all(delta.dense().any() for delta in trained.adapter.layers.values())
    assert all(torch.equal(p, before[name]) and not p.requires_grad for name, p in net.named_parameters())


def test_every_scene_that_is_asked_for_is_balanced_and_not_what_was_trained_on():
    poses, things, places, _ = zip(*SCENES, strict=True)
    assert {poses.count(pose) for pose in poses} == {3}
    assert {places.count(place) for place in places} == {2}
    assert set(things) == {"none", "hat", "scarf", "umbrella", "balloon"}
    assert WORD not in vocabulary()
    for subject in subjects():
        pictures = subject.training_pictures()
        assert pictures.shape == (4, 64, 64, 3)
        assert not any(np.array_equal(one, other) for one in pictures for other in subject.real_pictures(1))
        assert len({picture.tobytes() for picture in pictures}) == 4


def row(contender, subject, likeness, prompt=0.9, rate=5e-4, seed=0, parameters=100, **more):
    plain = {"pictures": 4, "prior": 0.0, "steps": STEPS, "agreement": 0.5, "diversity": 0.1, "seconds": 1.0}
    return {
        "contender": contender, "subject": subject, "likeness": likeness, "prompt": prompt, "rate": rate, "seed": seed,
        "parameters": parameters, "class_likeness": 0.3, "recipe": Trial(contender, rate, subject).recipe(), **plain, **more,
    }  # fmt: skip


@pytest.fixture
def rows():
    found = []
    for s in (0, 1):
        found += [row("base", s, 0.2 + 0.1 * s, 0.9), row("real", s, 0.8, 1.0)]
        for rate in RATES:
            found.append(row("krona 64x4", s, 0.65 if rate in (5e-4, 1e-3) else 0.5, 0.8, rate, parameters=60))
            found.append(row("lora 4", s, 0.62 if rate == 5e-4 else 0.3, 0.85, rate))
            found.append(row("lora 1", s, 0.62, 0.85, rate, parameters=80))
    return found


def test_gain_is_the_share_of_the_gap_and_score_its_harmonic_mean_with_the_prompts(rows):
    references = summary.References(rows)
    one = next(r for r in rows if r["contender"] == "krona 64x4" and r["rate"] == 5e-4 and r["subject"] == 1)
    assert references.gain(one) == pytest.approx((0.65 - 0.3) / (0.8 - 0.3))
    assert references.drop(one) == pytest.approx(0.1)
    assert references.score(one) == pytest.approx(2 * 0.7 * 0.8 / 1.5)
    assert references.score({**one, "likeness": 0.1}) == 0


def test_stability_is_the_share_of_rates_close_to_the_best(rows):
    assert summary.best_rate(rows, "lora 4") == 5e-4
    assert summary.stability(rows, "lora 4") == pytest.approx(1 / 6)
    assert summary.stability(rows, "krona 64x4") == pytest.approx(2 / 6)
    assert summary.stability(rows, "nobody") is None
    assert summary.stability([r for r in rows if r["rate"] != 1e-4], "lora 4") is None
    assert summary.stability([r for r in rows if (r["contender"], r["subject"]) != ("lora 4", 1)], "lora 4") is None
    nothing = [{**r, "likeness": 0.0} if r["contender"] == "lora 4" else r for r in rows]
    assert summary.stability(nothing, "lora 4") is None


def test_who_was_tried_above_the_grid_alone_has_no_spread_on_it(rows):
    above = [row("krona 4x4", s, 0.6, rate=BEYOND[0]) for s in (0, 1)]
    told = summary.line([*rows, *above], "krona 4x4")
    assert (told["rate"], told["spread"], told["stability"]) == (BEYOND[0], None, None)


def test_failed_trials_do_not_count(rows):
    failed = {"contender": "lora 4", "rate": 1e-3, "subject": 2, "seed": 0, "failed": "NaN", "recipe": ""}
    assert summary.line([*rows, failed], "lora 4") == summary.line(rows, "lora 4")


def test_parameters_are_compared_at_equal_gain_on_shared_trials_or_not_at_all(rows):
    assert summary.smallest_as_like(rows, ["krona 64x4"], "lora 4") == 60
    assert summary.smallest_as_like(rows, ["lora 4"], "krona 64x4") is None
    assert summary.smallest_as_like(rows, ["lora 4", "lora 1"], "lora 4") == 80
    other_subject = [r for r in rows if (r["contender"], r["subject"]) != ("krona 64x4", 1)]
    worse = [{**r, "likeness": 0.61} if (r["contender"], r["subject"]) == ("krona 64x4", 0) else r for r in other_subject]
    assert summary.smallest_as_like(worse, ["krona 64x4"], "lora 4") is None


def test_parameters_at_equal_gain_are_read_between_two_ranks(rows):
    """LoRAs of 50 and 200 parameters, 0.1 below and 0.2 above on the first subject, 0.2 and 0.1 on the second: on the mean, 0 lies half-way in their logarithms, at 100."""
    references = summary.References(rows)
    own = summary.at_best(rows, "krona 64x4")

    def lora(rank, parameters, *ahead):
        likeness = [
            own[s, 0]["likeness"] + gain * (references.real(own[s, 0])["likeness"] - references.base(own[s, 0])["likeness"])
            for s, gain in enumerate(ahead)
        ]
        return [row(f"lora {rank}", s, likeness[s], parameters=parameters) for s in (0, 1)]

    plain = [r for r in rows if not r["contender"].startswith("lora")]
    pair = [*plain, *lora(1, 50, -0.1, -0.2), *lora(4, 200, 0.2, 0.1)]
    found, (low, high) = summary.lora_parameters_as_like(pair, "krona 64x4", ["lora 4", "lora 1"])
    assert found == pytest.approx(100)
    assert low == pytest.approx(50 * 4 ** (1 / 3))  # the first subject alone
    assert high == pytest.approx(50 * 4 ** (2 / 3))  # the second alone
    told = summary.headline(pair, "krona 64x4", [], "lora 4", ["lora 1", "lora 4"])
    assert told["params_vs_lora"] == pytest.approx(60 / 100)
    assert told["params_vs_lora 95 %"] == pytest.approx([60 / high, 60 / low])
    assert summary.lora_parameters_as_like([*plain, *lora(1, 50, -0.1, -0.2)], "krona 64x4", ["lora 1"]) is None
    worse = [*plain, *lora(1, 50, -0.3, -0.2), *lora(4, 200, -0.2, -0.1)]
    assert summary.lora_parameters_as_like(worse, "krona 64x4", ["lora 1", "lora 4"]) is None


def test_a_difference_is_taken_subject_by_subject(rows):
    references = summary.References(rows)
    one, two = (summary.at_best(rows, name) for name in ("krona 64x4", "lora 4"))
    expected = np.mean([references.score(one[s, 0]) - references.score(two[s, 0]) for s in (0, 1)])
    mean, (low, high) = summary.difference(rows, "krona 64x4", "lora 4")
    assert mean == pytest.approx(expected)
    assert low <= mean <= high
    assert summary.difference(rows, "krona 64x4", "nobody") is None


def test_a_subject_that_was_tried_more_often_counts_no_more(rows):
    more = [row("krona 64x4", 0, 0.2, 0.8, seed=seed, parameters=60) for seed in (1, 2)]
    told, once = summary.line([*rows, *more], "krona 64x4"), summary.line(rows, "krona 64x4")
    assert once["gain"] == pytest.approx(np.mean([0.45 / 0.6, 0.7]))
    assert told["gain"] == pytest.approx(np.mean([0.45 / 0.6 / 3, 0.7]))
    assert (told["subjects"], told["trials"]) == (2, 4)


def test_an_interval_holds_the_mean_and_is_none_of_a_point_where_nothing_varies():
    values, groups = [0.1, 0.3, 0.2, 0.9], [0, 0, 1, 2]
    low, high = summary.interval(values, groups)
    assert low < np.mean([0.2, 0.2, 0.9]) < high
    assert summary.interval([0.5, 0.5], [0, 1]) == (0.5, 0.5)
    assert summary.interval([0.5, 0.9], [3, 3]) is None


def test_the_headline_says_what_the_default_settings_reach(rows):
    own = [row(SETTINGS, s, 0.65, 0.8, steps=DEFAULTS.steps) for s in (0, 1)]
    told = summary.headline([*rows, *own], "krona 64x4", ["krona 64x4"], "lora 4", ["lora 1", "lora 4"])
    assert told["subjects"] == 2
    assert told["subject_gain"] == pytest.approx(np.mean([0.45 / 0.6, 0.7]))
    assert told["subject_gain_least"] == pytest.approx(0.7)
    assert told["prompt_drop"] == pytest.approx(0.1)
    assert told["params_vs_lora_4"] == pytest.approx(0.6)
    assert told["params_vs_smallest_lora"] == pytest.approx(60 / 80)


def test_the_plan_covers_what_was_asked_for_and_skips_what_is_done(rows):
    assert set(CORE) <= CONTENDERS.keys()
    assert PAPER in CORE
    assert {t.contender for t in trials("default", rows)} == {SETTINGS}
    core = trials("core", rows)
    assert len(core) == 8 * len(CORE) * len(RATES)
    done = {**asdict(core[0]), "recipe": core[0].recipe()}
    assert len(missing(core, [done])) == len(core) - 1
    assert len(missing(core, [{**done, "recipe": "of other defaults"}])) == len(core)
    assert {t.rate for t in trials("pictures", rows)} <= set(RATES)
    for part in PARTS:
        assert all(t.contender in CONTENDERS or t.contender in ("base", "real") for t in trials(part, rows))
    assert Trial("lora 4").config().adapter.rank == 4


def test_training_in_parts_is_compared_with_the_same_training_whole(rows):
    wanted = trials("mosa", rows)
    assert len(wanted) == len(set(wanted)) == 2 * 8 * 3
    assert {t.rate for t in wanted} == {summary.best_rate(rows, PAPER)}
    whole, mosa = (next(t for t in wanted if t.contender == name) for name in (WHOLE, MOSA))
    assert whole.config() == Trial(PAPER, whole.rate).config()
    assert whole.recipe() == Trial(PAPER, whole.rate).recipe() != mosa.recipe()
    assert mosa.config().adapter.sparse.parts == 4
    assert len(trials("mosa consistency", rows)) == 8
    assert trials("mosa", []) == []


def test_the_headline_counts_subjects_whose_gap_of_losses_is_smaller_in_parts():
    """Of subject 0 both seeds together are smaller, though one is not; subject 2 has but one side."""
    gaps = {(0, 0): (0.5, 0.1), (0, 1): (0.2, 0.3), (1, 0): (0.1, 0.4)}
    measured = [
        row(name, s, 0.5, seed=seed, train_loss=1.0, held_out_loss=1.0 + gap)
        for (s, seed), both in gaps.items() for name, gap in zip((WHOLE, MOSA), both, strict=True)
    ]  # fmt: skip
    measured.append(row(MOSA, 2, 0.5, train_loss=1.0, held_out_loss=1.0))
    told = summary.mosa_headline(measured, WHOLE, MOSA)
    assert told["mosa_gap_subjects"] == 1
    assert told["mosa_subjects"] == 2
    assert told["mosa_gap_whole"] == pytest.approx((0.35 + 0.1) / 2)
    assert told["mosa_gap"] == pytest.approx((0.2 + 0.4) / 2)
    assert summary.mosa_headline([], WHOLE, MOSA) == {}


def test_losses_are_of_the_result_and_the_same_whenever_they_are_asked_for(material):
    """As the trainer's validation has them: of the picture alone, with the adapter whole."""
    adapter = fit(material.backbone, material.items, material.config)
    ours, base = loss(material, adapter), loss(material, fit(material.backbone, material.items, replace(material.config, steps=1)))
    assert loss(material, adapter) == ours != base
    twin = ToyBackbone()
    for name, delta in adapter.layers.items():
        twin.module(name).weight += delta.dense()
    total = []
    for n, item in enumerate(material.items):
        batch = twin.collate([item.forms[0]])
        for level in range(LEVELS):
            noise = torch.randn(batch.x0.shape, generator=generator(0, "validation", n, level))
            sigma = twin.noise_levels(torch.tensor([(level + 0.5) / LEVELS]))
            with torch.no_grad():
                flow = twin.net(torch.lerp(batch.x0, noise, sigma[0]), sigma, torch.stack(batch.conditions))
            total.append((flow - (noise - batch.x0)).square().mean().item())
    assert ours == pytest.approx(np.mean(total), rel=1e-4)


def test_ideas_that_are_promising_are_tried_on_all_with_more_seeds_at_their_best_rate(rows):
    few = [r for r in rows if r["contender"] in ("base", "real")]
    for name in PROMISING:
        few += [row(name, s, 0.5 if rate == 1e-2 else 0.4, rate=rate) for s in (0, 1) for rate in IDEA_RATES]
    wanted = trials("promising", few)
    assert {t.rate for t in wanted} == {1e-2}
    assert len(wanted) == len(set(wanted)) == len(PROMISING) * 8 * 3


def test_above_the_grid_only_those_go_on_who_are_best_at_the_end_of_what_they_have_tried(rows):
    assert beyond(rows) == []
    rising = [r for r in rows if r["contender"] != "lora 4"] + [
        row("lora 4", s, 0.5 + r, rate=r) for s in (0, 1) for r in RATES
    ]
    assert beyond(rising) == [("lora 4", BEYOND[0])]
    better, worse = ([row("lora 4", s, likeness, rate=BEYOND[0]) for s in (0, 1)] for likeness in (0.79, 0.3))
    assert beyond([*rising, *worse]) == [("lora 4", BEYOND[0])]
    assert beyond([*rising, *better]) == [("lora 4", BEYOND[0]), ("lora 4", BEYOND[1])]
    assert summary.best_rate([*rising, *better], "lora 4") == BEYOND[0]
    assert summary.stability([*rising, *better], "lora 4") == summary.stability(rising, "lora 4")  # of the grid


def test_a_setting_that_is_off_is_no_part_of_a_recipe_and_any_other_is():
    told = {"steps": 5, "data": {"shuffle": False, "resolution": 64}, "ema": {"decay": 0.0}, "prompts": ()}
    assert switched_on(told) == switched_on({**told, "new": {"off": 0}}) == {"steps": 5, "data": {"resolution": 64}}
    assert switched_on({**told, "ema": {"decay": 0.9}}) != switched_on(told)
    recipes = {
        Trial("lora 4", rate, steps=steps, prior=prior).recipe()
        for rate in (1e-3, 2e-3)
        for steps in (5, 6)
        for prior in (0, 1)
    }
    assert len(recipes) == 8


def test_rows_of_other_settings_are_in_no_sum(rows):
    old = [
        {**r, "likeness": 0.9, "parameters": 3, "recipe": "of other defaults"}
        for r in rows
        if r["contender"] not in ("base", "real")
    ]
    assert quality.sums([*rows, *old]) == quality.sums(rows)


def test_the_default_settings_are_those_of_the_pack_and_everybody_else_learns_at_the_rate_that_is_said():
    ours = as_it_comes(3).config()
    guided = replace(ours.objective, embedded_guidance=DEFAULTS.objective.embedded_guidance)  # which this model does not take
    assert replace(ours, save_every=DEFAULTS.save_every, objective=guided) == DEFAULTS
    assert Trial("krona 64x4", 2e-3).config().optimizer == OptimizerConfig(learning_rate=2e-3, rate_by_width=0.0)
    assert Trial("krona 64x4", 2e-3).config().steps == STEPS


def test_rows_of_two_sources_are_kept_once_each(rows):
    fresh = [{**r, "seconds": 2.0} for r in rows[:3]]
    both = quality.joined(fresh, rows)
    assert len(both) == len(rows)
    assert sum(r["seconds"] == 2.0 for r in both) == 3


def test_rows_of_another_model_are_put_aside_and_never_overwritten(tmp_path):
    file, base = tmp_path / "quality-x.json", {**asdict(Trial("base")), "recipe": "none"}
    file.write_text(json.dumps({"judged by": "one", "machine": "x", "trials": [base]}))
    assert quality.rows_so_far(file, "one") == [{**base, "machine": "x"}]
    assert quality.rows_so_far(file, "two") == []
    assert not file.exists()
    assert json.loads((tmp_path / "quality-x.one.old").read_text())["trials"]


def test_a_machine_goes_on_where_another_one_was(rows, tmp_path):
    (tmp_path / "quality-x.json").write_text(json.dumps({"judged by": "these judges", "machine": "x", "trials": rows[:2]}))
    quality.write(tmp_path / "quality-y.json", "these judges", [{**row, "machine": "y"} for row in rows[2:]])
    told = json.loads((tmp_path / "quality-y.json").read_text())
    assert [row["machine"] for row in told["trials"]].count("x") == 2
    assert len(told["trials"]) == len(rows)


def test_what_is_missing_is_said_before_anything_starts(tmp_path):
    with pytest.raises(SystemExit, match="make world"):
        quality.judged_by(tmp_path)


def test_a_training_that_fails_is_a_row_too(monkeypatch):
    class Broken:
        def run(self, trial):
            raise NonFiniteError("The loss is NaN.")

    monkeypatch.setattr(quality, "_studio", Broken())
    found = quality.run(Trial("lora 4", 5e-3, 1))
    assert found["failed"].startswith("The loss is NaN")
    assert missing([Trial("lora 4", 5e-3, 1)], [found]) == []


def test_results_are_written_with_all_sums(rows, tmp_path):
    file = tmp_path / "quality-x.json"
    quality.write(file, "these judges", rows)
    told = json.loads(file.read_text())
    assert len(told["trials"]) == len(rows)
    assert told["headline"]["stability_lora"] == pytest.approx(1 / 6)
    assert {one["contender"] for one in told["lines"]} == {"krona 64x4", "lora 4", "lora 1"}
    assert told["done"]["references"] == [4, 16]


def test_the_bare_loop_stops_at_what_is_no_number(material):
    broken = replace(material, items=as_items([Example(torch.full((4, 6, 5), torch.nan), torch.zeros(7, 24), "")]))
    with pytest.raises(NonFiniteError), training.with_start(training.as_core_starts)(broken):
        pass


def test_a_run_that_is_terminated_has_written_what_it_measured_and_goes_on_there(tmp_path):
    """Ended between two writings, which are ten trials apart. The pipe closes when the last worker has ended: one that stayed would hang the test.

    Every trial that draws with the model is there already: what is left to measure are the pictures of the references.
    """
    wanted = trials("references", [])
    known = [row for row in quality.of_all_machines(quality.RESULTS, quality.judged_by()) if row["contender"] == "base"]
    left = missing(wanted, known)
    assert {trial.contender for trial in left} == {"real"}
    quality.write(tmp_path / "quality-another.json", quality.judged_by(), known)
    command = [sys.executable, quality.__file__, "--parts", "references", "--workers", "1", "--results", str(tmp_path)]
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        for text in process.stdout:
            said.append(text)
            if f"references 1 of {len(left)}" in text:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM, "".join(said)
    found = json.loads((tmp_path / f"quality-{quality.machine()}.json").read_text())
    measured = len(found["trials"]) - len(known)
    assert 1 <= measured < len(left) < quality.EVERY
    assert len(missing(wanted, found["trials"])) == len(left) - measured
    assert found["done"]["references"] == [len(found["trials"]), len(wanted)]


def of_branch(part, subject, likeness, prompt=1.0, **more):
    return {"part": part, "subject": subject, "likeness": likeness, "prompt": prompt, "within": 0.9, "across": 0.1, **more}


def test_the_headline_of_branches_is_means_over_subjects_and_the_least():
    rows = [of_branch("base", s, 0.05, 0.99) for s in (0, 1)]
    rows += [of_branch("reference", 0, 0.7, 0.98), of_branch("reference", 1, 0.3, 0.96), of_branch("views", 0, 0.0, within=0.8)]
    numbers = summary.branch_headline(rows)
    assert numbers == pytest.approx(
        {
            "reference_likeness": 0.5,
            "reference_least": 0.3,
            "views_likeness": 0.8,
            "views_across": 0.1,
            "branch_prompt_drop": 0.02,
        }
    )
    assert summary.branch_headline([]) == {}


def test_steps_to_close_a_gap_lie_on_the_line_between_two_moments():
    """0.5 of 0.1 to 0.9 is 0.5; alone that is half way from 100 to 200 steps, with the branch a third from 0 to 100."""
    rows = [of_branch("base", 0, 0.1), {"part": "real", "subject": 0, "likeness": 0.9}, of_branch("reference", 0, 0.4)]
    for steps, alone, together in ((100, 0.4, 0.7), (200, 0.6, 0.8)):
        rows += [of_branch("both", 0, alone, steps=steps, adapter="alone"), of_branch("both", 0, together, steps=steps, adapter="with")]
    assert summary.steps_to_close(rows, "alone", 0.5) == pytest.approx(150)
    assert summary.steps_to_close(rows, "with", 0.5) == pytest.approx(100 / 3)
    assert summary.steps_to_close(rows, "alone", 0.9) is None
    assert summary.steps_to_close(rows[2:], "alone") is None
    assert summary.branch_headline(rows)["steps_alone"] == pytest.approx(summary.steps_to_close(rows, "alone"))


def test_rows_of_branches_are_read_of_these_judges_alone_the_newest_of_each(tmp_path):
    for name, judges, date, likeness in (("a", "these", "2026-01-02", 0.2), ("b", "these", "2026-01-01", 0.1), ("c", "others", "2026-01-03", 0.3)):
        told = {"judged by": judges, "date": date, "trials": [of_branch("base", 0, likeness)]}
        (tmp_path / f"branches-{name}.json").write_text(json.dumps(told))
    assert [row["likeness"] for row in quality.of_branches(tmp_path, "these")] == [0.2]
    assert quality.of_branches(tmp_path, "nobody") == []


def test_the_headline_of_distilled_adapters_is_shares_of_the_teacher():
    rows = [
        {"part": "teacher", "frequencies": 0.02, "diversity": 0.5, "accuracy": 1.0, "calls": 24},
        {"part": "guidance", "accuracy": 0.9, "calls": 12, "guidance_errors": {"2": 0.3, "3": 0.4, "5": 0.2}},
        {"part": "scores", "accuracy": 0.8, "frequencies": 0.015, "diversity": 0.25, "calls": 1},
        {"part": "pairs-magnitude-3", "frequencies": 0.01, "calls": 1},
    ]
    assert summary.distilled_headline(rows) == {
        "agd_error": 0.4, "agd_accuracy": 0.9, "agd_calls": 12, "sim_accuracy": 0.8, "sim_frequencies": pytest.approx(0.75),
        "sim_diversity": 0.5, "hipa_frequencies": 0.5,
    }  # fmt: skip
    assert summary.distilled_headline(rows[:1]) == {}
    assert summary.distilled_headline(rows[2:]) == {}


def test_rows_of_distilled_adapters_are_read_of_these_judges_alone_the_newest_of_each(tmp_path):
    for name, date, judges, accuracy in (("a", "2026-01-02", "these", 0.2), ("b", "2026-01-01", "these", 0.1), ("c", "2026-01-03", "others", 0.3)):
        told = {"date": date, "judged by": judges, "trials": [{"part": "base", "accuracy": accuracy}]}
        (tmp_path / f"distilled-{name}.json").write_text(json.dumps(told))
    assert [row["accuracy"] for row in quality.of_distilled(tmp_path, "these")] == [0.2]
    assert quality.of_distilled(tmp_path, "nobody") == []


def test_rows_of_guidance_beside_other_adapters_are_means_over_subjects(tmp_path):
    rows = [
        {"part": part, "way": way, "calls": calls, "subject": subject, "likeness": likeness, "prompt": 0.5}
        for part in ("checkpoint", "adapter")
        for way, calls, likeness in (("with", 12, 0.25), ("guided", 24, 0.5))
        for subject in (0, 1)
    ]
    for name, date, judges, rise in (("b", "2", "these", 0.1), ("a", "1", "these", 0.0), ("c", "3", "others", 0.9)):
        trials = [{**row, "likeness": row["likeness"] + rise} for row in rows]
        written = {"date": date, "judged by": judges, "trials": trials}
        (tmp_path / f"guidance-{name}.json").write_text(json.dumps(written))
    newest = quality.of_guidance(tmp_path, "these")
    assert len(newest) == 8
    table = page.with_others({"guidance": newest}).splitlines()
    assert table[2] == "| with an adapter of the subject | 12 steps with guidance 3 | 24 | 0.60 | 50.0 % | 2 |"
    assert table[3].endswith("| 12 steps with the adapter for guidance | 12 | 0.35 | 50.0 % | 2 |")
    assert len(table) == 6
    assert page.with_others({"guidance": []}) == page.NOTHING
