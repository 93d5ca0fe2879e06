"""Blends are sums, in any order and any mix of formats; TIES and DARE are what their papers say."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from krona_ops import Adapter, Dora, Full, Kron, Matrix, Sum
from krona_ops.errors import ConfigError, KronaError, ShapeError
from krona_ops.nearest.forms import KronForm
from krona_ops.operations.blend import _generator, blend, difference, negate

from .deltas import deltas, randn

QUICK = settings(max_examples=40, deadline=None)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SHAPES = {"first": (6, 20), "second": (12, 18, 3, 2), "third": (4, 6)}


@st.composite
def adapters(draw):
    names = draw(st.lists(st.sampled_from(sorted(SHAPES)), unique=True, max_size=3))
    return Adapter({name: draw(deltas(SHAPES[name])) for name in names})


def merged(adapter, strength=1.0):
    """The weights 1, 2, 3 … of a model with an adapter merged in."""
    weights = {
        name: torch.arange(float(torch.Size(shape).numel()), dtype=torch.float64).view(shape) for name, shape in SHAPES.items()
    }
    for name, delta in adapter.layers.items():
        delta.add_to(weights[name], strength)
    return weights


def change(adapter):
    base = merged(Adapter({}))
    return {name: weight - base[name] for name, weight in merged(adapter).items()}


@QUICK
@given(st.lists(st.tuples(adapters(), st.floats(-3, 3)), min_size=1, max_size=4))
def test_merging_a_blend_is_the_weighted_sum_of_merging_each(parts):
    of_blend, each = change(blend(parts)), [change(adapter) for adapter, _ in parts]
    for name in SHAPES:
        assert_close(of_blend[name], sum(w * c[name] for (_, w), c in zip(parts, each, strict=True)), rtol=1e-8, atol=1e-8)


@QUICK
@given(st.lists(st.tuples(adapters(), st.floats(-3, 3)), min_size=2, max_size=4), st.randoms())
def test_the_order_does_not_matter(parts, random):
    shuffled = random.sample(parts, len(parts))
    a, b = change(blend(parts)), change(blend(shuffled))
    for name in SHAPES:
        assert_close(a[name], b[name], rtol=1e-8, atol=1e-8)


@QUICK
@given(adapters(), adapters(), st.floats(-2, 2))
def test_a_blend_is_linear(x, y, scale):
    left, right = change(blend([(x, scale), (y, scale)])), change(blend([(x, 1.0), (y, 1.0)]).scaled(scale))
    for name in SHAPES:
        assert_close(left[name], right[name], rtol=1e-8, atol=1e-8)


@QUICK
@given(adapters())
def test_scale_zero_is_the_base(adapter):
    base = merged(Adapter({}))
    for name, weight in merged(adapter.scaled(0.0)).items():
        assert torch.equal(weight, base[name])


@QUICK
@given(adapters())
def test_the_difference_with_itself_is_nothing_and_the_negative_undoes(adapter):
    assert len(difference(adapter, adapter)) == 0
    assert len(blend([(adapter, 2.0), (negate(adapter), 2.0)])) == 0


def kron(seed=0, shape=(6, 20)):
    g = torch.Generator().manual_seed(seed)
    return Kron(Full(randn(g, 2, 5)), Full(randn(g, shape[0] // 2, shape[1] // 5)))


def test_terms_are_kept_as_they_are_and_nested_sums_are_flat():
    x, y, z = kron(0), kron(1), kron(2)
    blended = blend(
        [(Adapter({"a": Sum((x, Sum((y, x))))}), 2.0), (Adapter({"a": z, "b": y}), 1.0), (Adapter({"a": y}), 0.0)]
    )
    assert blended.layers["a"] == Sum((x.scaled(4.0), y.scaled(2.0), z))
    assert blended.layers["b"] == y
    assert blended.layers["b"].a.value is y.a.value
    assert len(blend([(Adapter({"a": x}), 0.0)])) == 0


def test_normalised_weights_add_up_to_one():
    a, b = Adapter({"a": kron(0)}), Adapter({"a": kron(1)})
    blended = blend([(a, 3.0), (b, 1.0)], normalise=True).layers["a"].dense()
    assert_close(blended, 0.75 * kron(0).dense() + 0.25 * kron(1).dense())
    assert_close(blend([(a, 3.0), (a, 5.0)], normalise=True).layers["a"].dense(), kron(0).dense())
    for method in ("ties", "dare ties"):  # equal adapters: the average of each weight is that weight
        blended = blend([(a, 3.0), (a, 5.0)], normalise=True, method=method, density=1.0)
        assert_close(blended.layers["a"].dense(), kron(0).dense())


def test_dora_is_added_exactly_and_refused_elsewhere():
    weight = randn(torch.Generator().manual_seed(3), 6, 20)
    dora = Dora(kron(0), torch.rand(6, 1, dtype=torch.float64))
    pair = [(Adapter({"a": dora}), 0.5), (Adapter({"a": kron(1)}), 2.0)]
    expected = weight + 0.5 * (dora.add_to(weight.clone()) - weight) + 2 * kron(1).dense()
    assert_close(blend(pair).layers["a"].add_to(weight.clone()), expected, **CLOSE)
    assert blend([(Adapter({"a": dora}), 1.0), (Adapter({"a": dora}), 0.5)]).layers["a"] == dora.scaled(1.5)
    for options in ({"method": "ties"}, {"method": "dare"}, {"form": KronForm((2, 5))}):
        with pytest.raises(KronaError, match=r"^a: A DoRA update depends on the base model's weight"):
            blend(pair, **options)


def ties_by_hand(updates, weights, density, normalise):
    """Yadav et al. 2023, algorithm 1, one weight at a time."""
    flat = [u.flatten().tolist() for u in updates]
    kept = []
    for values, weight in zip(flat, weights, strict=True):
        order = sorted(range(len(values)), key=lambda n: -abs(values[n]))[: max(1, round(density * len(values)))]
        kept.append([weight * v if n in order else 0.0 for n, v in enumerate(values)])
    result = []
    for column in zip(*kept, strict=True):
        sign = 1 if sum(column) > 0 else -1 if sum(column) < 0 else 0
        agree = [(v, abs(w) if normalise else 1.0) for v, w in zip(column, weights, strict=True) if v * sign > 0]
        result.append(sum(v for v, _ in agree) / sum(w for _, w in agree) if agree else 0.0)
    return torch.tensor(result, dtype=torch.float64).view_as(updates[0])


@pytest.mark.parametrize("density", [0.01, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, -2.0, 1.5)])
@pytest.mark.parametrize("normalise", [False, True])
def test_ties_is_trim_elect_and_average(density, weights, normalise):
    parts = [kron(0), kron(1), kron(2)]
    blended = blend(
        [(Adapter({"a": d}), w) for d, w in zip(parts, weights, strict=True)],
        method="ties",
        density=density,
        normalise=normalise,
    )
    assert_close(
        blended.layers["a"].dense(), ties_by_hand([d.dense() for d in parts], weights, density, normalise), **CLOSE
    )


def test_ties_keeps_equal_magnitudes_at_the_threshold():
    delta = Matrix(Full(torch.tensor([[2.0, -1.0, 1.0, 0.5]])))
    blended = blend([(Adapter({"a": delta}), 1.0)], method="ties", density=0.5)
    assert blended.layers["a"].dense().tolist() == [[2.0, -1.0, 1.0, 0.0]]


def test_dare_drops_and_rescales_by_its_own_draw_per_layer_and_adapter():
    one, two = kron(0), kron(1)
    pairs = [(Adapter({"a": one, "b": one}), 1.0), (Adapter({"a": two}), -0.5)]
    blended = blend(pairs, method="dare", density=0.3, seed=7)
    masks = [torch.rand(6, 20, generator=_generator(7, n, "a")) < 0.3 for n in range(2)]
    expected = (one.dense() * masks[0] - 0.5 * two.dense() * masks[1]) / 0.3
    assert_close(blended.layers["a"].dense(), expected, **CLOSE)
    assert blend(pairs, method="dare", density=0.3, seed=7) == blended
    alone = blend([(Adapter({"a": one}), 1.0)], method="dare", density=0.3, seed=7)
    assert_close(alone.layers["a"].dense(), one.dense() * masks[0] / 0.3, **CLOSE)
    assert not torch.equal(blended.layers["b"].dense() == 0, blended.layers["a"].dense() == 0)
    assert blend(pairs, method="dare", density=0.3, seed=8) != blended


def test_dare_is_right_on_average():
    big = Matrix(Full(torch.ones(200, 300)))
    blended = blend([(Adapter({"a": big}), 1.0)], method="dare", density=0.2).layers["a"].dense()
    assert set(blended.unique().tolist()) == {0.0, 5.0}
    assert abs(blended.mean() - 1) < 0.05


def test_dare_ties_elects_among_the_survivors():
    one, two = kron(0), kron(1)
    pairs = [(Adapter({"a": d}), 1.0) for d in (one, two)]
    blended = blend(pairs, method="dare ties", density=0.6, seed=1).layers["a"].dense()
    kept = [
        d.dense() * (torch.rand(6, 20, generator=_generator(1, n, "a")) < 0.6) / 0.6 for n, d in enumerate((one, two))
    ]
    assert_close(blended, ties_by_hand(kept, (1.0, 1.0), 1.0, False), **CLOSE)


@pytest.mark.parametrize("method", ["sum", "ties", "dare"])
def test_a_form_compresses_every_layer_at_once(method):
    pairs = [(Adapter({"a": kron(0), "bias": Matrix(Full(torch.ones(3)))}), 1.0), (Adapter({"a": kron(1)}), 1.0)]
    whole, small = blend(pairs, method=method), blend(pairs, method=method, form=KronForm((2, 5)))
    assert isinstance(small.layers["a"], Kron)
    values = torch.linalg.svdvals(
        whole.layers["a"].dense().unflatten(0, (2, 3)).unflatten(2, (5, 4)).movedim(2, 1).reshape(10, 12)
    )
    assert_close(
        (small.layers["a"].dense() - whole.layers["a"].dense()).norm(), values[1:].norm(), rtol=1e-6, atol=1e-6
    )


def test_metadata_is_what_all_agree_on_and_how_it_was_blended():
    a = Adapter({"a": kron(0)}, {"base": "sdxl", "title": "one"}, ("scale 1",))
    b = Adapter({"a": kron(1)}, {"base": "sdxl", "title": "two"}, ("scale 1", "alpha ignored"))
    blended = blend([(a, 1.0), (b, 0.5)])
    assert blended.metadata["base"] == "sdxl"
    assert "title" not in blended.metadata
    assert json.loads(blended.metadata["krona.blend"]) == {"method": "sum", "weights": [1.0, 0.5]}
    assert blended.notes == ("scale 1", "alpha ignored")


def test_what_cannot_be_blended_says_why():
    a, b = Adapter({"x.to_q": kron(0)}), Adapter({"x.to_q": kron(0, (12, 20))})
    with pytest.raises(
        ShapeError, match=r"x.to_q: The adapters' updates have the shapes \(6, 20\) and \(12, 20\).*different base"
    ):
        blend([(a, 1.0), (b, 1.0)])
    with pytest.raises(ConfigError, match="nothing to blend"):
        blend([])
    with pytest.raises(ConfigError, match="add up to 0"):
        blend([(a, 1.0), (a, -1.0)], normalise=True)
    with pytest.raises(ConfigError, match=r"A density of 0\.0"):
        blend([(a, 1.0)], method="ties", density=0.0)
    with pytest.raises(ConfigError, match='"slerp" is no way'):
        blend([(a, 1.0)], method="slerp")
