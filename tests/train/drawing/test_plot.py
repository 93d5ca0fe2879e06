"""The picture of a run: everything is where its step is, and only what was given is there."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from krona_train.drawing.film_strip import LARGEST, SMALLEST, thinned
from krona_train.drawing.plot import MEAN, RATE, RAW, VALIDATION, loss_curve, smoothed

COLORS = [(230, 20, 20), (20, 230, 20), (20, 20, 230), (230, 230, 20), (230, 20, 230)]
SIZE = (900, 500)


def losses(count):
    return (0.1 + np.random.default_rng(count).gamma(1.5, 0.05, count)).tolist()


def mask_of(picture, color, tolerance=10):
    wanted = 255 * np.array(to_rgb(color)) if isinstance(color, str) else np.array(color)
    return (np.abs(np.asarray(picture, dtype=float) - wanted) < tolerance).all(axis=2)


def strip_of(picture):
    return picture.crop((0, SIZE[1], *picture.size))


def columns_of(picture, color):
    """Leftmost and rightmost column of a colour; None where it is not."""
    found = np.flatnonzero(mask_of(picture, color).any(axis=0))
    return (int(found[0]), int(found[-1])) if len(found) else None


def previews(steps, size=(64, 64)):
    return [(step, Image.new("RGB", size, color)) for step, color in zip(steps, COLORS, strict=False)]


def test_a_film_strip_grows_the_picture_and_leaves_the_curve_its_size():
    plain, with_strip = loss_curve(losses(50), "x", SIZE), loss_curve(losses(50), "x", SIZE, previews=previews([0, 25, 50]))
    assert plain.size == SIZE
    assert with_strip.width == SIZE[0]
    assert with_strip.height > SIZE[1] + SMALLEST


@pytest.mark.parametrize("last", [12, 500, 20_000])
def test_a_thumbnail_stands_below_its_step(last):
    """The oracle is the plot's own marker: the lowest of validations that lie symmetrically about the step."""
    step = last // 3
    valley = [(step - step // 2, 1.0), (step, 0.02), (step + step // 2, 1.0)]
    picture = loss_curve([], "", SIZE, validation=valley, previews=previews([0, step, last]))
    lower_half = picture.crop((0, SIZE[1] * 3 // 4, SIZE[0], SIZE[1]))
    marker = np.flatnonzero(mask_of(lower_half, VALIDATION).any(axis=0))
    centres = [sum(columns_of(strip_of(picture), color)) / 2 for color in COLORS[:3]]
    assert centres[1] == pytest.approx(marker.mean(), abs=1.5)
    assert centres[1] - centres[0] == pytest.approx((centres[2] - centres[0]) * step / last, abs=1.5)


def test_thumbnails_do_not_overlap_and_the_first_and_last_are_there():
    grey = Image.new("RGB", (64, 64), (120, 120, 120))
    many = [(0, Image.new("RGB", (64, 64), COLORS[0])), *((n, grey) for n in range(1, 400)), (400, previews([400])[0][1])]
    many[-1] = (400, Image.new("RGB", (64, 64), COLORS[1]))
    strip = strip_of(loss_curve([], "", SIZE, previews=many))
    first, last = (columns_of(strip, color) for color in COLORS[:2])
    assert first[1] - first[0] + 1 == last[1] - last[0] + 1 >= SMALLEST
    # inside the picture, whole
    assert first[0] > 0
    assert last[1] < SIZE[0] - 1
    row = mask_of(strip, (120, 120, 120)).any(axis=0).astype(int)
    assert (np.diff(row) == 1).sum() >= 4  # several between them, each with a gap before it


def test_few_thumbnails_are_large_and_many_are_small():
    def width(steps):
        low, high = columns_of(strip_of(loss_curve([], "", SIZE, previews=previews(steps))), COLORS[0])
        return high - low + 1

    assert width([0, 500]) == LARGEST
    assert SMALLEST <= width([0, 60, 120, 180, 500]) < LARGEST


@pytest.mark.parametrize(
    ("xs", "kept"),
    [([5], [5]), ([0, 3], [3]), ([0, 10], [0, 10]), ([0, 4, 8, 12, 16, 20], [0, 20]), ([0, 3, 6, 9, 12, 15, 18], [0, 9, 18])],
)
def test_thinning_keeps_a_distance(xs, kept):
    assert [x for x, _, _ in thinned([(x, x, None) for x in xs], 8.5)] == kept


def test_wide_previews_keep_their_shape():
    strip = strip_of(loss_curve([], "", SIZE, previews=previews([0, 50], size=(200, 100))))
    mask = mask_of(strip, COLORS[0])
    assert mask.any(axis=0).sum() == 2 * mask.any(axis=1).sum() == LARGEST


@pytest.mark.parametrize("given", [True, False])
def test_validation_is_there_if_and_only_if_it_was_given(given):
    picture = loss_curve(losses(60), "", SIZE, validation=[(0, 0.3), (30, 0.15), (60, 0.2)] if given else [])
    assert mask_of(picture, VALIDATION).any() == given
    assert mask_of(picture, MEAN).any()
    assert mask_of(picture, RAW, 25).any()


@pytest.mark.parametrize(("rates", "drawn"), [([5e-4] * 40, False), (np.linspace(0, 5e-4, 40), True), ([], False)])
def test_the_learning_rate_is_drawn_where_it_changes(rates, drawn):
    assert mask_of(loss_curve(losses(40), "", SIZE, learning_rates=rates), RATE).any() == drawn


def test_no_line_is_drawn_where_metrics_are_lost():
    steps = [*range(1, 41), *range(161, 201)]
    picture = loss_curve(losses(80), "", SIZE, steps=steps)
    inner = picture.crop((100, 110, 800, 440))  # below the legend, inside the axes
    drawn = mask_of(inner, MEAN, 40).any(axis=0)
    assert drawn[:90].any()
    assert drawn[-90:].any()
    assert not drawn[200:400].any()
    whole = mask_of(loss_curve(losses(200), "", SIZE).crop((100, 110, 800, 440)), MEAN, 40).any(axis=0)
    assert whole[200:400].any()


def test_losses_that_are_not_finite_leave_the_rest_as_it_is():
    values = losses(40)
    values[20] = float("nan")
    values[21] = float("inf")
    mean = smoothed(values)
    assert np.isfinite(mean).all()
    assert mean[20] == pytest.approx(np.mean(values[18:20] + values[22:23]))
    picture = loss_curve(values, "", SIZE, validation=[(3, float("nan"))])
    assert picture.size == SIZE
    assert not mask_of(picture, VALIDATION).any()
    assert loss_curve([float("nan")] * 5, "", SIZE).size == SIZE


def test_an_empty_run_is_a_picture():
    assert loss_curve([], "nothing yet").size == (900, 500)
    assert loss_curve([], "", SIZE, validation=[(0, 0.2)], previews=previews([0])).width == SIZE[0]
    assert loss_curve([0.1], "", SIZE, steps=[900], learning_rates=[1e-4]).size == SIZE
