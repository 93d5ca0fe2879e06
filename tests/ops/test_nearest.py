"""The nearest Kronecker products and low-rank updates are the best there are,
and their errors are the spectrum's tails."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from krona_ops import Dora, Full, Kron, LowRank, Matrix, Sum
from krona_ops.errors import KronaError, ShapeError
from krona_ops.nearest.kronecker import Rearrangement, nearest_kron
from krona_ops.nearest.linalg import eigh
from krona_ops.nearest.low_rank import decompose, spectrum, to_low_rank
from krona_ops.updates.contraction import inner, norm
from krona_ops.updates.shapes import split

from .deltas import deltas, krons, pairs, randn, rearranged, shapes

QUICK = settings(max_examples=60, deadline=None)
NEAR = {"rtol": 0, "atol": 3e-7}
"""Gram matrices square the spectrum: relative errors are exact to about the root of float64's precision."""


def distance(delta, approximation):
    dense = delta.dense()
    return float((dense - approximation.dense()).norm() / dense.norm())


@QUICK
@given(st.data())
def test_the_error_is_the_tail_of_the_spectrum_of_the_dense_rearrangement(data):
    delta = data.draw(deltas())
    factors, layout = data.draw(pairs(delta.shape)), data.draw(st.sampled_from(("kron", "shuffled")))
    terms = data.draw(st.integers(1, 4))
    p, q = factors
    values = torch.linalg.svdvals(rearranged(delta.dense(), (p, q, delta.shape[0] // p, delta.shape[1] // q), layout))
    tail = float(values[terms:].norm() / values.norm())
    nearest = nearest_kron(delta, factors, terms, layout)
    assert_close(nearest.error, tail, **NEAR)
    assert_close(distance(delta, nearest.delta), tail, **NEAR)
    kept = nearest.delta.terms if isinstance(nearest.delta, Sum) else (nearest.delta,)
    assert len(kept) <= terms
    assert all((term.a.shape, term.layout) == (factors, layout) for term in kept)


@QUICK
@given(st.data())
def test_a_kronecker_product_of_the_same_factors_is_found_exactly(data):
    shape = data.draw(shapes())
    factors, layout = data.draw(pairs(shape)), data.draw(st.sampled_from(("kron", "shuffled")))
    delta = data.draw(krons(shape, factors, layout))
    nearest = nearest_kron(delta, factors, 3, layout)
    assert isinstance(nearest.delta, Kron)
    assert nearest.error < 1e-12
    assert_close(nearest.delta.dense(), delta.dense(), rtol=1e-11, atol=1e-11)


@QUICK
@given(st.data())
def test_inner_products_and_norms_are_those_of_the_dense_updates(data):
    x = data.draw(deltas())
    y = data.draw(deltas(x.shape))
    size = float(x.dense().norm() * y.dense().norm())
    assert abs(inner(x, y) - float((x.dense() * y.dense()).sum())) < 1e-12 * size
    assert_close(norm(x), float(x.dense().norm()), rtol=1e-9, atol=1e-9)


@QUICK
@given(st.data())
def test_the_low_rank_error_is_the_tail_of_the_spectrum(data):
    delta = data.draw(deltas())
    rank = data.draw(st.integers(1, 6))
    values = torch.linalg.svdvals(delta.dense().flatten(1))
    nearest = to_low_rank(delta, rank)
    tail = float(values[rank:].norm() / values.norm())
    assert isinstance(nearest.delta.factor, LowRank)
    assert nearest.delta.shape == delta.shape
    assert nearest.delta.factor.up.shape[1] <= rank
    assert_close(nearest.error, tail, **NEAR)
    assert_close(distance(delta, nearest.delta), tail, **NEAR)
    assert distance(delta, to_low_rank(delta).delta) < 1e-6


@QUICK
@given(st.data())
def test_the_decomposition_is_one(data):
    delta = data.draw(deltas())
    u, values, v = decompose(delta)
    assert_close(u * values @ v, delta.dense().flatten(1), rtol=0, atol=1e-7 * float(delta.dense().norm()) + 1e-12)
    assert (values.diff() <= 1e-9 * values[0]).all()
    assert_close(spectrum(delta), values, rtol=1e-6, atol=1e-6 * float(values[0]))


def test_sizes_that_do_not_divide_one_another_are_formed_and_still_right():
    g = torch.Generator().manual_seed(0)
    delta = Sum((Kron(Full(randn(g, 4, 3)), Full(randn(g, 9, 10))), Kron(Full(randn(g, 6, 5)), Full(randn(g, 6, 6)))))
    values = torch.linalg.svdvals(rearranged(delta.dense(), (9, 2, 4, 15), "kron"))
    assert_close(nearest_kron(delta, (9, 2), 2).error, float(values[2:].norm() / values.norm()), **NEAR)
    assert_close(norm(delta), float(delta.dense().norm()))


def test_an_update_too_large_to_be_formed_is_compressed_by_its_structure():
    """2^18 × 2^18 entries would take half a terabyte. With A = A₁ ⊗ A₂ the product is A₁ ⊗ (A₂ ⊗ B) exactly."""
    g = torch.Generator().manual_seed(1)
    first, second, b = randn(g, 8, 4), randn(g, 32, 16), randn(g, 2**10, 2**12)
    huge = Kron(Full(torch.kron(first, second)), Full(b))
    assert huge.shape == (2**18, 2**18)
    assert_close(norm(huge), float(first.norm() * second.norm() * b.norm()))
    assert Rearrangement(huge, split(huge.shape, (8, 4))).error(1) < 1e-7
    lora = Matrix(LowRank(randn(g, 2**18, 2), randn(g, 2, 2**18)))
    assert 0 < Rearrangement(lora, split(lora.shape, (4, 2))).error(1) < 1
    assert norm(Sum((huge, lora))) < norm(huge) + norm(lora)


def test_half_precision_in_gives_float32_out_and_float64_stays():
    g = torch.Generator().manual_seed(2)
    for dtype, expected in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ):
        delta = Kron(Full(randn(g, 4, 3).to(dtype)), Full(randn(g, 5, 2).to(dtype)))
        assert nearest_kron(delta, (2, 3)).delta.a.value.dtype == expected
        assert to_low_rank(delta, 2).delta.factor.up.dtype == expected


def test_zero_has_no_error():
    zero = Matrix(Full(torch.zeros(6, 4)))
    assert nearest_kron(zero, (2, 2)).error == 0
    assert to_low_rank(zero, 2).error == 0
    assert prod(nearest_kron(zero, (2, 2)).delta.dense().shape) == 24


def test_what_cannot_be_done_says_why():
    dora = Dora(Matrix(Full(torch.ones(4, 6))), torch.ones(4, 1))
    for use in (
        lambda: nearest_kron(dora, (2, 2)),
        lambda: to_low_rank(dora, 2),
        lambda: norm(dora),
        lambda: inner(dora, dora),
    ):
        with pytest.raises(KronaError, match="A DoRA update depends on the base model's weight, so it cannot be"):
            use()
    plain = Matrix(Full(torch.ones(4, 6)))
    with pytest.raises(ShapeError, match="0 Kronecker terms"):
        nearest_kron(plain, (2, 2), 0)
    with pytest.raises(ShapeError, match="A rank of 0"):
        to_low_rank(plain, 0)
    with pytest.raises(ShapeError, match="has no Kronecker factors"):
        nearest_kron(Matrix(Full(torch.ones(4))), (2, 2))
    with pytest.raises(ShapeError, match="has no rank"):
        to_low_rank(Matrix(Full(torch.ones(4))), 2)
    with pytest.raises(ShapeError, match="no inner product"):
        inner(plain, Matrix(Full(torch.ones(6, 4))))
    with pytest.raises(KronaError, match="not finite"):
        eigh(torch.full((2, 2), float("inf")))
