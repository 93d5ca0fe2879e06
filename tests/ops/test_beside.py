"""Updates that are ready to run beside their layers, against the dense update in float64."""

import pytest
import torch

from benchmarks.operations import operations
from krona_ops import Full, Hadamard, Kron, LowRank, Matrix, Sum
from krona_ops.live.beside import beside


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def updates(dtype=torch.float32):
    """12 to 10, in every form."""

    def low(rank=3):
        return LowRank(draw(10, rank, dtype=dtype), draw(rank, 12, dtype=dtype))

    deltas = {
        f"kron {layout} {a}": Kron(Full(draw(*a, dtype=dtype)), Full(draw(10 // a[0], 12 // a[1], dtype=dtype)), 0.7, layout)
        for layout in ("kron", "shuffled")
        for a in ((5, 2), (2, 6), (1, 1), (10, 12))
    }
    deltas["kron of a low-rank factor"] = Kron(Full(draw(2, 3, dtype=dtype)), LowRank(draw(5, 2, dtype=dtype), draw(2, 4)), 1.3)
    deltas |= {"low rank": Matrix(low(), -0.4), "dense": Matrix(Full(draw(10, 12, dtype=dtype)), 0.5)}
    deltas["loha"] = Matrix(Hadamard(low(), low(2)), 0.3)
    deltas["sum"] = Sum((deltas["low rank"], deltas["kron kron (5, 2)"], deltas["loha"]))
    return deltas


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", updates())
def test_it_adds_the_dense_update_in_place(name, stored):
    delta = updates(stored)[name]
    x, y = draw(2, 7, 12), draw(2, 7, 10)
    expected = y.double() + x.double() @ delta.dense().double().mT
    result = beside(delta, torch.float32)(y, x)
    assert result is y
    assert (y.double() - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", updates())
def test_in_the_dtype_of_the_input(name, dtype):
    delta = updates()[name]
    x, y = draw(7, 12, dtype=dtype), draw(7, 10, dtype=dtype)
    expected = y.double() + x.double() @ delta.dense().double().mT
    result = beside(delta, dtype)(y, x)
    assert result.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps  # a file's numbers are widened to float32
    assert (result.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("name", updates())
def test_with_strength_zero_nothing_moves(name):
    x, y = draw(7, 12), draw(7, 10)
    before = y.clone()
    beside(updates()[name].scaled(0.0), torch.float32)(y, x)
    assert torch.equal(y, before)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", [(5, 2), (2, 6)])
def test_a_kronecker_product_takes_its_two_products_and_nothing_else(sizes, stored):
    delta = updates(stored)[f"kron kron {sizes}"]
    run, x, y = beside(delta, torch.bfloat16), draw(7, 12, dtype=torch.bfloat16), draw(7, 10, dtype=torch.bfloat16)
    assert operations(lambda: run(y, x)) == 2
    assert operations(lambda: y.add_(delta.apply(x))) == (6 if stored == torch.float32 else 8)
