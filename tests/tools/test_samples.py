"""The sample subject that the pack ships."""

import numpy as np
import pytest
from PIL import Image

from tools.generate import samples
from tools.krobot.robot import KRONECKER_SQUARE, TEAL, Part, Pose, Robot, paint_body
from tools.krobot.scenes import SCENES
from tools.krobot.shapes import vec
from tools.krobot.trace import march, normals


def shipped():
    return sorted(samples.SHIPPED.iterdir())


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """All scenes again, a quarter as wide, for the time that rays take."""
    folder = tmp_path_factory.mktemp("krobot")
    for scene in SCENES:
        samples.write_sample(scene, folder, size=128)
    return folder


def test_five_small_pictures_are_shipped():
    assert [path.stem for path in shipped()] == sorted(SCENES)
    assert len(shipped()) == 5
    assert sum(path.stat().st_size for path in shipped()) < 500_000


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_shipped_picture_is_a_square_of_rgb_with_something_to_see(path):
    with Image.open(path) as picture:
        picture.load()
        assert picture.mode == "RGB"
        assert picture.size == (512, 512)
        assert np.asarray(picture, np.float32).std() > 25.0


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_the_script_renders_what_is_shipped(path, rendered):
    new = Image.open(rendered / path.name)
    old, new = (np.asarray(each, np.float32) for each in (Image.open(path).resize(new.size, Image.Resampling.BOX), new))
    # grain and blades of grass are drawn in pixels, so a small picture has others: 6 at most; another scene differs by 50 and more
    assert np.abs(old - new).mean() < 10.0


def test_two_renderings_are_equal_to_the_byte(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        samples.write_sample("grass", folder, size=48)
    assert (first / "grass.jpg").read_bytes() == (second / "grass.jpg").read_bytes()


def test_a_ray_meets_the_robot_on_its_surface_and_normals_look_outwards():
    robot = Robot(Pose(yaw=20.0, head_tilt=10.0))
    eye = vec(0.3, 1.2, 6.0)
    aim = np.random.default_rng(3).uniform([-0.2, 0.5, -0.1], [0.2, 1.5, 0.1], (200, 3)).T.astype(np.float32)
    view = aim - eye
    view /= np.linalg.norm(view, axis=0)
    travelled = march(robot, eye, view)
    assert np.isfinite(travelled).all()
    p = eye + view * travelled
    assert np.abs(robot.distance(p)).max() < 5e-3
    assert (normals(robot, p) * view).sum(0).max() < 0.05


def test_a_ray_beside_the_robot_misses_it():
    robot = Robot(Pose())
    assert np.isinf(march(robot, vec(3.0, 1.0, 6.0), vec(0.0, 0.0, -1.0))).all()


def test_the_belly_shows_a_kronecker_square():
    """Read the tiles off the paint and compare with the product."""
    tile = 0.108
    column, row = np.meshgrid(np.arange(4), np.arange(4))
    x, y = (column.ravel() - 1.5) * tile, 0.72 - (row.ravel() - 1.5) * tile
    colour = paint_body(np.stack([x, y, np.full(16, 0.32)]).astype(np.float32))
    filled = colour[2] < 0.2  # coral has little blue, cream much
    np.testing.assert_array_equal(filled.reshape(4, 4), KRONECKER_SQUARE.astype(bool))
    back = paint_body(np.stack([x, y, np.full(16, -0.32)]).astype(np.float32))
    assert (np.abs(back - TEAL).max(axis=0) < 0.2).all()


def test_every_part_of_the_robot_is_seen_in_some_picture():
    """A copper key on the back, a glowing ball: nothing is modelled in vain."""
    seen = set()
    for build in SCENES.values():
        scene = build()
        robot, eye = scene.robot, vec(*scene.camera.eye)
        view = scene.camera.rays(96)
        travelled = march(robot, eye, view)
        p = (eye + view * np.where(np.isfinite(travelled), travelled, 0.0))[:, np.isfinite(travelled)]
        local = robot.to_robot(p)
        distances = robot._parts(local)
        nearest = np.argmin(np.stack([d for d, _ in distances]), axis=0)
        seen |= {distances[i][1] for i in np.unique(nearest)}
    assert seen == set(Part)
