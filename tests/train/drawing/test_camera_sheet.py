"""The picture of cameras shows where they stand and what their maps are."""

import numpy as np
import pytest

from krona_ops.branches.cameras import SIX, Cameras, orbit
from krona_train.drawing.camera_sheet import LIMIT, camera_sheet


def colours(picture):
    return {tuple(colour) for colour in np.asarray(picture).reshape(-1, 3).tolist()}


def test_each_views_six_numbers_are_two_colours():
    drawn = colours(camera_sheet(Cameras(SIX, 64, 64)))
    for view in ((128, 255, 128), (128, 0, 128), (0, 128, 128), (255, 128, 128)):  # (±1, 0, 0) and (0, ±1, 0)
        assert view in drawn
    assert (128, 128, 255) not in drawn
    assert (128, 128, 255) in colours(camera_sheet(Cameras(((0.0, 90.0),), 64, 64)))  # stands straight above


def test_a_perspective_map_changes_over_the_picture():
    flat, deep = (len(colours(camera_sheet(Cameras(SIX[:1], 64, 64, p)))) for p in ("orthographic", "perspective"))
    assert deep > flat + 100


@pytest.mark.parametrize(("width", "height"), [(64, 64), (512, 16), (16, 512), (1024, 768)])
@pytest.mark.parametrize("count", [1, 7, LIMIT, LIMIT + 9])
def test_any_number_of_views_of_any_shape_has_its_picture(width, height, count):
    picture = camera_sheet(Cameras(orbit(count, 10.0, (0.0,)), width, height), side=48)
    assert picture.mode == "RGB"
    assert picture.width < 1200
    assert picture.height < 1200


def test_what_is_left_out_is_said():
    few, many = (camera_sheet(Cameras(orbit(n, 0.0, (0.0,)), 32, 32), side=32) for n in (LIMIT, LIMIT + 1))
    assert many.height > few.height
