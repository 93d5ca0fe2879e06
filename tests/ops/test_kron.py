"""The Kronecker map against a dense float64 oracle: materialised, merged, applied, transposed, convolved."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from krona_ops.errors import ShapeError
from krona_ops.updates import kron

SIZES = [((3, 5), (7, 2)), ((1, 5), (7, 1)), ((3, 1), (1, 2)), ((2, 7), (5, 3)), ((6, 1), (1, 11))]
ORDERS = ["a first", "b first", None]


def factors(left, right, kernel=()):
    rng = torch.Generator().manual_seed(hash((left, right, kernel)) % 2**31)
    return (
        torch.randn(left, generator=rng, dtype=torch.float64),
        torch.randn((*right, *kernel), generator=rng, dtype=torch.float64),
    )


def oracle(a, b, layout):
    """ΔW element by element, as the papers index it."""
    (out_a, in_a), (out_b, in_b, *kernel) = a.shape, b.shape
    dense = np.zeros((out_a * out_b, in_a * in_b, *kernel))
    for m in range(out_a):
        for k in range(out_b):
            row = m * out_b + k if layout == "kron" else k * out_a + m
            for i in range(in_a):
                for j in range(in_b):
                    dense[row, i * in_b + j] = (a[m, i] * b[k, j]).numpy()
    return torch.from_numpy(dense)


def test_the_shuffled_layout_is_what_the_released_diffusekrona_code_computes():
    down = torch.tensor([[1.0, 2], [3, 4], [5, 6]])  # (in_a, out_a) in the official file
    up = torch.tensor([[1.0, 10], [100, 1000]])
    expected = torch.tensor(
        [
            [1.0, 10, 3, 30, 5, 50],
            [2, 20, 4, 40, 6, 60],
            [100, 1000, 300, 3000, 500, 5000],
            [200, 2000, 400, 4000, 600, 6000],
        ]
    )
    assert torch.equal(kron.materialise(down.T, up, "shuffled"), expected)
    assert torch.equal(kron.materialise(down.T, up, "kron"), expected[[0, 2, 1, 3]])


@pytest.mark.parametrize(("left", "right"), SIZES)
def test_the_kron_layout_is_the_kronecker_product_of_torch(left, right):
    a, b = factors(left, right)
    assert torch.equal(kron.materialise(a, b, "kron"), torch.kron(a, b))


@pytest.mark.parametrize("kernel", [(), (3,), (3, 2), (2, 3, 1)])
@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize(("left", "right"), SIZES)
def test_materialising_agrees_with_the_definition(left, right, layout, kernel):
    a, b = factors(left, right, kernel)
    assert torch.equal(kron.materialise(a, b, layout), oracle(a, b, layout))


@pytest.mark.parametrize("kernel", [(), (3,), (3, 2), (2, 3, 1)])
@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize(("left", "right"), SIZES)
def test_merging_adds_the_scaled_product_in_place(left, right, layout, kernel):
    a, b = factors(left, right, kernel)
    weight = torch.randn_like(oracle(a, b, layout))
    expected = weight + 0.7 * oracle(a, b, layout)
    returned = kron.add_(weight, a, b, 0.7, layout)
    assert returned is weight
    assert_close(weight, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize("dim", [0, 1])
def test_merging_writes_through_one_part_of_a_fused_weight(dim, layout):
    a, b = factors((3, 5), (7, 2))
    shape = [21, 10]
    shape[dim] *= 3
    fused = torch.randn(shape, dtype=torch.float64)
    expected = fused.clone()
    expected.narrow(dim, shape[dim] // 3, shape[dim] // 3).add_(oracle(a, b, layout))
    kron.add_(fused.narrow(dim, shape[dim] // 3, shape[dim] // 3), a, b, layout=layout)
    assert_close(fused, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merging_into_half_precision_rounds_once(dtype):
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 5, generator=rng), torch.randn(7, 2, generator=rng)
    weight = torch.randn(21, 10, generator=rng).to(dtype)
    once = (weight.double() + 0.3 * torch.kron(a, b).double()).to(dtype)
    kron.add_(weight, a, b, 0.3)
    assert (weight.float() - once.float()).abs().max() <= torch.finfo(dtype).eps * once.float().abs().max()
    assert (weight == once).float().mean() > 0.99  # float32 against float64 may break a tie the other way


def test_merging_a_product_of_another_shape_names_both_shapes():
    a, b = factors((3, 5), (7, 2))
    with pytest.raises(ShapeError, match=r"A \(3, 5\) ⊗ B \(7, 2\) is \(21, 10\), the weight is \(10, 21\)"):
        kron.add_(torch.zeros(10, 21), a, b)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize(("left", "right"), SIZES)
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_applying_is_multiplying_by_the_dense_product_in_either_order(left, right, layout, order, lead):
    a, b = factors(left, right)
    x = torch.randn(*lead, left[1] * right[1], dtype=torch.float64)
    assert_close(kron.apply(a, b, x, layout, order), x @ oracle(a, b, layout).T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize(("left", "right"), SIZES)
@pytest.mark.parametrize("lead", [(), (0,), (4,), (2, 3)])
def test_a_product_is_added_onto_what_is_there(left, right, layout, lead):
    a, b = factors(left, right)
    x = torch.randn(*lead, left[1] * right[1], dtype=torch.float64)
    y = torch.randn(*lead, left[0] * right[0], dtype=torch.float64)
    expected = y + x @ oracle(a, b, layout).T
    assert kron.add_product_(y, a, b, x, layout) is y
    assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("left", SIZES)
def test_the_cheapest_order_is_that_of_the_sizes(left):
    a, b = factors(*left)
    assert kron.cheapest_order(a.shape, b.shape) == kron.shape_of(a, b).cheapest_order


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize(("left", "right"), SIZES)
def test_the_adjoint_is_multiplying_by_the_transpose(left, right, layout, order):
    a, b = factors(left, right)
    y = torch.randn(3, left[0] * right[0], dtype=torch.float64)
    assert_close(kron.adjoint(a, b, y, layout, order), y @ oracle(a, b, layout), rtol=1e-12, atol=1e-12)


CONVOLUTIONS = [
    ((3,), {"stride": 2, "padding": 1}),
    ((3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    ((3, 3), {"padding": "same"}),
    ((1, 1), {}),
    ((2, 3, 1), {"stride": (1, 2, 1), "padding": (0, 1, 0)}),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize(("kernel", "options"), CONVOLUTIONS)
def test_convolving_is_the_convolution_with_the_dense_product(kernel, options, layout, order):
    a, b = factors((3, 5), (7, 2), kernel)
    x = torch.randn(2, 10, *(6, 7, 5)[: len(kernel)], dtype=torch.float64)
    dense = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1](x, oracle(a, b, layout), **options)
    assert_close(kron.convolve(a, b, x, layout, order, **options), dense, rtol=1e-12, atol=1e-12)


def test_factors_that_make_no_product_are_refused():
    with pytest.raises(ShapeError, match="make no Kronecker product"):
        kron.shape_of(torch.zeros(2, 2, 3), torch.zeros(2, 2))
    with pytest.raises(ShapeError, match="make no Kronecker product"):
        kron.shape_of(torch.zeros(2, 2), torch.zeros(4))
