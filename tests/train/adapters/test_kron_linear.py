"""The operation behind each adapted linear layer, against autograd on the dense formula in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.operations import operations
from krona_ops import LayerName, select
from krona_ops.live.attach import patched
from krona_ops.targets.rules import TargetRule
from krona_ops.updates import kron
from krona_ops.updates.shapes import KronShape
from krona_train.adapters.attach import forward_with
from krona_train.adapters.layers import build_layer, kron_linear
from krona_train.adapters.layers.kron_linear import KronConvolution, KronLinear, KronUpdate, formed
from krona_train.adapters.layers.scheme import choose, cost
from krona_train.config import AdapterConfig

FACTORS = [(6, 2, 3, 5), (2, 6, 5, 3), (3, 3, 4, 4), (1, 2, 9, 7), (8, 9, 1, 2), (5, 4, 3, 1)]
SCHEMES = ["factored", "hybrid", "dense"]


def example(sizes, lead=(2, 7), *, dtype=torch.float64, seed=0):
    """Random ``x``, ``A``, ``B``, ``W``, bias and output gradient."""
    out_a, in_a, out_b, in_b = sizes
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    x, a, b = draw(*lead, in_a * in_b), draw(out_a, in_a), draw(out_b, in_b)
    return x, a, b, draw(out_a * out_b, in_a * in_b), draw(out_a * out_b), draw(*lead, out_a * out_b)


def noting(kept):
    """Inside, ``kept`` gets the place in memory of each tensor that is saved for a backward pass."""

    def pack(tensor):
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def oracle(x, a, b, weight, bias, dy, layout):
    """Output and gradients by autograd through the dense weight."""
    x, a, b = (t.double().requires_grad_() for t in (x, a, b))
    y = F.linear(x, weight.double() + kron.materialise(a, b, layout), None if bias is None else bias.double())
    return y.detach(), *torch.autograd.grad(y, (x, a, b), dy.double())


def close(found, expected, tolerance=1e-12):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).norm() <= tolerance * other.norm().clamp_min(1.0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize("sizes", FACTORS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_the_dense_formula(sizes, layout, scheme, with_bias):
    x, a, b, weight, bias, dy = example(sizes)
    bias = bias if with_bias else None
    leaves = [t.clone().requires_grad_() for t in (x, a, b)]
    y = KronLinear.apply(*leaves, weight, bias, layout, scheme)
    close([y.detach(), *torch.autograd.grad(y, leaves, dy)], oracle(x, a, b, weight, bias, dy, layout))


@pytest.mark.parametrize("largest", [1, 100, 401])
@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize("sizes", FACTORS)
def test_many_tokens_are_taken_in_pieces(sizes, layout, largest, monkeypatch):
    monkeypatch.setattr(kron_linear, "LARGEST", largest)
    x, a, b, weight, bias, dy = example(sizes, lead=(3, 11))
    for scheme in ("factored", "hybrid"):
        leaves = [t.clone().requires_grad_() for t in (x, a, b)]
        y = KronLinear.apply(*leaves, weight, bias, layout, scheme)
        close([y.detach(), *torch.autograd.grad(y, leaves, dy)], oracle(x, a, b, weight, bias, dy, layout))


@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize("sizes", FACTORS)
def test_a_transposed_gradient_is_the_same(sizes, layout):
    x, a, b, weight, bias, dy = example(sizes)
    leaves = [t.clone().requires_grad_() for t in (x, a, b)]
    y = KronLinear.apply(*leaves, weight, bias, layout, "factored")
    transposed = dy.movedim(-1, 0).contiguous().movedim(0, -1)
    assert not transposed.is_contiguous() or dy.shape[-1] == 1
    close([y.detach(), *torch.autograd.grad(y, leaves, transposed)], oracle(x, a, b, weight, bias, dy, layout))


@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize("sizes", FACTORS)
def test_beside_somebody_else_s_layer_too(sizes, layout):
    x, a, b, weight, bias, dy = example(sizes)
    leaves = [t.clone().requires_grad_() for t in (x, a, b)]
    base = F.linear(leaves[0], weight, bias)
    before = base.detach().clone()
    y = KronUpdate.apply(base, *leaves, layout)
    close([y.detach(), *torch.autograd.grad(y, leaves, dy)], oracle(x, a, b, weight, bias, dy, layout))
    assert torch.equal(base, before)  # whoever holds the base's output still has it


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_needs_no_gradient_gets_none_and_the_others_stay_the_same(scheme):
    x, a, b, weight, bias, dy = example(FACTORS[0])
    _, dx, da, db = oracle(x, a, b, weight, bias, dy, "kron")
    a, b = a.requires_grad_(), b.requires_grad_()
    y = KronLinear.apply(x, a, b, weight, bias, "kron", scheme)
    close(torch.autograd.grad(y, (a, b), dy), (da, db))
    x = x.clone().requires_grad_()
    y = KronLinear.apply(x, a.detach(), b.detach(), weight, bias, "kron", scheme)
    close(torch.autograd.grad(y, (x,), dy), (dx,))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sizes", FACTORS)
def test_it_saves_the_input_and_the_factors_and_nothing_else(sizes, scheme):
    x, a, b, weight, bias, _ = example(sizes, (1, 50))
    leaves = [t.requires_grad_() for t in (x, a, b)]
    kept = []
    with noting(kept):
        KronLinear.apply(*leaves, weight, bias, "kron", scheme)
    assert set(kept) == {t.untyped_storage().data_ptr() for t in (x, a, b, weight)}


@pytest.mark.parametrize("beside", [False, True])
def test_an_input_in_other_strides_is_not_kept_twice(beside):
    x, a, b, weight, bias, _ = example((6, 2, 3, 5), (7, 2))
    leaves = [t.requires_grad_() for t in (x, a, b)]
    strided = leaves[0].transpose(0, 1)
    kept = []
    with noting(kept):
        if beside:
            KronUpdate.apply(strided.new_zeros(2, 7, 18), strided, *leaves[1:], "kron")
        else:
            KronLinear.apply(strided, *leaves[1:], weight, bias, "kron", "factored")
    assert set(kept) == {t.untyped_storage().data_ptr() for t in ((x, a, b) if beside else (x, a, b, weight))}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_input_in_other_strides_and_an_expanded_gradient(scheme):
    x, a, b, weight, bias, _ = example((6, 2, 3, 5), (7, 2))
    strided = x.transpose(0, 1)
    dy = torch.ones(()).double().expand(2, 7, 18)  # what sum() sends back
    leaves = [t.clone().requires_grad_() for t in (strided, a, b)]
    assert not strided.is_contiguous()
    y = KronLinear.apply(strided.requires_grad_(), *leaves[1:], weight, bias, "kron", scheme)
    expected = oracle(strided.detach(), a, b, weight, bias, dy, "kron")
    close([y.detach(), *torch.autograd.grad(y, (strided, *leaves[1:]), dy)], expected)


@pytest.mark.parametrize("scheme", [*SCHEMES, "beside"])
def test_gradients_that_are_to_be_differentiated_again_are_the_same_and_refuse_it(scheme):
    x, a, b, weight, bias, dy = example(FACTORS[0])
    leaves = [t.clone().requires_grad_() for t in (x, a, b)]
    if scheme == "beside":
        y = KronUpdate.apply(F.linear(leaves[0], weight, bias), *leaves, "kron")
    else:
        y = KronLinear.apply(*leaves, weight, bias, "kron", scheme)
    found = torch.autograd.grad(y, leaves, dy.requires_grad_(), create_graph=True)
    close([y.detach(), *(gradient.detach() for gradient in found)], oracle(x, a, b, weight, bias, dy.detach(), "kron"))
    with pytest.raises(RuntimeError, match="marked with @once_differentiable"):
        found[1].sum().backward()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 7)] * 4),
    st.integers(1, 40),
    st.sampled_from(SCHEMES),
    st.sampled_from(["kron", "shuffled"]),
)
def test_any_sizes(sizes, tokens, scheme, layout):
    x, a, b, weight, bias, dy = example(sizes, (tokens,))
    leaves = [t.clone().requires_grad_() for t in (x, a, b)]
    y = KronLinear.apply(*leaves, weight, bias, layout, scheme)
    close([y.detach(), *torch.autograd.grad(y, leaves, dy)], oracle(x, a, b, weight, bias, dy, layout), 1e-11)


def test_no_tokens_at_all():
    x, a, b, weight, bias, dy = example((6, 2, 3, 5), (0,))
    for scheme in SCHEMES:
        leaves = [t.clone().requires_grad_() for t in (x, a, b)]
        y = KronLinear.apply(*leaves, weight, bias, "kron", scheme)
        assert y.shape == (0, 18)
        assert all(not g.any() for g in torch.autograd.grad(y, leaves, dy))


@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize("kernel", [(3,), (3, 2), (2, 3, 1)])
def test_a_convolution_has_the_gradients_of_the_dense_one_and_saves_no_more(kernel, layout):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 10, *(6 for _ in kernel), generator=g, dtype=torch.float64)
    a, b = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((4, 2), (3, 5, *kernel)))
    options = {"stride": 2, "padding": 1, "dilation": 1}
    leaves, kept = [t.clone().requires_grad_() for t in (x, a, b)], []
    with noting(kept):
        y = KronConvolution.apply(*leaves, layout, options)
    assert set(kept) == {t.untyped_storage().data_ptr() for t in leaves}
    wide = [t.clone().requires_grad_() for t in (x, a, b)]
    dense = kron.CONVOLUTIONS[len(kernel)](wide[0], kron.materialise(*wide[1:], layout), **options)
    dy = torch.randn(dense.shape, generator=g, dtype=torch.float64)
    close([y.detach(), *torch.autograd.grad(y, leaves, dy)], [dense.detach(), *torch.autograd.grad(dense, wide, dy)])
    (only_b,) = torch.autograd.grad(KronConvolution.apply(x, a, leaves[2], layout, options), leaves[2], dy)
    dense = kron.CONVOLUTIONS[len(kernel)](x, kron.materialise(a, wide[2], layout), **options)
    close([only_b], torch.autograd.grad(dense, wide[2], dy))


def updated(module, is_plain=lambda module: True):
    """What a layer of 10 to 12 makes of ``x`` with a trained update, and what it should make."""
    [target] = select({LayerName("layer"): (12, 10)}, (TargetRule(factors=(3, 2), projections=()),))
    layer = build_layer(target, AdapterConfig(), torch.Generator().manual_seed(0)).double()
    torch.nn.init.normal_(layer.b, generator=torch.Generator().manual_seed(1))
    x = torch.randn(7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = module.forward(x) + x @ kron.materialise(layer.a, layer.b).mT
    with patched({module: forward_with(layer, module, "layer", is_plain=is_plain)}):
        return module(x), expected


def test_a_plain_layer_is_computed_with_its_update_as_one():
    y, expected = updated(torch.nn.Linear(10, 12).double())
    assert type(y.grad_fn).__name__ == "KronLinearBackward"
    close([y], [expected])


@pytest.mark.parametrize("why", ["somebody else's forward", "not plain", "another dtype"])
def test_a_layer_that_somebody_has_changed_is_left_to_compute_itself(why):
    module = torch.nn.Linear(10, 12).double()
    if why == "somebody else's forward":
        own = module.forward
        module.forward = lambda x: 2 * own(x)
    elif why == "another dtype":
        module = Casting(10, 12)
    y, expected = updated(module, is_plain=lambda m: why != "not plain")
    assert type(y.grad_fn).__name__ == "KronUpdateBackward"
    close([y], [expected])


class Casting(torch.nn.Linear):
    """A layer that keeps its weight in fewer bits, as quantised ones do."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_as_its_rounding(dtype):
    x, a, b, weight, bias, dy = example((6, 2, 3, 5), (4, 9), dtype=dtype)
    leaves = [t.clone().requires_grad_() for t in (x, a, b)]
    y = KronLinear.apply(*leaves, weight, bias, "kron", "factored")
    close(
        [y.detach(), *torch.autograd.grad(y, leaves, dy)],
        oracle(x, a, b, weight, bias, dy, "kron"),
        4 * torch.finfo(dtype).eps,
    )


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("sizes", [*FACTORS, (2, 16, 2, 3)])
def test_factors_in_float32_beside_half_precision_get_gradients_in_float32(sizes, beside):
    x, a, b, weight, bias, dy = example(sizes, (4, 9), dtype=torch.bfloat16)
    leaves = [x.requires_grad_(), *(t.float().requires_grad_() for t in (a, b))]
    if beside:
        y = KronUpdate.apply(F.linear(x, weight, bias), *leaves, "kron")
    else:
        y = KronLinear.apply(*leaves, weight, bias, "kron", "factored")
    dx, da, db = torch.autograd.grad(y, leaves, dy)
    assert (y.dtype, dx.dtype, da.dtype, db.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)
    close([y.detach(), dx, da, db], oracle(x, a, b, weight, bias, dy, "kron"), 4 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 10), (torch.bfloat16, 13)])
@pytest.mark.parametrize("sizes", [(16, 4, 4, 16), (4, 16, 16, 4)])
def test_a_device_is_given_few_operations_for_it(sizes, dtype, most):
    """A frozen layer takes two; the update's products, forward and back, eight; casting factors and a gradient,
    three."""
    x, a, b, weight, bias, dy = example(sizes, dtype=dtype)
    leaves = [x.requires_grad_(), *(t.float().requires_grad_() for t in (a, b))]

    def train():
        torch.autograd.grad(KronLinear.apply(*leaves, weight, bias, "kron", "factored"), leaves, dy)

    assert operations(train) == most


def test_forming_leaves_the_weight_alone():
    _, a, b, weight, *_ = example((6, 2, 3, 5))
    before = weight.clone()
    assert torch.allclose(formed(weight, a, b, "kron"), before + torch.kron(a, b), rtol=0, atol=1e-14)
    assert torch.equal(weight, before)


def test_half_precision_never_forms_the_sum():
    """An update that is small beside the weight would be rounded away."""
    sizes = KronShape(16, 16, 40, 40)
    assert choose(sizes, 100_000, exact=True) == "hybrid"
    assert choose(sizes, 100_000, exact=False) == "factored"


def test_the_choice_follows_the_tokens_and_the_factors():
    wide = KronShape(64, 4, 20, 320)
    assert choose(wide, 77, exact=True) == "factored"  # a prompt is short beside the weight
    assert choose(wide, 16_384, exact=True) == "hybrid"
    assert choose(KronShape(1, 1, 640, 640), 4096, exact=True) == "dense"  # B is the whole matrix
    assert cost(wide, 77, "factored") < cost(wide, 77, "hybrid") < cost(wide, 77, "dense")
