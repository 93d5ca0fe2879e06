"""Edges and high frequencies against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from krona_train.objectives.frequencies import edge_error, high_error, high_share, is_high, sobel, spectrum


def checkerboard(height, width):
    return (-1.0) ** (torch.arange(height)[:, None] + torch.arange(width))


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 3, 6, 4)])
def test_a_constant_has_no_edges_and_no_high_frequencies(shape):
    one = torch.full(shape, 2.5)
    assert not sobel(one).any()
    assert_close(high_share(one, 0.0), torch.zeros(shape[0]), rtol=0, atol=1e-12)
    for compare in ("complex", "magnitude"):
        assert_close(high_error(one, 0 * one, 0.1, compare), torch.zeros(shape[0]), rtol=0, atol=1e-6)


def test_the_slope_of_a_ramp_is_how_much_it_rises_from_pixel_to_pixel():
    """Half of it at the ends, where it goes on as it stopped."""
    ramp = (3.0 * torch.arange(6)).expand(5, 6)
    across, down = sobel(ramp)
    assert_close(across[:, 1:-1], torch.full((5, 4), 3.0))
    assert_close(across[:, [0, -1]], torch.full((5, 2), 1.5))
    assert not down.any()
    across, down = sobel(ramp.mT)
    assert_close(down[1:-1], torch.full((4, 5), 3.0))
    assert not across.any()


def test_the_kernels_are_sobels():
    """A single point is answered with the kernel turned round."""
    point = torch.zeros(5, 5)
    point[2, 2] = 8.0
    across, down = sobel(point)
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    assert_close(across[1:-1, 1:-1], kernel)
    assert_close(down[1:-1, 1:-1], kernel.mT)


@pytest.mark.parametrize("cut", [0.0, 0.15, 0.49])
def test_all_of_a_checkerboard_is_above_the_cut(cut):
    board = checkerboard(6, 8)[None, None]
    assert_close(high_share(board, cut), torch.ones(1))
    assert_close(spectrum(board)[0, 0, 3, 4].abs(), torch.tensor(48.0).sqrt())


@pytest.mark.parametrize(("waves", "is_above"), [(1, 0.0), (2, 0.0), (3, 1.0), (10, 1.0)])
def test_a_wave_lies_above_the_cut_where_it_repeats_more_often(waves, is_above):
    """On 20 pixels 0.15 is three waves: of 3 the frequency is 0.15 to rounding, so the cut is a little lower."""
    wave = torch.cos(2 * math.pi * waves * torch.arange(20) / 20).expand(1, 1, 7, 20)
    assert_close(high_share(wave, 0.149), torch.tensor([is_above]))


def test_frequencies_are_lengths_of_vectors():
    above = is_high((8, 6), 0.3, torch.device("cpu"))
    fy, fx = np.meshgrid(np.fft.fftfreq(8), np.fft.fftfreq(6), indexing="ij")
    assert above.tolist() == (np.sqrt(fy**2 + fx**2) > 0.3).tolist()
    assert 0 < int(above.sum()) < above.numel()


def test_no_energy_is_lost():
    """Parseval's theorem."""
    x = torch.randn(2, 3, 5, 6)
    assert_close(spectrum(x).abs().square().sum((-2, -1)), x.square().sum((-2, -1)))
    assert_close(high_error(x, 0 * x, 0.0, distance="squared") * 29 / 30, (x - x.mean((-2, -1), True)).square().mean((1, 2, 3)))


def test_magnitudes_do_not_ask_where_a_texture_is():
    x = torch.randn(2, 3, 8, 6)
    moved = x.roll((2, 1), (-2, -1))
    assert_close(high_error(moved, x, 0.15, "magnitude"), torch.zeros(2), rtol=0, atol=1e-5)
    assert (high_error(moved, x, 0.15, "complex") > 0.1).all()


@pytest.mark.parametrize("distance", ["absolute", "squared"])
@pytest.mark.parametrize("compare", ["complex", "magnitude"])
def test_errors_are_those_of_numpy(compare, distance):
    """In float64, of latents of a video."""
    p, q = torch.randn(2, 2, 3, 6, 5), torch.randn(2, 2, 3, 6, 5)
    fy, fx = np.meshgrid(np.fft.fftfreq(6), np.fft.fftfreq(5), indexing="ij")
    above = np.hypot(fy, fx) > 0.25
    a, b = (np.fft.fft2(x.numpy().astype(np.float64), norm="ortho")[..., above] for x in (p, q))
    errors = np.abs(a - b) if compare == "complex" else np.abs(np.abs(a) - np.abs(b))
    power = 2 if distance == "squared" else 1
    wanted = (errors**power).reshape(2, -1).mean(1)
    assert_close(high_error(p, q, 0.25, compare, distance).double(), torch.from_numpy(wanted), rtol=1e-5, atol=1e-6)
    slopes = np.abs((sobel(p) - sobel(q)).double().numpy()) ** power
    assert_close(edge_error(p, q, distance).double(), torch.from_numpy(slopes.reshape(2, -1).mean(1)), rtol=1e-5, atol=1e-6)


def test_where_nothing_is_above_the_cut_there_is_no_error():
    """Of three places an axis shows a third at most, and two of them together 0.47."""
    x = torch.randn(2, 1, 3, 3)
    assert high_error(x, 0 * x, 0.48).tolist() == [0.0, 0.0]
    assert high_share(0 * x, 0.1).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("compare", ["complex", "magnitude"])
def test_equal_pictures_have_a_gradient_of_nothing(compare):
    """An absolute value has none at 0 by itself."""
    x = torch.randn(1, 2, 6, 6).requires_grad_()
    (high_error(x, x.detach(), 0.1, compare) + edge_error(x, x.detach())).sum().backward()
    assert not x.grad.any()
