"""Score matching where the truth is known: one step onto a ring of eight Gaussians."""

import math

import pytest
import torch

from benchmarks.plane import PlaneBackbone, drawn, energy_distance, learn, ring
from benchmarks.toys import NOTHING, SCORE_MATCHING, judged, no_class
from krona_train import fit


@pytest.fixture(scope="module")
def base():
    """A model that has learnt the ring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    backbone = PlaneBackbone(8)
    learn(backbone, ring(), steps=1500, batch=256)
    torch.set_num_threads(threads)
    return backbone


def test_one_step_reaches_the_ring_and_all_its_modes(base):
    many, one = (judged(base, NOTHING, ring(), steps) for steps in (30, 1))
    assert many["energy distance"] < 0.02
    assert one["energy distance"] > 0.5
    assert one["modes"] == 0
    result = judged(base, fit(base, no_class(2), SCORE_MATCHING), ring(), 1)
    assert result["energy distance"] < 0.03
    assert result["modes"] == 8
    assert result["at a mode"] > 0.5


def test_a_class_is_drawn_where_it_belongs(base):
    classes = torch.arange(1, 9).repeat_interleave(50)
    points = drawn(base, classes, 20, guidance=1.5)
    nearest = torch.cdist(points, ring().means).argmin(1)
    assert (nearest == classes - 1).float().mean() > 0.97


def test_energy_distance_is_that_of_its_definition():
    """Of two normal distributions on a line, one apart: ``E|x − y|`` in closed form."""
    rng = torch.Generator().manual_seed(0)
    x, y, other = (torch.randn(3000, 2, generator=rng) * torch.tensor([1.0, 0.0]) for _ in range(3))
    between = 2 / math.pi**0.5 * math.exp(-0.25) + math.erf(0.5)
    assert energy_distance(x, y + torch.tensor([1.0, 0.0])) == pytest.approx(2 * between - 4 / math.pi**0.5, abs=0.05)
    assert energy_distance(x, other) == pytest.approx(0, abs=0.005)


def test_modes_are_counted_by_the_points_near_them():
    mixture = ring(4, 0.1)
    far = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    near = mixture.means[0].repeat(5, 1)
    assert mixture.modes(near).tolist() == [1, 0, 0, 0]
    assert mixture.modes(torch.cat([near, far])).sum().item() == pytest.approx(5 / 7)
