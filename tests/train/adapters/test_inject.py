"""Changing what a module computes, and putting it back, alone and among others who do the same."""

import itertools

import pytest
import torch
from torch import nn

from krona_ops.live.attach import ForwardPatch, patched


def times(factor):
    return lambda original, x: factor * original(x)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_patches_taken_off_in_any_order_leave_a_working_module(order):
    module, x = nn.Linear(3, 2), torch.randn(4, 3)
    plain = module(x)
    patches = [ForwardPatch(module, times(f)) for f in (2, 3, 5)]
    for patch in patches:
        patch.attach()
    remaining = 30
    assert torch.allclose(module(x), remaining * plain)
    for n in order:
        patches[n].detach()
        remaining //= (2, 3, 5)[n]
        assert torch.allclose(module(x), remaining * plain)
    for patch in patches:
        patch.attach()
    assert torch.allclose(module(x), 30 * plain)


def test_attaching_or_detaching_twice_changes_nothing():
    module, x = nn.Linear(3, 2), torch.randn(4, 3)
    patch = ForwardPatch(module, times(2))
    patch.detach()
    patch.attach()
    patch.attach()
    assert torch.allclose(module(x), 2 * nn.functional.linear(x, module.weight, module.bias))
    patch.detach()
    patch.detach()
    assert "forward" not in module.__dict__


def test_somebody_elses_forward_is_put_back():
    module = nn.Linear(3, 2)
    module.forward = theirs = lambda x: x
    with patched({module: times(2)}):
        assert module(torch.ones(1)) == 2
    assert module.__dict__["forward"] is theirs


def test_an_error_inside_the_block_still_takes_the_patch_off():
    module = nn.Linear(3, 2)
    with pytest.raises(RuntimeError), patched({module: times(2)}):
        raise RuntimeError
    assert "forward" not in module.__dict__
