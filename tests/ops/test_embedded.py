"""Some rows as a whole weight: the same numbers, the structure kept where it can be."""

import pytest
import torch

from krona_ops import Full, Kron, LowRank, Matrix, Sum, Tucker
from krona_ops.updates.embedded import embedded


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


CASES = {
    "kron": (Kron(Full(randn(2, 5)), Full(randn(3, 2)), 0.5), Kron),
    "kron low rank": (Kron(LowRank(randn(2, 1), randn(1, 5)), Full(randn(3, 2))), Kron),
    "shuffled": (Kron(Full(randn(2, 5)), Full(randn(3, 2)), layout="shuffled"), Matrix),
    "lora": (Matrix(LowRank(randn(6, 2), randn(2, 10)), 2.0), Matrix),
    "dense": (Matrix(Full(randn(6, 10)), -1.0), Matrix),
    "sum": (Sum((Matrix(Full(randn(6, 10))), Kron(Full(randn(2, 5)), Full(randn(3, 2))))), Sum),
    "tucker": (Matrix(Tucker(randn(2, 3, 3), randn(2, 6), randn(3, 10))), Matrix),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("start", [0, 6, 12, 5])
def test_the_rows_are_where_they_belong_and_the_rest_is_zero(name, start):
    delta, kind = CASES[name]
    whole = embedded(delta, start, 18)
    expected = torch.zeros(18, *delta.shape[1:], dtype=torch.float64)
    expected[start : start + 6] = delta.dense()
    assert whole.shape == tuple(expected.shape)
    assert torch.equal(whole.dense(), expected)
    assert isinstance(whole, kind) or start == 5
