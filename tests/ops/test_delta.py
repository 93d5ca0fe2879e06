"""Every kind of update against the dense one: merged, applied, convolved, scaled, added, taken apart."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from krona_ops import Adapter, Dora, Full, Kron, KronShape, LowRank, Matrix, Sum, Tucker
from krona_ops.errors import KronaError, ShapeError
from krona_ops.updates.delta import map_tensors, skeleton, tensors

CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def randn(*shape):
    return torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape) * 7919 + len(shape))
    )


def kinds(kernel):
    """A (6, 10, *kernel) update of every kind."""
    a = {"full": Full(randn(2, 5)), "low rank": LowRank(randn(2, 1), randn(1, 5))}
    b = {"full": Full(randn(3, 2, *kernel)), "low rank": LowRank(randn(3, 2), randn(2, 2, *kernel))}
    if kernel:
        b["tucker"] = Tucker(randn(4, 3, *kernel), randn(4, 3), randn(3, 2))
    deltas = {
        f"kron {layout} {la} {lb}": Kron(fa, fb, 0.7, layout)
        for layout in ("kron", "shuffled")
        for la, fa in a.items()
        for lb, fb in b.items()
    }
    deltas["dense"] = Matrix(Full(randn(6, 10, *kernel)), -1.5)
    deltas["lora"] = Matrix(LowRank(randn(6, 4), randn(4, 10, *kernel)), 0.5)
    if kernel:
        deltas["locon"] = Matrix(Tucker(randn(3, 4, *kernel), randn(3, 6), randn(4, 10)), 2.0)
    deltas["sum"] = Sum((deltas["dense"], deltas["lora"], Kron(Full(randn(3, 2)), Full(randn(2, 5, *kernel)))))
    return deltas


CASES = [(kernel, name) for kernel in ((), (3,), (3, 2), (2, 1, 2)) for name in kinds(kernel)]


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_merging_is_adding_the_dense_update(kernel, name):
    delta, weight = kinds(kernel)[name], randn(6, 10, *kernel)
    expected = weight + 0.3 * delta.dense()
    assert delta.shape == tuple(delta.dense().shape) == (6, 10, *kernel)
    assert delta.add_to(weight, 0.3) is weight
    assert_close(weight, expected, **CLOSE)


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_running_beside_the_layer_is_running_the_dense_update(kernel, name):
    delta = kinds(kernel)[name]
    if not kernel:
        x = randn(4, 3, 10)
        assert_close(delta.apply(x), x @ delta.dense().T, **CLOSE)
        return
    x, options = randn(2, 10, *(7, 6, 5)[: len(kernel)]), {"stride": 2, "padding": 1, "dilation": 1}
    dense = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1](x, delta.dense(), **options)
    assert_close(delta.convolve(x, **options), dense, **CLOSE)


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_scaling_is_exact_and_shares_the_tensors(kernel, name):
    delta = kinds(kernel)[name]
    assert_close(delta.scaled(-0.25).dense(), -0.25 * delta.dense(), **CLOSE)
    assert [t.data_ptr() for t in tensors(delta.scaled(2.0))] == [t.data_ptr() for t in tensors(delta)]


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_taking_apart_and_putting_together_gives_the_same(kernel, name):
    delta = kinds(kernel)[name]
    parts = iter([t.clone() for t in tensors(delta)])
    again = map_tensors(delta, lambda _: next(parts))
    assert again == delta
    assert skeleton(again) == skeleton(delta)
    assert again != delta.scaled(0.5)
    assert map_tensors(delta, lambda t: t + 1) != delta
    assert delta.parameters == sum(t.numel() for t in tensors(delta))


def dora_oracle(weight, delta, magnitude, strength, eps=0.0):
    """W + s·(m·(W+ΔW)/‖W+ΔW‖ − W), a row or a column at a time."""
    moved, result = weight + delta, weight.clone()
    if magnitude.shape[0] == weight.shape[0]:
        for row in range(weight.shape[0]):
            result[row] = moved[row] * magnitude[row].flatten() / (moved[row].square().sum().sqrt() + eps)
    else:
        for column in range(weight.shape[1]):
            norm = moved[:, column].square().sum().sqrt() + eps
            result[:, column] = moved[:, column] * magnitude[0, column].flatten() / norm
    return weight + strength * (result - weight)


@pytest.mark.parametrize("kernel", [(), (3, 2)])
@pytest.mark.parametrize("per_output", [True, False])
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0, -1.0])
def test_dora_is_the_normalised_sum_of_weight_and_update(kernel, per_output, strength):
    inner, weight = kinds(kernel)["lora"], randn(6, 10, *kernel)
    ones = (1,) * len(kernel)
    magnitude = randn(6, 1, *ones).abs() if per_output else randn(1, 10, *ones).abs()
    expected = dora_oracle(weight, inner.dense(), magnitude, strength * 0.5, 1e-3)
    delta = Dora(inner, magnitude, eps=1e-3).scaled(0.5)
    assert delta.is_per_output is per_output
    assert_close(delta.add_to(weight.clone(), strength), expected, **CLOSE)


def test_a_sum_with_dora_takes_every_norm_from_the_weight_as_it_was():
    weight, plain = randn(6, 10), kinds(())["dense"]
    dora = Dora(kinds(())["lora"], randn(6, 1).abs())
    expected = dora_oracle(weight, dora.delta.dense(), dora.magnitude, 0.5) + 0.5 * plain.dense()
    for terms in ((plain, dora), (dora, plain)):
        assert_close(Sum(terms).add_to(weight.clone(), 0.5), expected, **CLOSE)


def test_dora_without_its_weight_says_what_to_do():
    delta = Dora(kinds(())["dense"], randn(6, 1))
    assert delta.needs_weight
    assert Sum((delta, kinds(())["dense"])).needs_weight
    for use in (delta.dense, lambda: delta.apply(randn(10)), lambda: delta.convolve(randn(1, 10))):
        with pytest.raises(KronaError, match=r"depends on the base model's weight\. Apply it in merge mode"):
            use()


def test_vectors_have_updates_too():
    bias = randn(6)
    expected = bias + 2 * randn(6)
    assert_close(Matrix(Full(randn(6)), 2.0).add_to(bias), expected, **CLOSE)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="cannot be added"):
        Sum((Matrix(Full(randn(2, 3))), Matrix(Full(randn(3, 2)))))
    with pytest.raises(ShapeError, match=r"The update is \(2, 3\), the weight is \(3, 2\)"):
        Matrix(Full(randn(2, 3))).add_to(randn(3, 2))
    with pytest.raises(ShapeError, match="DoRA norm"):
        Dora(Matrix(Full(randn(2, 3))), randn(3, 1))
    with pytest.raises(ShapeError, match="make no Kronecker product"):
        Kron(Full(randn(2, 3, 3)), Full(randn(2, 3)))


def test_half_precision_factors_are_computed_with_in_full():
    a, b = randn(2, 5).to(torch.float16), randn(3, 2).to(torch.bfloat16)
    assert_close(Kron(Full(a), Full(b)).dense(), torch.kron(a.float(), b.float()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["lora", "locon"])
def test_a_scale_is_not_rounded_to_the_precision_of_the_file(name, dtype):
    kernel = (3, 2) if name == "locon" else ()
    delta = map_tensors(kinds(kernel)[name], lambda t: t.to(dtype)).scaled(1 / 3)
    x = randn(2, 10, *(7 for _ in kernel)) if kernel else randn(4, 10)
    expected = F.conv2d(x, delta.dense().double()) if kernel else x @ delta.dense().double().T
    assert_close(delta.convolve(x) if kernel else delta.apply(x), expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_is_a_value():
    layers = {"x": kinds(())["dense"], "y": kinds((3,))["lora"]}
    adapter = Adapter(layers, {"k": "v"})
    layers.clear()
    assert len(adapter) == 2
    assert adapter.parameters == 60 + 6 * 4 + 4 * 10 * 3
    assert adapter.size_bytes == adapter.parameters * 8
    assert adapter.to(dtype=torch.float32).size_bytes == adapter.parameters * 4
    assert adapter == Adapter(dict(adapter.layers), {"k": "v"})
    assert adapter != adapter.with_metadata(k="w")
    assert adapter != adapter.scaled(2.0)
    assert adapter.scaled(2.0).scaled(0.5) == adapter
    with pytest.raises(TypeError):
        adapter.layers["z"] = None
    with pytest.raises(TypeError):
        adapter.metadata["z"] = "1"


def test_sizes_of_a_kronecker_update():
    assert Kron(Full(randn(2, 5)), LowRank(randn(3, 2), randn(2, 4, 7))).sizes == KronShape(2, 5, 3, 4, (7,))
