"""Several adapters on one model: which of them count, and how much, in the forward pass and in its repetition."""

import pytest
import torch
from torch.testing import assert_close

from krona_ops import TargetRule
from krona_ops.errors import ShapeError
from krona_train import AdapterConfig, OptimizerConfig
from krona_train.adapters.bank import Bank, choose
from krona_train.adapters.layers.protocol import gated
from krona_train.adapters.trainee import Recipe
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import EmaConfig
from krona_train.settings.groups import MAIN
from krona_train.step.checkpointing import checkpointed

KINDS = {
    "kronecker": TargetRule((8, 4)),
    "lora": TargetRule(kind="lora"),
    "sum": TargetRule((8, 4), kind="sum", terms=((4, 8),)),
    "difference": TargetRule(projections=(), pattern=r"attn|mlp\.0", kind="difference"),
    "full": TargetRule(projections=(), pattern=r"attn|mlp\.0", kind="full"),
}


def bank_of(backbone, **rules):
    """Adapters by name, none of them at zero."""
    optimizer, none = OptimizerConfig(rate_by_width=0.0), EmaConfig(0.0)
    recipes = {
        name: Recipe(AdapterConfig(targets=(rule,)), optimizer, none, 10, seed=3, number=number)
        for number, (name, rule) in enumerate(rules.items())
    }
    bank = Bank(backbone, {name: choose(backbone, recipe) for name, recipe in recipes.items()})
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for trainee in bank.trainees.values():
            for parameter in trainee.parameters:
                parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return bank


@pytest.fixture
def case():
    rng = torch.Generator().manual_seed(7)
    inputs = torch.randn(3, 4, 6, 5, generator=rng), torch.rand(3, generator=rng), torch.randn(3, 7, 24, generator=rng)
    return ToyBackbone(), inputs


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_of_zero_is_the_base_and_one_is_the_adapter_for_each_sample(kind, case):
    backbone, inputs = case
    bank = bank_of(backbone, **{MAIN: KINDS[kind]})
    with backbone.ready(), bank.attached(), torch.no_grad():
        whole, gate = backbone.net(*inputs), torch.tensor([0.0, 1.0, 0.5])
        with bank.none():
            plain = backbone.net(*inputs)
        with bank.only(adapter=gate):
            mixed = backbone.net(*inputs)
        with bank.only(adapter=torch.zeros(3)):
            assert torch.equal(backbone.net(*inputs), plain)
        with bank.only(adapter=torch.ones(3)):
            assert_close(backbone.net(*inputs), whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(mixed[0], plain[0])
    assert_close(mixed[1], whole[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mixed[2], whole[2], atol=1e-3)
    assert not torch.allclose(mixed[2], plain[2], atol=1e-3)
    assert torch.equal(backbone.net(*inputs), plain)


def test_two_adapters_that_count_together_are_the_sum_of_their_updates(case):
    backbone, inputs = case
    bank = bank_of(backbone, adapter=KINDS["kronecker"], other=KINDS["lora"])
    layer, x = "attn2.to_k", inputs[2]
    module = backbone.module(layer)
    ours, theirs = (bank.trainees[name].layers[layer].delta() for name in ("adapter", "other"))
    with backbone.ready(), bank.attached(), torch.no_grad():
        with bank.only("adapter", "other"):
            both = module(x)
        with bank.only("other"):
            one = module(x)
    plain = module(x)
    assert_close(one, plain + theirs.apply(x), rtol=1e-4, atol=1e-5)
    assert_close(both, plain + ours.apply(x) + theirs.apply(x), rtol=1e-4, atol=1e-5)


def test_what_is_computed_again_for_the_gradient_is_what_was_computed(case):
    """Two adapters of equal shapes and an off branch, all with gradients: without the pinned choice the recomputation
    would take the wrong one."""
    backbone, inputs = case
    bank = bank_of(backbone, adapter=KINDS["kronecker"], other=KINDS["kronecker"])
    parameters = [p for trainee in bank.trainees.values() for p in trainee.parameters]

    def gradients():
        with bank.only("other"):
            first = backbone.net(*inputs)
        with bank.none():
            second = backbone.net(first, *inputs[1:])
        with bank.only(adapter=torch.tensor([0.2, 0.0, 1.5])):
            third = backbone.net(second, *inputs[1:])
        return torch.autograd.grad(third.square().sum(), parameters)

    with backbone.ready(), bank.attached():
        expected = gradients()
        with checkpointed(backbone.blocks(), "blocks", bank.gates.pinned):
            found = gradients()
        with checkpointed(backbone.blocks(), "blocks"), pytest.raises(RuntimeError, match=r"torch\.utils\.checkpoint"):
            gradients()
    assert all(g.abs().max() > 0 for g in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("mode", ["none", "blocks"])
def test_a_turn_gives_gradients_to_the_adapter_that_moves_and_to_no_other(mode, case):
    """Though the loss goes through both: the other one is frozen in it, and can be moved again afterwards."""
    backbone, inputs = case
    bank = bank_of(backbone, adapter=KINDS["kronecker"], other=KINDS["sum"])
    with (
        backbone.ready(),
        bank.attached(),
        checkpointed(backbone.blocks(), mode, bank.gates.pinned),
        bank.moving("adapter"),
        bank.only("adapter", "other"),
    ):
        backbone.net(*inputs).square().sum().backward()
    ours, theirs = bank.trainees.values()
    assert all(p.grad is not None and p.grad.any() for p in ours.parameters)
    assert all(p.grad is None and p.requires_grad for p in theirs.parameters)


def test_adapters_begin_at_other_random_factors(case):
    bank = bank_of(case[0], adapter=KINDS["kronecker"], other=KINDS["kronecker"])
    ours, theirs = (trainee.layers["attn1.to_q"] for trainee in bank.trainees.values())
    assert ours.a.shape == theirs.a.shape
    assert not torch.allclose(ours.a, theirs.a, atol=0.05)


def test_rows_of_one_sample_share_its_gate():
    x = torch.arange(12.0).view(6, 2)
    assert torch.equal(gated(x, torch.tensor([0.0, 2.0])), torch.cat([0 * x[:3], 2 * x[3:]]))
    with pytest.raises(ShapeError, match="6 rows cannot be gated by 4"):
        gated(x, torch.ones(4))
