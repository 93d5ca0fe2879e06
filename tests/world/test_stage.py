"""A stage that was stopped goes on where it was, bit for bit, and sees each picture once per epoch."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.world import stage as stages
from benchmarks.world.stage import Movers, Stage, optimise, order

SHORT = Stage("short", steps=12, batch=3, rate=1e-2)
WITH_MUON = Stage("short", steps=12, batch=3, rate=1e-2, matrix_rate=0.02)


def test_each_epoch_has_every_picture_once_and_another_order():
    seen = np.concatenate([order(7, 3, step, 5) for step in range(14)])
    epochs = seen.reshape(6, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert not np.array_equal(order(7, 3, 4, 5), order(7, 3, 4, 6))


def module():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def loss_of(net, stop_at=None):
    def loss(step):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(3, 5, generator=torch.Generator().manual_seed(step))
        return (net(x) - x[:, :2]).square().mean()

    return loss


@pytest.mark.parametrize("stage", [SHORT, WITH_MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("stop_at", [1, 5, 11])
def test_a_stopped_stage_goes_on_bit_for_bit(tmp_path, monkeypatch, stop_at, stage):
    whole = module()
    optimise(stage, whole, loss_of(whole), tmp_path / "", lambda line: None)
    (tmp_path / "parts").mkdir()
    monkeypatch.setattr(stages, "SECONDS_BETWEEN_SAVES", 0.0)
    first = module()
    with pytest.raises(KeyboardInterrupt):
        optimise(stage, first, loss_of(first, stop_at), tmp_path / "parts", lambda line: None)
    second = module()
    optimise(stage, second, loss_of(second), tmp_path / "parts", lambda line: None)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_the_result_is_the_moving_average(tmp_path):
    """Of the weights after each step, oldest first; it begins with the first of them."""
    net, seen = module(), []
    plain = loss_of(net)

    def loss(step):
        seen.append(net[0].weight.detach().clone())
        return plain(step)

    optimise(SHORT, net, loss, tmp_path, lambda line: None)
    after = [*seen[1:], load_file(tmp_path / "short.state.safetensors")["weights.0.weight"]]
    expected = after[0].double()
    for n, weights in enumerate(after[1:], start=1):
        decay = min(SHORT.decay, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weights.double()
    assert len(after) == SHORT.steps
    assert (net[0].weight.double() - expected).norm() < 1e-6 * expected.norm()


def test_muon_moves_matrices_to_an_orthogonal_step_and_adamw_the_rest():
    """Of a convolution too, as one matrix: all singular values of the first step are about the same, and its size is AdamW's."""
    torch.manual_seed(1)
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 2), "embedding": nn.Embedding(5, 4)})
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    movers = Movers(Stage("one", steps=1, batch=1, rate=1e-2, matrix_rate=0.02), net)
    movers.slow_to(0.5)
    (net["conv"](torch.randn(2, 3, 5, 5)).square().sum() + net["embedding"].weight.square().sum()).backward()
    movers.step()
    moved = {name: before[name] - p.detach() for name, p in net.named_parameters()}
    singular = torch.linalg.svdvals(moved["conv.weight"].flatten(1))
    assert singular.max() < 2 * singular.min()
    assert float(moved["conv.weight"].square().mean().sqrt()) == pytest.approx(0.5 * 0.02 * 0.2, rel=0.2)
    for name in ("conv.bias", "embedding.weight"):
        assert torch.allclose(moved[name].abs(), torch.full_like(moved[name], 0.5 * 1e-2), rtol=1e-3)
    movers.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_the_state_of_another_recipe_is_refused(tmp_path):
    net = module()
    optimise(SHORT, net, loss_of(net), tmp_path, lambda line: None)
    with pytest.raises(SystemExit, match="another recipe"):
        optimise(dataclasses.replace(SHORT, rate=2e-2), net, loss_of(net), tmp_path, lambda line: None)


def test_the_rate_rises_and_falls():
    stage = Stage("long", steps=1000, batch=1, rate=2.0)
    rates = [stage.share_at(step) for step in range(1000)]
    assert max(rates) == rates[40] == 1.0
    assert rates[:41] == sorted(rates[:41])
    assert rates[40:] == sorted(rates[40:], reverse=True)
    assert 0 < rates[-1] < 0.03
