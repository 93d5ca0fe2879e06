"""The frame similarity prior: its limits are exact, its blur is the Gaussian's, its places are the seed's alone."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from krona_ops.branches.similarity import blurred, groups_of_frames, sharp_places
from krona_ops.errors import ConfigError, ShapeError


@pytest.fixture
def pictures():
    return torch.randn(2, 4, 7, 11, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_first_frame_is_the_picture_bit_for_bit(pictures, dtype):
    z = pictures.to(dtype)
    z[0, 0, 0, :2] = torch.tensor([float("nan"), -0.0])
    clips = groups_of_frames(z, 5, 0.3, 2.0, 1).unflatten(0, (2, 5))
    assert clips.dtype == dtype
    assert clips[:, 0].contiguous().view(torch.uint8).equal(z.view(torch.uint8))


def test_the_limits_are_exact(pictures):
    soft = blurred(pictures, 1.5)
    for p, blur, later in ((1.0, 1.5, pictures), (0.0, 1.5, soft), (0.4, 0.0, pictures)):
        clips = groups_of_frames(pictures, 4, p, blur, 9).unflatten(0, (2, 4))
        assert torch.equal(clips[:, 1:], later[:, None].expand(-1, 3, -1, -1, -1))
    assert torch.equal(groups_of_frames(pictures, 1, 0.5, 1.5, 9), pictures)


def test_every_place_of_a_later_frame_is_the_pictures_or_the_blurred_ones_in_all_channels(pictures):
    clips = groups_of_frames(pictures, 6, 0.5, 2.0, 4).unflatten(0, (2, 6))
    soft, masks = blurred(pictures, 2.0), sharp_places((5, 1, 7, 11), 0.5, 4)
    for frame, mask in enumerate(masks, 1):
        assert torch.equal(clips[:, frame], mask * pictures + ~mask * soft)  # D(z) = M z + (1 - M) blur(z)
    assert not torch.equal(masks[0], masks[1])


def test_several_clips_at_once_are_each_alone(pictures):
    together = groups_of_frames(pictures, 3, 0.5, 2.0, 4)
    assert torch.equal(together, torch.cat([groups_of_frames(z[None], 3, 0.5, 2.0, 4) for z in pictures]))


@pytest.mark.parametrize("deviation", [0.4, 1.0, 2.3])
def test_away_from_the_edges_the_blur_is_a_convolution_with_the_gaussian(deviation):
    z = torch.randn(1, 2, 50, 61, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reach = 20
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / deviation) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    expected = F.conv2d(z.transpose(0, 1), kernel[None, None]).transpose(0, 1)
    assert torch.allclose(blurred(z, deviation)[..., reach:-reach, reach:-reach], expected, rtol=0, atol=1e-12)


def test_a_blur_keeps_what_is_constant_and_ends_as_the_mean(pictures):
    constant = torch.full((1, 3, 5, 8), 0.7)
    assert torch.allclose(blurred(constant, 3.0), constant, rtol=0, atol=1e-7)
    mean = pictures.mean((-2, -1), keepdim=True).expand_as(pictures)
    assert torch.allclose(blurred(pictures, 1e6), mean, rtol=0, atol=1e-6)
    for tiny in (1e-3, 1e-200, 5e-324):
        assert torch.equal(blurred(pictures, tiny), pictures)
    assert torch.equal(blurred(pictures[..., :1, :1], 5.0), pictures[..., :1, :1])


def test_places_are_a_share_of_all_and_grow_with_it():
    shape = (3, 1, 64, 64)
    masks = [sharp_places(shape, p, 11) for p in (0.0, 0.2, 0.5, 0.9, 1.0)]
    for smaller, larger in itertools.pairwise(masks):
        assert (smaller & ~larger).sum() == 0
    count = masks[0].numel()
    for p, mask in zip((0.0, 0.2, 0.5, 0.9, 1.0), masks, strict=True):
        assert abs(mask.sum().item() - p * count) <= 4 * (count * p * (1 - p)) ** 0.5


@pytest.mark.parametrize(
    ("seed", "digest"),
    [
        (0, "6f1196466177893f"),
        (7, "17ac5958739fc764"),
        (2**64 - 1, "592180fe90a939fc"),
    ],
)
def test_a_seed_means_the_same_places_on_every_machine(seed, digest):
    mask = sharp_places((4, 1, 16, 24), 0.5, seed)
    assert hashlib.sha256(np.packbits(mask.numpy()).tobytes()).hexdigest()[:16] == digest


def test_no_other_random_numbers_are_moved_on(pictures):
    torch.manual_seed(5)
    np.random.seed(5)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    groups_of_frames(pictures, 8, 0.5, 2.0, 123)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numbers).all()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"frames": 0}, "frames: It is 0, not a whole number from 1."),
        ({"sharp": 1.01}, "p: It is 1.01, not a share from 0 to 1."),
        ({"sharp": float("nan")}, "p: It is nan, not a share from 0 to 1."),
        ({"blur": -1.0}, "blur: It is -1.0, not a number from 0."),
        ({"blur": float("inf")}, "blur: It is inf, not a number from 0."),
        ({"seed": -1}, "seed: It is -1, not a whole number from 0."),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(pictures, changes, text):
    with pytest.raises(ConfigError) as caught:
        groups_of_frames(pictures, **{"frames": 3, "sharp": 0.5, "blur": 1.0, "seed": 0, **changes})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("shape", [(1, 4, 3, 8, 8), (4, 8, 8), (0, 4, 8, 8), (1, 4, 0, 8)])
def test_latents_that_are_no_pictures_are_refused(shape):
    with pytest.raises(ShapeError, match="Connect the latent of a picture, from VAE Encode"):
        groups_of_frames(torch.zeros(shape), 4, 0.5, 1.0, 0)
