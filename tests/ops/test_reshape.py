"""An update in the shape of its weight: the same elements in the same order, and the structure kept."""

import pytest
import torch

from krona_ops import Dora, Full, Kron, LowRank, Matrix, Sum, Tucker
from krona_ops.errors import ShapeError
from krona_ops.updates.delta import tensors
from krona_ops.updates.factor import Hadamard
from krona_ops.updates.reshape import fits, reshaped


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def flat(window, ones=()):
    """Updates (10, 12·window, 1…) of every kind, as files have them."""
    low = LowRank(randn(10, 2), randn(2, 12 * window, *ones))
    return {
        "kron": Kron(Full(randn(2, 3)), LowRank(randn(5, 2), randn(2, 4 * window, *ones)), 0.5),
        "kron whole": Kron(Full(randn(2, 3)), Full(randn(5, 4 * window, *ones)), 0.5),
        "shuffled": Kron(Full(randn(2, 3)), Full(randn(5, 4 * window, *ones)), 0.5, "shuffled"),
        "lora": Matrix(low, 0.5),
        "loha": Matrix(Hadamard(low, LowRank(randn(10, 3), randn(3, 12 * window, *ones)))),
        "dense": Matrix(Full(randn(10, 12 * window, *ones))),
        "sum": Sum((Matrix(low), Kron(Full(randn(2, 3)), Full(randn(5, 4 * window, *ones))))),
    }


@pytest.mark.parametrize("kind", flat(1))
@pytest.mark.parametrize(
    ("ones", "kernel"), [((), (3,)), ((), (3, 2)), ((), (2, 3, 2)), ((), (1, 1)), ((1, 1), ()), ((1,), (1, 1))]
)
def test_a_flattened_update_gets_the_kernel_of_its_weight(kind, ones, kernel):
    window = int(torch.tensor(kernel).prod()) if kernel else 1
    delta = flat(window, ones)[kind]
    result = reshaped(delta, (10, 12, *kernel))
    assert result.shape == (10, 12, *kernel)
    assert torch.equal(result.dense(), delta.dense().reshape(10, 12, *kernel))
    assert type(result) is type(delta)
    assert sum(t.numel() for t in tensors(result)) == sum(t.numel() for t in tensors(delta))


def test_a_kernel_is_laid_flat_for_a_linear_weight():
    delta = Kron(Full(randn(2, 3)), Full(randn(5, 4, 3, 2)))
    assert torch.equal(reshaped(delta, (10, 72)).dense(), delta.dense().flatten(1))
    core = Matrix(Tucker(randn(3, 3, 3, 2), randn(3, 10), randn(3, 12)))
    assert torch.equal(reshaped(core, (10, 72)).dense(), core.dense().flatten(1))


def test_a_tucker_core_loses_an_axis_of_one():
    """PEFT's one-dimensional kernels are (k, 1)."""
    delta = Kron(Full(randn(2, 3)), Tucker(randn(2, 2, 3, 1), randn(2, 5), randn(2, 4)))
    result = reshaped(delta, (10, 12, 3))
    assert isinstance(result.b, Tucker)
    assert torch.equal(result.dense(), delta.dense().squeeze(-1))


def test_a_factor_across_channels_and_kernel_becomes_dense():
    """sd-scripts KronA splits in·prod(kernel): 12·9 = 27 · 4, and 27 does not divide 12."""
    delta = Kron(Full(randn(2, 27)), Full(randn(5, 4)))
    result = reshaped(delta, (10, 12, 3, 3))
    assert isinstance(result, Matrix)
    assert torch.equal(result.dense(), delta.dense().reshape(10, 12, 3, 3))


@pytest.mark.parametrize("per_output", [True, False])
def test_norms_follow(per_output):
    weight = randn(10, 12, 3, 2)
    flat_shape = (10, 12, 6)
    delta = Matrix(LowRank(randn(10, 2), randn(2, 12, 6)))
    magnitude = randn(10, 1, 1).abs() if per_output else randn(1, 12, 1).abs()
    dora = Dora(delta, magnitude)
    result = reshaped(dora, tuple(weight.shape))
    expected = dora.add_to(weight.reshape(flat_shape).clone()).reshape(weight.shape)
    torch.testing.assert_close(result.add_to(weight.clone()), expected)


def test_what_does_not_fit_is_refused():
    delta = flat(9)["kron"]
    for shape in ((10, 12, 3), (12, 10, 3, 3), (9, 12, 3, 3), (10,)):
        assert not fits(delta.shape, shape)
        with pytest.raises(ShapeError, match="the weight is"):
            reshaped(delta, shape)
    with pytest.raises(ShapeError, match="Norms of 108 inputs"):
        reshaped(Dora(delta, randn(1, 108)), (10, 12, 3, 3))


def test_a_vector_stays_a_vector():
    delta = Matrix(Full(randn(6)))
    assert reshaped(delta, (6,)) is delta
