"""Cameras and their maps of rays: closed forms, a look-at matrix of its own, and every way to say it wrongly."""

import math

import numpy as np
import pytest
import torch

from krona_ops.branches.cameras import MOST_VIEWS, SIX, Cameras, orbit, read_elevations, read_views
from krona_ops.branches.rays import axes, conditions, rays, share_cut
from krona_ops.errors import ConfigError, SizeError

CLOSED = {
    (0.0, 0.0): (0, 1, 0, 0, -1, 0),
    (90.0, 0.0): (-1, 0, 0, 1, 0, 0),
    (180.0, 0.0): (0, -1, 0, 0, 1, 0),
    (270.0, 0.0): (1, 0, 0, -1, 0, 0),
    (-90.0, 0.0): (1, 0, 0, -1, 0, 0),
    (360.0, 0.0): (0, 1, 0, 0, -1, 0),
    (0.0, 90.0): (0, 0, -1, 0, 0, 1),
    (137.0, 90.0): (0, 0, -1, 0, 0, 1),
    (0.0, -90.0): (0, 0, 1, 0, 0, -1),
    (0.0, 30.0): (0, math.sqrt(3) / 2, -0.5, 0, -math.sqrt(3) / 2, 0.5),
    (45.0, 0.0): (-math.sqrt(0.5), math.sqrt(0.5), 0, math.sqrt(0.5), -math.sqrt(0.5), 0),
}


def looked_at(azimuth, elevation, distance):
    """Camera to world by MV-Adapter's own way: a position from angles that begin at +x, and a look-at matrix."""
    a, e = np.radians(azimuth - 90.0), np.radians(elevation)
    position = distance * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    look = -position / np.linalg.norm(position)
    right = np.cross(look, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, look), -look], -1), position


@pytest.mark.parametrize(("view", "expected"), CLOSED.items())
def test_an_orthographic_view_is_its_closed_form_in_every_pixel(view, expected):
    maps = rays(Cameras((view,), 7, 5))
    assert maps.shape == (1, 6, 5, 7)
    assert torch.allclose(maps, torch.tensor(expected).float()[None, :, None, None].expand_as(maps), rtol=0, atol=1e-7)


@pytest.mark.parametrize("view", [(0.0, 0.0), (45.0, 0.0), (137.0, 31.0), (-20.0, -70.0), (271.0, 89.9)])
def test_an_orthographic_view_is_what_its_camera_matrix_gives(view):
    turn, position = looked_at(*view, 1.8)
    to_camera = np.eye(4)
    to_camera[:3, :3], to_camera[:3, 3] = turn.T, -turn.T @ position
    to_camera[1:3] *= -1  # from y up and z backward to y down and z forward
    direction = to_camera[:3, :3].T @ [0.0, 0.0, 1.0]
    stands = -to_camera[:3, :3].T @ to_camera[:3, 3]
    expected = np.concatenate([direction, stands / np.linalg.norm(stands)])
    assert rays(Cameras((view,), 3, 4))[0, :, 2, 1].numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("view", [(0.0, 0.0), (90.0, 0.0), (137.0, 31.0), (-20.0, -70.0)])
@pytest.mark.parametrize(("width", "height"), [(9, 9), (12, 5), (4, 11)])
def test_a_perspective_view_has_the_pluecker_coordinates_of_every_pixel(view, width, height):
    cameras = Cameras((view,), width, height, "perspective", distance=1.3, field_of_view=50.0)
    turn, position = looked_at(*view, 1.3)
    focal = 0.5 * width / np.tan(np.radians(50.0) / 2)
    maps = rays(cameras)[0].numpy()
    for j in range(height):
        for i in range(width):
            towards = turn @ [(i + 0.5 - width / 2) / focal, -(j + 0.5 - height / 2) / focal, -1.0]
            direction = towards / np.linalg.norm(towards)
            expected = [*direction, *np.cross(position, direction)]
            assert maps[:, j, i] == pytest.approx(expected, abs=1e-6)


def test_a_pixel_of_a_front_view_is_its_closed_form():
    maps = rays(Cameras(((0.0, 0.0),), 2, 2, "perspective", distance=3.0, field_of_view=90.0))
    n = math.sqrt(1.5)  # the ray through the upper left pixel: half a focal length left, half a one up
    expected = torch.tensor([-0.5 / n, 1 / n, 0.5 / n, -1.5 / n, 0.0, -1.5 / n])
    assert torch.allclose(maps[0, :, 0, 0], expected, rtol=0, atol=1e-6)


def test_every_ray_is_a_unit_vector_and_its_moment_is_at_right_angles():
    maps = rays(Cameras(orbit(5, 12.0, (-40.0, 0.0, 90.0)), 8, 6, "perspective", 2.0, 70.0)).double()
    d, m = maps[:, :3], maps[:, 3:]
    assert torch.allclose(d.norm(dim=1), torch.ones(15, 6, 8, dtype=torch.float64), atol=1e-6)
    assert (d * m).sum(1).abs().max() < 1e-6


def test_axes_are_a_right_handed_frame_also_above_and_below():
    right, up, back = axes(Cameras(tuple((a, e) for a in (0.0, 33.0, 200.0) for e in (-90.0, -12.0, 0.0, 90.0)), 4, 4))
    frame = torch.stack((right, up, back), -1)
    assert torch.allclose(frame.mT @ frame, torch.eye(3, dtype=torch.float64).expand(12, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(frame), torch.ones(12, dtype=torch.float64), atol=1e-12)


def test_opposite_cameras_see_in_opposite_directions():
    there, back = rays(Cameras(((30.0, 20.0), (210.0, -20.0)), 4, 4))
    assert torch.allclose(there, -back, atol=1e-6)


def test_an_orthographic_map_does_not_depend_on_distance_or_size():
    near, far = (rays(Cameras(SIX, 4, 4, distance=d)) for d in (0.1, 50.0))
    assert torch.equal(near, far)
    assert torch.equal(rays(Cameras(SIX, 9, 5))[..., 0, 0], near[..., 0, 0])


def test_conditions_are_rays_from_0_to_1_and_what_is_cut_is_counted():
    wide = Cameras(SIX, 6, 6, "perspective", distance=20.0, field_of_view=80.0)
    assert torch.equal(conditions(wide), ((rays(wide) + 1) / 2).clamp(0, 1))
    assert share_cut(wide) == pytest.approx((rays(wide).abs() > 1.000001).float().mean().item())
    assert share_cut(wide) > 0.1
    assert share_cut(Cameras(SIX, 6, 6)) == 0
    assert share_cut(Cameras(SIX, 6, 6, "perspective")) == 0


def test_an_orbit_goes_around_once_at_each_elevation():
    assert orbit(3, 30.0, (0.0, -15.0)) == ((30, 0), (150, 0), (270, 0), (30, -15), (150, -15), (270, -15))
    assert orbit(2, -90.0, (5.0,)) == ((270, 5), (90, 5))


def test_texts_say_where_cameras_stand():
    assert read_views("45, 0\n\n -90 ,30.5\r\n1e2,-90") == ((45, 0), (-90, 30.5), (100, -90))
    assert read_elevations(" 0, 30\n-12.5, ") == (0, 30, -12.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("45", 'line 1: "45" is no view. Write two numbers of degrees with a comma between them, such as 45, 0.'),
        ("0, 0\n1, 2, 3", 'line 2: "1, 2, 3" is no view. Write two numbers of degrees with a comma between them, such as 45, 0.'),
        ("0, 91", 'line 1: It is "91", not a number of degrees from -90 to 90. Give a number of degrees from -90 to 90.'),
        ("\nleft, 0", 'line 2: It is "left", not a number of degrees. Give a number of degrees.'),
        ("nan, 0", 'line 1: It is "nan", not a number of degrees. Give a number of degrees.'),
        ("inf, 0", 'line 1: It is "inf", not a number of degrees. Give a number of degrees.'),
        (" \n", "lines: It is empty, not one view in each line, such as 45, 0. Give one view in each line, such as 45, 0."),
        ("0, 0\n" * 5000, "lines: It is a text of 25,000 characters, not one of 20,000 at most. Give one of 20,000 at most."),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named_with_what_to_write(text, message):
    with pytest.raises(ConfigError) as caught:
        read_views(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "elevations: It is empty, not one or more elevations such as 0, 30. Give one or more elevations such as 0, 30."),
        ("0; 30", 'elevations: It is "0; 30", not a number of degrees from -90 to 90. Give a number of degrees from -90 to 90.'),
        ("0, 120", 'elevations: It is "120", not a number of degrees from -90 to 90. Give a number of degrees from -90 to 90.'),
    ],
)
def test_wrong_elevations_are_named(text, message):
    with pytest.raises(ConfigError) as caught:
        read_elevations(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"views": ()}, "views: It is 0, not a number of cameras from 1 to 256."),
        ({"views": ((0.0, 0.0),) * (MOST_VIEWS + 1)}, "views: It is 257, not a number of cameras from 1 to 256."),
        ({"views": ((math.nan, 0.0),)}, "azimuth: It is nan, not a number of degrees."),
        ({"views": ((0.0, 90.5),)}, "elevation: It is 90.5, not a number of degrees from -90 to 90."),
        ({"width": 0}, "width: It is 0, not a number of pixels from 1."),
        ({"height": -8}, "height: It is -8, not a number of pixels from 1."),
        ({"projection": "fish eye"}, "projection: It is fish eye, not orthographic or perspective."),
        ({"distance": 0.0}, "distance: It is 0.0, not a number above 0."),
        ({"field_of_view": 180.0}, "field_of_view: It is 180.0, not a number of degrees between 0 and 180."),
    ],
)
def test_cameras_that_make_no_sense_are_refused_by_name(changes, start):
    with pytest.raises(ConfigError) as caught:
        Cameras(**{"views": SIX, "width": 8, "height": 8, **changes})
    assert str(caught.value).startswith(start)


def test_an_orbit_of_none_is_refused():
    with pytest.raises(ConfigError, match="views: It is 0, not a number of cameras from 1 to 256"):
        orbit(0, 0.0, (0.0,))


def test_maps_that_would_fill_the_memory_are_refused_with_their_size():
    with pytest.raises(SizeError) as caught:
        Cameras(SIX, 4096, 4096)
    expected = "KronA Cameras: The maps of 6 cameras of 4096 × 4096 pixels have 603,979,776 numbers. Take fewer cameras"
    assert str(caught.value).startswith(expected)
