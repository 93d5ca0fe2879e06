"""Whole adapters into fewer numbers: errors are told truly, budgets are kept, extraction finds what was merged."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from krona_ops import Adapter, Dora, Full, Kron, LowRank, Matrix, Sum, TargetRule
from krona_ops.errors import ConfigError, CoverageError, KronaError, ShapeError
from krona_ops.nearest.forms import DenseForm, KronForm, LowRankForm
from krona_ops.nearest.kronecker import nearest_kron
from krona_ops.operations.compress import compress, forms_by_rules, forms_within
from krona_ops.operations.extract import extract

from .deltas import randn


def example():
    g = torch.Generator().manual_seed(0)

    def kron(p, q, out, inner, *kernel):
        return Kron(Full(randn(g, p, q)), Full(randn(g, out // p, inner // q, *kernel)))

    layers = {
        "x.attn.to_q": Sum((kron(2, 5, 12, 30), kron(2, 5, 12, 30).scaled(0.1))),
        "x.attn.to_v": Matrix(LowRank(randn(g, 12, 3), randn(g, 3, 20))),
        "x.conv": kron(4, 3, 12, 18, 3, 3),
        "x.ff": Matrix(Full(randn(g, 20, 12))).scaled(0.01),
        "x.norm.bias": Matrix(Full(randn(g, 7))),
    }
    return Adapter(layers, {"k": "v"}, ("note",))


def distance(adapter, other):
    lost = total = 0.0
    for name, delta in adapter.layers.items():
        kept = other.layers[name].dense() if name in other.layers else torch.zeros(delta.shape)
        lost += float((delta.dense() - kept).square().sum())
        total += float(delta.dense().square().sum())
    return (lost / total) ** 0.5


@pytest.mark.parametrize(
    "form", [KronForm((2, 5)), KronForm((4, 4), 3, "shuffled"), LowRankForm(2), LowRankForm(None), DenseForm()]
)
def test_the_reported_errors_are_the_true_ones(form):
    adapter = example()
    compressed, report = compress(adapter, form)
    assert list(compressed.layers) == list(adapter.layers)
    assert compressed.metadata == adapter.metadata
    assert compressed.notes == adapter.notes
    assert compressed.layers["x.norm.bias"] == adapter.layers["x.norm.bias"]
    for line in report.layers:
        before, after = adapter.layers[line.name], compressed.layers[line.name]
        assert_close(line.norm, float(before.dense().norm()))
        assert_close(
            line.error, float((before.dense() - after.dense()).norm() / before.dense().norm()), rtol=0, atol=1e-6
        )
        assert (line.before, line.after) == (before.parameters, after.parameters)
    assert_close(report.error, distance(adapter, compressed), rtol=0, atol=1e-6)
    assert (report.before, report.after) == (adapter.parameters, compressed.parameters)
    assert f"{report.before:,} → {report.after:,} parameters" in str(report)


def test_forms_by_name_leave_others_alone_and_none_leaves_out():
    adapter = example()
    compressed, report = compress(adapter, {"x.ff": KronForm((4, 4)), "x.conv": None})
    assert set(compressed.layers) == set(adapter.layers) - {"x.conv"}
    assert isinstance(compressed.layers["x.ff"], Kron)
    assert compressed.layers["x.attn.to_q"] == adapter.layers["x.attn.to_q"]
    assert {line.name: line.error for line in report.layers}["x.conv"] == 1.0
    assert report.worst.name == "x.conv"
    assert_close(report.error, distance(adapter, compressed))


def test_rules_choose_factors_as_they_do_for_training():
    rules = (TargetRule((2, 5), ("q",)), TargetRule((4, 4), (), "attn"))
    assert forms_by_rules(example(), rules, 2, "shuffled") == {
        "x.attn.to_q": KronForm((2, 5), 2, "shuffled"),
        "x.attn.to_v": KronForm((4, 4), 2, "shuffled"),
    }


CANDIDATES = ((2, 5), (4, 4), (6, 2))


def everything(adapter, max_terms):
    """All choices for all layers: (parameters, lost) of each."""
    options = []
    for delta in adapter.layers.values():
        if len(delta.shape) < 2:
            continue
        energy = float(delta.dense().square().sum())
        of_layer = [(0, energy)]
        for factors, terms in itertools.product(CANDIDATES, range(1, max_terms + 1)):
            near = nearest_kron(delta, factors, terms)
            of_layer.append((near.delta.parameters, near.error**2 * energy))
        options.append(of_layer)
    return [(sum(o[0] for o in choice), sum(o[1] for o in choice)) for choice in itertools.product(*options)]


@pytest.mark.parametrize("parameters", [40, 60, 150, 300, 10_000])
def test_a_parameter_budget_is_kept_and_close_to_the_best(parameters):
    adapter = example()
    forms = forms_within(adapter, parameters=parameters, candidates=CANDIDATES, max_terms=2)
    compressed, report = compress(adapter, forms)
    assert compressed.parameters - 7 <= parameters
    best = min(lost for size, lost in everything(adapter, 2) if size <= parameters)
    total = sum(float(d.dense().square().sum()) for d in adapter.layers.values())
    assert report.error**2 * total <= best + 0.15 * total  # greedy steps on convex hulls: one layer's last step from the best
    if parameters == 10_000:
        assert_close(report.error**2 * total, best, rtol=1e-6, atol=1e-9 * total)


@pytest.mark.parametrize("error", [0.9, 0.5, 0.3])
def test_an_error_budget_is_met(error):
    adapter = example()
    matrices = Adapter({name: delta for name, delta in adapter.layers.items() if len(delta.shape) > 1})
    compressed, report = compress(matrices, forms_within(matrices, error=error, candidates=CANDIDATES, max_terms=6))
    assert report.error <= error * (1 + 1e-6)
    assert_close(report.error, distance(matrices, compressed), rtol=0, atol=1e-6)
    looser, _ = compress(matrices, forms_within(matrices, error=min(1.0, error * 1.1), candidates=CANDIDATES, max_terms=6))
    assert looser.parameters <= compressed.parameters


def test_budgets_that_make_no_sense_or_cannot_be_met_say_so():
    for options in (
        {},
        {"parameters": 5, "error": 0.1},
        {"error": 0.1, "candidates": ()},
        {"error": 0.1, "max_terms": 0},
    ):
        with pytest.raises(ConfigError, match="needs one budget"):
            forms_within(example(), **options)
    with pytest.raises(
        ConfigError, match=r"A relative error of 0\.01 cannot be met: 0\.\d+ remains with [\d,]+ parameters"
    ):
        forms_within(example(), error=0.01, candidates=CANDIDATES)
    for too_few in (0, 1, 10):
        with pytest.raises(ConfigError, match=f"^A budget of {too_few} has room for no layer") as error:
            forms_within(example(), parameters=too_few, candidates=CANDIDATES)
    least = error.value.expected
    assert any(forms_within(example(), parameters=least, candidates=CANDIDATES).values())
    with pytest.raises(ConfigError, match="has room for no layer"):
        forms_within(example(), parameters=least - 1, candidates=CANDIDATES)
    for form in (lambda: KronForm((0, 4)), lambda: KronForm((4, 4), 0), lambda: LowRankForm(0)):
        with pytest.raises(ConfigError, match="is not possible"):
            form()


def test_layers_that_cannot_be_compressed_are_named():
    dora = Adapter({"a.to_q": Dora(Matrix(Full(torch.ones(4, 6))), torch.ones(4, 1))})
    for use in (lambda: compress(dora), lambda: forms_within(dora, parameters=10)):
        with pytest.raises(KronaError, match=r"^a.to_q: A DoRA update depends"):
            use()
    assert compress(dora, {})[0] == dora
    broken = Adapter({"a.to_q": Matrix(Full(torch.full((4, 6), float("inf"))))})
    with pytest.raises(KronaError, match=r"^a.to_q: The update holds numbers that are not finite"):
        compress(broken)
    assert len(compress(Adapter({"zero": Matrix(Full(torch.zeros(4, 6)))}))[0]) == 0


def models():
    g = torch.Generator().manual_seed(5)
    base = {
        "a.weight": randn(g, 12, 30),
        "same.weight": randn(g, 4, 4),
        "n.bias": randn(g, 5),
        "count": torch.tensor(3),
    }
    delta = Kron(Full(randn(g, 2, 5)), Full(randn(g, 6, 6)))
    tuned = {
        **base,
        "a.weight": base["a.weight"] + delta.dense(),
        "n.bias": base["n.bias"] + 1,
        "only.weight": randn(g, 2, 2),
    }
    return tuned, base, delta


def test_what_was_merged_is_extracted():
    tuned, base, delta = models()
    adapter, report = extract(tuned, base, KronForm((2, 5)))
    assert set(adapter.layers) == {"a", "n.bias"}
    assert isinstance(adapter.layers["a"], Kron)
    assert_close(adapter.layers["a"].dense(), delta.dense(), rtol=1e-9, atol=1e-9)
    assert_close(adapter.layers["n.bias"].dense(), torch.ones(5, dtype=torch.float64))
    assert report.error < 1e-7
    dense, _ = extract(tuned, base, DenseForm())
    assert_close(dense.layers["a"].dense(), delta.dense())
    low, report = extract(tuned, base, {"a": LowRankForm(1)})
    values = torch.linalg.svdvals(delta.dense())
    assert_close(report.error, float(values[1:].norm() / values.norm()), rtol=0, atol=1e-6)
    assert set(low.layers) == {"a"}


def test_weights_may_come_one_at_a_time():
    tuned, base, _ = models()
    asked = []

    def ask(name):
        asked.append(name)
        return base[name]

    adapter, _ = extract(tuned, ask, names=["a.weight", "same.weight"])
    assert asked == ["a.weight", "same.weight"]
    assert set(adapter.layers) == {"a"}


def test_small_changes_can_be_ignored_and_half_precision_is_compared_in_full():
    base = {"a.weight": torch.ones(4, 6, dtype=torch.bfloat16), "b.weight": torch.ones(4, 6)}
    tuned = {"a.weight": torch.ones(4, 6) + 1e-4, "b.weight": torch.ones(4, 6) + 1e-1}
    assert set(extract(tuned, base, DenseForm())[0].layers) == {"a", "b"}
    assert set(extract(tuned, base, DenseForm(), tolerance=1e-3)[0].layers) == {"b"}


def test_models_that_do_not_belong_together_say_so():
    tuned, base, _ = models()
    with pytest.raises(CoverageError, match="None of the 4 weights of the two models differ"):
        extract(base, base)
    with pytest.raises(CoverageError, match="share no weight"):
        extract({"x": torch.ones(2, 2)}, {"y": torch.ones(2, 2)})
    with pytest.raises(ShapeError, match=r"^a.weight: The tuned model has \(12, 30\), the base model \(3, 3\)"):
        extract(tuned, {**base, "a.weight": torch.ones(3, 3)})
