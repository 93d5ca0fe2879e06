"""A training that begins at an adapter: exactly there, in any form that it has, and from then on as any other."""

import contextlib
import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from test_loop import config, examples
from test_state import record
from torch.testing import assert_close

from krona_ops import Adapter, Dora, Full, Kron, LowRank, Matrix, TargetRule, load, nearest_kron, select, to_low_rank
from krona_ops.errors import ConfigError, CoverageError, NonFiniteError
from krona_ops.left_out import LeftOut
from krona_train import AdapterConfig, OptimizerConfig, fit
from krona_train.adapters.start import METADATA, begin_at
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import EmaConfig
from krona_train.processes.console import ProgressBar
from krona_train.run.events import Ended, Started
from krona_train.run.folder import Run, require_a_format
from krona_train.run.layout import START
from krona_train.run.requests import Ask
from krona_train.run.state import TrainState, same_run

RULES = (TargetRule(factors=(8, 4)),)
KINDS = {
    "kron": AdapterConfig(targets=RULES),
    "shuffled": AdapterConfig(targets=RULES, layout="shuffled"),
    "lora": AdapterConfig(kind="lora", rank=3, alpha=2.0),
}


def settings(**changes):
    return config(**{"steps": 6, "batch_size": 2, "save_every": 1, **changes})


def targets(adapter):
    return select(ToyBackbone().weights(), adapter.targets)


def begun(adapter, kind=KINDS["kron"]):
    return begin_at(adapter, targets(kind), kind)


@pytest.fixture(scope="module")
def trained():
    """One adapter of each kind, from pictures that the tests do not train on."""
    return {name: fit(ToyBackbone(), examples(4, seed=9), settings(adapter=kind)) for name, kind in KINDS.items()}


def stopped_at_once(settings, **options):
    """What a training has before its first step, and the state that it would go on from."""
    events = []
    with pytest.raises(KeyboardInterrupt):
        fit(ToyBackbone(), examples(), settings, events.append, asked=lambda: Ask.STOP, **options)
    return events[-1]


@pytest.mark.parametrize("name", KINDS)
def test_no_steps_give_the_adapter_back_bit_for_bit(name, trained):
    start = begun(trained[name], KINDS[name])
    assert (start.error, start.converted) == (0.0, 0)
    assert start.adapter.layers == trained[name].layers
    assert stopped_at_once(settings(adapter=KINDS[name]), start=start).adapter.layers == trained[name].layers
    assert "exactly" in start.notes[0]


@pytest.mark.parametrize("name", KINDS)
def test_a_start_is_a_training_whose_factors_stood_there_and_whose_optimizer_is_fresh(name, trained):
    """The independent way: the state of a training before its first step, with other factors written into it."""
    wanted = settings(adapter=KINDS[name], steps=3, seed=5)
    start = begun(trained[name], KINDS[name])
    fresh = stopped_at_once(wanted).state
    there = stopped_at_once(wanted, start=start).state
    moved = [key for key in fresh.tensors if not torch.equal(fresh.tensors[key], there.tensors[key])]
    assert {key.partition(".")[0] for key in moved} == {"factors", "ema"}  # nothing of the optimizer is there yet
    forged = replace(fresh, tensors={**fresh.tensors, **{key: there.tensors[key] for key in moved}})
    ours = fit(ToyBackbone(), examples(), wanted, start=start)
    assert ours == fit(ToyBackbone(), examples(), wanted, resume=forged)
    assert ours != fit(ToyBackbone(), examples(), wanted)
    assert ours.layers != trained[name].layers


def test_k_steps_and_the_rest_are_bitwise_all_steps_and_another_start_is_another_training(trained, tmp_path):
    start, other = begun(trained["kron"]), begun(trained["kron"].scaled(0.5))
    whole = record_from(start)[-1].adapter
    stopped = record_from(start, stop_after=2)[-1].state
    state = TrainState.load(stopped.save(tmp_path / "a" / "state-00000002.safetensors"))
    assert record_from(start, resume=state)[-1].adapter == whole
    for another, message in ((None, "began at another adapter"), (other, "began at another adapter")):
        with pytest.raises(ConfigError, match=message):
            record_from(another, resume=state)
    with pytest.raises(ConfigError, match="began at no adapter"):
        record_from(start, resume=record(settings(steps=2))[-1].state)
    found = [
        same_run([tmp_path / "a"], settings(), state.base, state.data, 1, print_) is not None
        for print_ in (start.fingerprint, other.fingerprint, "")
    ]
    assert found == [True, False, False]


def record_from(start, resume=None, stop_after=None):
    events = []

    def asked():
        done = sum(type(event).__name__ == "Stepped" for event in events)
        return Ask.STOP if stop_after is not None and done >= stop_after else Ask.NOTHING

    with contextlib.suppress(KeyboardInterrupt):
        fit(ToyBackbone(), examples(), settings(), events.append, resume, start=start, asked=asked)
    return events


def test_the_folder_keeps_the_start_and_gives_the_same_one_again(trained, tmp_path):
    smaller = KINDS["lora"]
    loras = {name: to_low_rank(delta, 2).delta for name, delta in trained["kron"].layers.items()}
    for name, kind, adapter in (
        ("kron", KINDS["kron"], trained["kron"]),
        ("scaled", KINDS["kron"], trained["kron"].scaled(0.3)),
        ("lora", KINDS["lora"], trained["lora"]),
        ("smaller", smaller, Adapter(loras)),
        ("shuffled", KINDS["shuffled"], trained["shuffled"]),
        ("half", KINDS["kron"], trained["kron"].to(dtype=torch.float16)),
    ):
        start = begun(adapter, kind)
        run = Run(tmp_path / name, settings(adapter=kind), {}, start=start.adapter)
        fit(ToyBackbone(), examples(), settings(adapter=kind, steps=1), run, start=start)
        again = begun(by_the_models_names(load(tmp_path / name / START)), kind)
        assert (again.fingerprint, again.converted) == (start.fingerprint, 0)
        assert again.adapter.layers == start.adapter.layers
    rows = [json.loads(line) for line in (tmp_path / "kron" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["notes"][0].startswith("The training starts from the adapter")


def by_the_models_names(adapter):
    """What the host's side does with the names of official files."""
    plain = {re.sub(r"\.processor\.(to_out)?", r".\1", name): delta for name, delta in adapter.layers.items()}
    return replace(adapter, layers={re.sub(r"to_out$", "to_out.0", name): delta for name, delta in plain.items()})


def test_a_training_in_the_shuffled_layout_saves_its_result_or_says_before_it_begins_that_no_file_holds_it(tmp_path):
    kind = KINDS["shuffled"]
    run = Run(tmp_path / "run", settings(adapter=kind), {})
    adapter = fit(ToyBackbone(), examples(), settings(adapter=kind), run)
    assert by_the_models_names(load(run.adapter_file)).layers == adapter.layers
    require_a_format(targets(kind), kind)
    other = [replace(targets(kind)[0], name="mlp.fc1")]
    with pytest.raises(ConfigError, match=r"mlp\.fc1: The layout shuffled fits into official DiffuseKronA files alone"):
        require_a_format(other, kind)
    require_a_format(other, KINDS["kron"])


def test_another_form_is_the_nearest_and_its_error_is_told(trained):
    layers = {name: to_low_rank(delta, 5).delta for name, delta in trained["lora"].layers.items()}
    rng = torch.Generator().manual_seed(2)
    noisy = Adapter(
        {
            name: Matrix(
                LowRank(torch.randn(delta.shape[0], 5, generator=rng), torch.randn(5, delta.shape[1], generator=rng))
            )
            for name, delta in layers.items()
        }
    )
    start = begun(noisy)
    nearest = {t.name: nearest_kron(noisy.layers[t.name], (8, 4)) for t in targets(KINDS["kron"])}
    for name, found in nearest.items():
        assert_close(start.adapter.layers[name].dense(), found.delta.dense())
    energy = sum(float(noisy.layers[name].dense().norm()) ** 2 for name in nearest)
    lost = sum(float((noisy.layers[name].dense() - found.delta.dense()).norm()) ** 2 for name, found in nearest.items())
    assert start.error == pytest.approx((lost / energy) ** 0.5, rel=1e-3)
    assert start.converted == len(nearest)
    worst = max(nearest, key=lambda name: nearest[name].error)
    assert f"loses {start.error:.2%} of the update (at most {nearest[worst].error:.2%}, in {worst})" in start.notes[0]


def test_a_lora_of_lower_rank_is_exact_and_uses_the_room_that_it_leaves():
    kind = AdapterConfig(kind="lora", rank=4, alpha=4.0)
    rng = torch.Generator().manual_seed(3)
    small = Adapter(
        {t.name: Matrix(LowRank(torch.randn(t.sizes.out_features, 2, generator=rng),
                                torch.randn(2, t.sizes.in_features, generator=rng)), 0.25) for t in targets(kind)}
    )  # fmt: skip
    start = begun(small, kind)
    assert (start.error, start.converted) == (0.0, 0)
    wanted = settings(adapter=kind, ema=EmaConfig(0.0))
    at_once = stopped_at_once(wanted, start=start).adapter
    after = fit(ToyBackbone(), examples(), wanted, start=start)
    for name, delta in small.layers.items():
        assert_close(at_once.layers[name].dense(), delta.dense())
        assert at_once.layers[name].factor.down.shape[0] == 4
        assert after.layers[name].factor.up[:, 2:].abs().max() > 0
    wide = begun(small, AdapterConfig(kind="lora", rank=1, alpha=1.0))
    assert wide.converted == len(small.layers)
    assert 0 < wide.error < 1


@pytest.mark.parametrize("factors", [(4, 8), (2, 2)])
def test_a_kronecker_product_of_other_factors_is_another_form(factors, trained):
    kind = AdapterConfig(targets=(TargetRule(factors=factors),))
    start = begun(trained["kron"], kind)
    for target in targets(kind):
        assert start.adapter.layers[target.name].sizes == target.sizes
    assert start.converted == len(trained["kron"].layers)
    assert start.error > 0


def test_a_scale_and_factors_in_parts_are_the_same_form(trained):
    scaled = trained["kron"].scaled(0.5)
    start = begun(scaled)
    assert (start.error, start.converted) == (0.0, 0)
    for name, delta in scaled.layers.items():
        assert torch.equal(start.adapter.layers[name].dense(), delta.dense())
    parts = Adapter(
        {
            name: Kron(LowRank(torch.eye(delta.a.shape[0]), delta.a.value), delta.b, layout=delta.layout)
            for name, delta in trained["kron"].layers.items()
        }
    )
    assert begun(parts).adapter.layers == trained["kron"].layers


def test_layers_on_one_side_only_are_named(trained):
    names = list(trained["kron"].layers)
    some = {name: trained["kron"].layers[name] for name in names[2:]}
    left_out = (LeftOut("OFT", "ComfyUI applies them.", ("x",)),)
    layers = {**some, "elsewhere.to_q": trained["kron"].layers[names[0]]}
    start = begun(Adapter(layers, {"modelspec.title": "robot"}, left_out=left_out))
    assert start.notes == (
        f'The training starts from the adapter "robot": {len(some)} of its {len(some) + 1} layers, exactly.',
        "1 layers of that adapter are not trained and left out: elsewhere.to_q.",
        f"2 layers that are trained are not in that adapter and start at nothing: {names[0]}, {names[1]}.",
        "Of that adapter's file: Left out: OFT (1: x). ComfyUI applies them.",
    )
    here, fresh = stopped_at_once(settings(), start=start).state, stopped_at_once(settings()).state
    for name in names:
        same = [
            torch.equal(here.tensors[f"factors.{name}.{which}"], fresh.tensors[f"factors.{name}.{which}"])
            for which in "ab"
        ]
        assert same == ([True, True] if name in names[:2] else [False, False])
    seen = []
    fit(ToyBackbone(), examples(), settings(steps=1), seen.append, start=start)
    assert next(event for event in seen if isinstance(event, Started)).notes[:4] == start.notes


def test_the_command_line_shows_the_notes_and_no_bar_before_a_training_has_begun(trained, capsys):
    bar = ProgressBar(6, is_hidden=False)
    assert capsys.readouterr().err == ""
    start = begun(trained["kron"])
    fit(ToyBackbone(), examples(), settings(), bar, start=start)
    told = capsys.readouterr().err
    assert f"{start.notes[0]}\n" in told
    assert "6/6" in told
    fit(ToyBackbone(), examples(), settings(), ProgressBar(6, is_hidden=True), start=start)
    assert capsys.readouterr().err == ""


def test_an_update_of_zero_starts_as_any_layer_so_that_it_can_learn(trained):
    name, delta = next(iter(trained["kron"].layers.items()))
    dead = Kron(Full(torch.zeros(delta.a.shape)), Full(torch.zeros(delta.b.shape)))
    start = begun(Adapter({**trained["kron"].layers, name: dead}))
    assert name not in start.adapter.layers
    after = fit(ToyBackbone(), examples(), settings(ema=EmaConfig(0.0)), start=start)
    assert after.layers[name].dense().abs().max() > 0


def test_what_cannot_be_started_from_is_refused_by_name(trained):
    name, delta = next(iter(trained["kron"].layers.items()))
    dora = Dora(Matrix(Full(delta.dense())), torch.ones(delta.shape[0], 1))
    with pytest.raises(ConfigError, match=rf"{name}: .* is DoRA, .*start from that"):
        begun(Adapter({name: dora}))
    with pytest.raises(NonFiniteError, match=rf"{name}: .* is not finite"):
        begun(Adapter({name: replace(delta, b=Full(delta.b.value * torch.nan))}))
    with pytest.raises(CoverageError, match=r"None of the .* layers that are trained is in the adapter"):
        begun(Adapter({"elsewhere.to_q": delta}))


def test_rates_that_train_nothing_are_refused_before_anything_begins(trained, tmp_path):
    still = OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, rate_b=0.0)
    run = Run(tmp_path / "run", settings(), {})
    with pytest.raises(ConfigError, match="Nothing would be trained: rate_b is 0"):
        fit(ToyBackbone(), examples(), settings(optimizer=still), run)
    none = AdapterConfig(targets=(TargetRule(factors=(8, 4), rate=0.0),))
    with pytest.raises(ConfigError, match="every target rule's rate, is 0"):
        fit(ToyBackbone(), examples(), settings(adapter=none), run)
    assert not run.folder.exists()
    start = begun(trained["kron"])  # whose factors are both something: A alone can learn
    after = fit(ToyBackbone(), examples(), settings(optimizer=still, ema=EmaConfig(0.0)), start=start)
    before = trained["kron"].layers
    assert all(not torch.equal(after.layers[name].a.value, delta.a.value) for name, delta in before.items())


def test_the_metadata_say_what_it_began_at_and_what_that_began_at(trained):
    first = begun(trained["kron"].with_metadata(**{"modelspec.title": "one", "ss_steps": "500"}))
    second = begun(trained["kron"].with_metadata(**{"ss_output_name": "two", **first.metadata()}))
    told = json.loads(second.metadata()[METADATA])
    assert told["title"] == "two"
    assert (told["start"]["title"], told["start"]["steps"]) == ("one", "500")
    assert told["fingerprint"] == first.fingerprint == second.fingerprint
    assert begun(trained["kron"].with_metadata(**{METADATA: "no JSON"})).metadata()


def test_two_trainings_in_a_row_are_not_one_because_the_optimizer_begins_anew(trained):
    """And yet each begins where the one before has ended: the losses of the first step on the same noise tell."""
    ends = [trained["kron"]]
    for _ in range(2):
        ends.append(fit(ToyBackbone(), examples(), settings(ema=EmaConfig(0.0)), start=begun(ends[-1])))
    moved = [
        sum(float((b.layers[name].dense() - a.layers[name].dense()).norm()) for name in a.layers)
        for a, b in pairwise(ends)
    ]
    sizes = sum(float(delta.dense().norm()) for delta in ends[0].layers.values())
    assert all(0 < way < 20 * sizes for way in moved)
    assert isinstance(stopped_at_once(settings(), start=begun(ends[-1])), Ended)


SUMS = {
    "equal sizes": AdapterConfig(targets=(TargetRule((8, 4), kind="sum", terms=((8, 4), (8, 4))),)),
    "different sizes": AdapterConfig(targets=(TargetRule((8, 4), kind="sum", terms=((4, 8), (3, 6))),)),
}


@pytest.mark.parametrize("sizes", SUMS)
def test_products_that_an_adapter_lacks_start_as_fresh_ones_do_and_learn_apart(sizes, trained):
    kind = SUMS[sizes]
    start = begun(trained["kron"], kind)
    assert (start.error, start.converted) == (0.0, 0)  # one product is a sum of one
    fresh = stopped_at_once(settings(adapter=kind)).state
    here = stopped_at_once(settings(adapter=kind), start=start).state
    for name, delta in trained["kron"].layers.items():
        assert torch.equal(here.tensors[f"factors.{name}.parts.0.a"], delta.a.value)
        assert torch.equal(here.tensors[f"factors.{name}.parts.0.b"], delta.b.value)
        for n in (1, 2):
            key = f"factors.{name}.parts.{n}"
            assert torch.equal(here.tensors[f"{key}.a"], fresh.tensors[f"{key}.a"])
            assert not here.tensors[f"{key}.b"].any()
    after = fit(ToyBackbone(), examples(), settings(adapter=kind), start=start)
    for delta in after.layers.values():
        _, second, third = delta.terms
        assert second.b.value.any()
        assert second.sizes != third.sizes or not torch.equal(second.b.value, third.b.value)


@pytest.mark.parametrize("sizes", SUMS)
def test_an_update_in_another_form_of_fewer_products_leaves_the_others_fresh(sizes, trained):
    kind = SUMS[sizes]
    dense = Adapter({name: Matrix(Full(delta.dense())) for name, delta in trained["kron"].layers.items()})
    start = begun(dense, kind)
    assert start.error < 1e-6
    assert start.converted == len(dense)
    for name, delta in start.adapter.layers.items():
        assert_close(delta.dense(), dense.layers[name].dense(), rtol=1e-4, atol=1e-6)
    here = stopped_at_once(settings(adapter=kind), start=start).state
    fresh = stopped_at_once(settings(adapter=kind)).state
    last = [key for key in fresh.tensors if key.startswith("factors.") and key.endswith("parts.2.a")]
    assert last
    assert all(torch.equal(here.tensors[key], fresh.tensors[key]) for key in last)


@pytest.mark.parametrize("sizes", SUMS)
def test_a_sum_of_fewer_products_goes_on_from_its_folder_bit_for_bit(sizes, trained, tmp_path):
    kind, start = SUMS[sizes], begun(trained["kron"], SUMS[sizes])
    run = Run(tmp_path, settings(adapter=kind), {}, start=start.adapter)
    whole = fit(ToyBackbone(), examples(), settings(adapter=kind), run, start=start)
    again = begun(by_the_models_names(load(tmp_path / START)), kind)
    assert (again.fingerprint, again.converted) == (start.fingerprint, 0)
    state = TrainState.load(sorted(tmp_path.glob("state-*"))[1])
    assert fit(ToyBackbone(), examples(), settings(adapter=kind), resume=state, start=again) == whole
