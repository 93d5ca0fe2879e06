"""Checkpointing changes what is kept, never what is computed, and is gone afterwards."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from krona_ops.live.attach import patched
from krona_train.backbone.exact_gradients import exact_in_place
from krona_train.config import MemoryConfig
from krona_train.step.checkpointing import checkpointed, compiled, prepared

MODES = ["blocks", "offloaded"]


class Block(nn.Module):
    """Takes what blocks of hosts take: a stream, keywords, a dictionary that changes between calls, and nothing."""

    def __init__(self, width, seen):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.seen = seen

    def forward(self, x, context=None, pair=(), mask=None, options=None):
        if not torch.compiler.is_compiling():
            self.seen.append(options["number"])
        assert mask is None
        h = torch.nn.functional.gelu(self.inner(x)) + pair[0] * pair[1]
        return x + (options["number"] + 1) * h * context, context


class Writing(Block):
    """Adds to its input in place, as Flux does with ``+=`` and LTX-Video with a method."""

    def forward(self, x, context=None, pair=(), mask=None, options=None):
        if not torch.compiler.is_compiling():
            self.seen.append(options["number"])
        x += torch.sin(self.inner(torch.nn.functional.layer_norm(x, x.shape[-1:])))
        x.addcmul_(torch.sin(self.inner(torch.nn.functional.layer_norm(x, x.shape[-1:]))), context)
        return x, context


class Net(nn.Module):
    def __init__(self, kind, depth=4, width=24):
        super().__init__()
        self.seen = []
        self.blocks = nn.ModuleList(kind(width, self.seen) for _ in range(depth))
        self.double().requires_grad_(False)

    def forward(self, x, context):
        options = {"number": 0, "deep": {"list": [1]}}
        for number, block in enumerate(self.blocks):
            options["number"] = number
            x, context = block(x, context=context, pair=(x, context), mask=None, options=options)
        return x.square().mean()


def factors_of(net):
    """A trainable update of every inner layer, attached as adapters are."""
    g = torch.Generator().manual_seed(5)
    factors = [nn.Parameter(torch.randn(24, 24, generator=g, dtype=torch.float64) * 0.1) for _ in net.blocks]

    def plus(factor):
        return lambda original, x: original(x) + x @ factor

    return factors, {block.inner: plus(f) for block, f in zip(net.blocks, factors, strict=True)}


def gradients(kind, mode, exact=None, rows=7):
    torch.manual_seed(0)
    net = Net(kind)
    factors, forwards = factors_of(net)
    x, context = torch.randn(rows, 24, dtype=torch.float64), torch.randn(rows, 1, dtype=torch.float64)
    before = x.clone()
    with patched(forwards), checkpointed(net.blocks, mode):
        if exact if exact is not None else kind is Writing:
            with exact_in_place():
                loss = net(x, context)
                loss.backward()
        else:
            loss = net(x, context)
            loss.backward()
    if mode != "none":
        assert torch.equal(x, before)  # a block that is called again must find what it found
    assert all("forward" not in module.__dict__ for module in net.modules())
    return loss.detach(), [f.grad for f in factors], net.seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [Block, Writing])
def test_gradients_are_those_without_checkpointing(kind, mode):
    loss, grads, seen = gradients(kind, "none")
    again_loss, again_grads, again_seen = gradients(kind, mode)
    assert torch.equal(loss, again_loss)
    for grad, again in zip(grads, again_grads, strict=True):
        # Several gradients of one input are added up in another order.
        assert_close(again, grad, rtol=1e-12, atol=1e-14)
    assert seen == [0, 1, 2, 3]
    assert again_seen == [0, 1, 2, 3, 3, 2, 1, 0]  # each block sees its own options the second time, too


def test_writes_in_place_have_the_gradients_of_finite_differences():
    torch.manual_seed(0)
    net = Net(Writing)
    factors, forwards = factors_of(net)
    x, context = torch.randn(7, 24, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    with patched(forwards):
        with exact_in_place():
            net(x.clone(), context).backward()
        g, directions = torch.Generator().manual_seed(1), []
        for factor in factors:
            directions.append(torch.randn(factor.shape, generator=g, dtype=torch.float64))
        slope = sum((f.grad * d).sum() for f, d in zip(factors, directions, strict=True))

        def at(t):
            with torch.no_grad():
                for f, d in zip(factors, directions, strict=True):
                    f.add_(d, alpha=t)
                value = net(x.clone(), context)
                for f, d in zip(factors, directions, strict=True):
                    f.sub_(d, alpha=t)
            return value

        h = 1e-4
        assert_close((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h), slope, rtol=1e-8, atol=0)


def test_without_the_mode_writes_in_place_are_refused_by_autograd():
    """The reason for `exact_in_place`, and proof that the tests above can fail."""
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(Writing, "none", exact=False)


def saved_bytes(run):
    """Bytes of different memory that autograd keeps between the forward and the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def test_far_less_is_kept():
    net = Net(Block)
    _, forwards = factors_of(net)
    x, context = torch.randn(512, 24, dtype=torch.float64), torch.randn(512, 1, dtype=torch.float64)
    kept = {}
    for mode in ("none", "blocks"):
        with patched(forwards), checkpointed(net.blocks, mode):
            kept[mode] = saved_bytes(lambda: net(x, context))
    assert kept["blocks"] < 0.5 * kept["none"]


def test_dropout_draws_the_same_the_second_time():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)

        def forward(self, x):
            return x + self.drop(self.inner(x)).square()

    found = []
    for mode in ("none", "blocks"):
        torch.manual_seed(0)
        block, x = Dropping(), torch.randn(5, 8)
        with checkpointed([block], mode):
            torch.manual_seed(1)
            block(x).sum().backward()
        found.append(block.inner.weight.grad)
    assert torch.equal(*found)


def test_without_gradients_nothing_is_computed_twice():
    net = Net(Block)
    with checkpointed(net.blocks, "blocks"), torch.no_grad():
        net(torch.randn(3, 24, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64))
    assert net.seen == [0, 1, 2, 3]


@pytest.mark.parametrize(("kind", "mode"), [(Writing, "none"), (Writing, "blocks"), (Block, "offloaded")])
def test_compiled_blocks_have_the_same_gradients(kind, mode):
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError, OSError) as error:
        pytest.skip(f"torch.compile needs a C++ compiler: {error}")
    loss, grads, _ = gradients(kind, "none")
    torch.manual_seed(0)
    net = Net(kind)
    factors, forwards = factors_of(net)
    x, context = torch.randn(7, 24, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    with patched(forwards), prepared(net.blocks, MemoryConfig(checkpointing=mode, compile=True)), exact_in_place():
        again = net(x, context)
        again.backward()
    assert_close(again.detach(), loss, rtol=1e-6, atol=0)
    for factor, grad in zip(factors, grads, strict=True):
        assert (factor.grad - grad).norm() <= 1e-4 * grad.norm()
    assert all("forward" not in module.__dict__ for module in net.modules())


def test_compiling_leaves_nothing_behind():
    net = Net(Block)
    with compiled(net.blocks):
        assert all("forward" in block.__dict__ for block in net.blocks)
    assert all("forward" not in module.__dict__ for module in net.modules())
