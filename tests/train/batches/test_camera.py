"""A camera of a picture: its bounds, and that a training with others is another one."""

import pytest
import torch

from krona_ops.errors import ConfigError
from krona_train.batches.camera import Camera
from krona_train.batches.examples import Example, Item
from krona_train.batches.fingerprint import fingerprint


@pytest.mark.parametrize("angles", [(361, 0), (-361, 0), (0, 90.5), (0, -91), (float("nan"), 0)])
def test_a_camera_is_within_its_bounds(angles):
    with pytest.raises(ConfigError, match="it must be from -"):
        Camera(*angles)


def test_a_camera_tells_two_trainings_apart_and_none_is_as_before():
    def of(camera):
        return fingerprint([Item((Example(torch.ones(4, 2, 2), None, "a", camera=camera),))])

    assert of(Camera(0)) == of(Camera(0.0, 0.0))
    assert len({of(None), of(Camera(0)), of(Camera(1)), of(Camera(0, 1)), of(Camera(1e-9))}) == 5
