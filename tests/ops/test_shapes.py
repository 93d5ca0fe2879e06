"""Integer arithmetic of factors: divisors, splits, parameter counts, the cheaper order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from krona_ops.errors import ShapeError
from krona_ops.updates.shapes import KronShape, divisors, nearest_divisor, split

SDXL = {(1280, 1280): 360, (640, 640): 60, (1280, 2048): 120, (640, 2048): 20}
"""(out, in) of the attention projections of SDXL's UNet and how many of each (facts of its configuration)."""
SD15 = {(320, 320): 30, (640, 640): 30, (1280, 1280): 36, (320, 768): 10, (640, 768): 10, (1280, 768): 12}


@pytest.mark.parametrize(
    ("layers", "factors", "count", "parameters"),
    [
        (SDXL, (64, 4), 560, 3_874_560),
        (SDXL, (64, 8), 560, 2_152_320),
        (SD15, (64, 4), 128, 398_048),
        (SD15, (64, 8), 128, 248_176),
    ],
)
def test_parameter_counts_are_those_of_the_paper(layers, factors, count, parameters):
    assert sum(layers.values()) == count
    assert sum(n * split(shape, factors).parameters for shape, n in layers.items()) == parameters


@given(st.integers(1, 5000))
def test_divisors_are_exactly_the_numbers_that_divide(n):
    assert divisors(n) == tuple(d for d in range(1, n + 1) if n % d == 0)


@given(st.integers(1, 5000), st.integers(1, 300))
def test_the_nearest_divisor_divides_and_none_is_nearer(n, wanted):
    nearest = nearest_divisor(n, wanted)
    assert n % nearest == 0
    assert all(max(nearest, wanted) * min(d, wanted) <= max(d, wanted) * min(nearest, wanted) for d in divisors(n))


def test_nearness_is_a_ratio_and_a_tie_takes_the_smaller():
    assert nearest_divisor(320, 128) == 160
    assert nearest_divisor(320, 64) == 64
    assert nearest_divisor(77, 64) == 77
    assert nearest_divisor(4, 2) == 2
    assert nearest_divisor(6, 4) == 3
    assert nearest_divisor(8, 1000) == 8


def test_a_split_gives_back_the_weight_and_keeps_the_kernel():
    shape = split((320, 4, 3, 3), (64, 4))
    assert shape == KronShape(64, 4, 5, 1, (3, 3))
    assert shape.weight == (320, 4, 3, 3)
    assert shape.parameters == 64 * 4 + 5 * 1 * 9


@given(*[st.integers(1, 40)] * 4)
def test_the_cheapest_order_counts_its_multiplications(out_a, in_a, out_b, in_b):
    shape = KronShape(out_a, in_a, out_b, in_b)
    b_first = torch.Size((in_a, in_b)).numel() * out_b + out_a * in_a * out_b
    a_first = out_a * in_a * in_b + out_a * in_b * out_b
    assert shape.apply_cost("b first") == b_first
    assert shape.apply_cost("a first") == a_first
    assert shape.apply_cost(shape.cheapest_order) == min(a_first, b_first)


def test_the_paper_layer_is_applied_b_first_at_a_sixteenth_of_the_work():
    shape = split((1280, 1280), (64, 4))
    assert shape.cheapest_order == "b first"
    assert shape.apply_cost("b first") == 30_720  # measured as multiply-adds of the released code's other order: 491,520
    assert shape.apply_cost("a first") == 491_520


@pytest.mark.parametrize("bad", [0, -3])
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ShapeError, match="has no divisors"):
        divisors(bad)
    with pytest.raises(ShapeError, match="is not possible"):
        nearest_divisor(12, bad)


def test_a_vector_has_no_factors():
    with pytest.raises(ShapeError, match=r"\(320,\) has no Kronecker factors"):
        split((320,), (64, 4))
