"""What is drawn during a training, and the sheet that shows it."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from krona_ops.errors import DataError
from krona_train.config import PreviewConfig
from krona_train.drawing.lettering import font, wrapped
from krona_train.drawing.preview_sheet import evenly, preview_sheet
from krona_train.monitor.preview import preview_prompts, preview_size

RED, GREEN, BLUE = (230, 20, 20), (20, 230, 20), (20, 20, 230)


def plain(color, size=(64, 64)):
    return Image.new("RGB", size, color)


def box_of(picture, color):
    """Left, top, right, bottom of the pixels of one colour; None where there are none."""
    found = np.argwhere((np.abs(np.asarray(picture, dtype=int) - color) < 12).all(axis=2))
    if not len(found):
        return None
    (top, left), (bottom, right) = found.min(0), found.max(0)
    return int(left), int(top), int(right), int(bottom)


def test_prompts_are_the_first_caption_unless_some_are_given():
    assert preview_prompts(PreviewConfig(), ["a dog", "a cat"]) == ("a dog",)
    assert preview_prompts(PreviewConfig(prompts=("x", "y")), ["a dog"]) == ("x", "y")


def test_the_size_is_the_trainings_unless_one_is_given():
    assert preview_size(PreviewConfig(), (512, 448)) == (512, 448)
    assert preview_size(PreviewConfig(width=64), (512, 448)) == (64, 448)


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (5, 5), (6, 5), (100, 7), (1000, 2), (9, 1)])
def test_thinning_keeps_the_first_and_the_last_and_spreads_the_rest(count, most):
    kept = evenly(count, most)
    assert len(kept) == min(count, most)
    if count and most > 1:
        assert (kept[0], kept[-1]) == (0, count - 1)
    steps = np.diff(kept)
    assert len(steps) == 0 or (steps.min() > 0 and steps.max() - steps.min() <= 1)


def test_a_row_is_a_step_and_a_column_a_prompt():
    sheet = preview_sheet([(0, [plain(RED), plain(GREEN)]), (50, [plain(BLUE), plain(GREEN)])])
    red, blue, green = (box_of(sheet, color) for color in (RED, BLUE, GREEN))
    assert red[0] == blue[0] < green[0]
    assert red[1] == green[1] < blue[1]
    assert green[3] == blue[3]


def test_captions_stand_above_the_pictures():
    rows = [(1, [plain(RED)])]
    without, with_one = preview_sheet(rows), preview_sheet(rows, ["a photo of sks dog"])
    assert with_one.height > without.height
    assert box_of(with_one, RED)[1] > box_of(without, RED)[1]
    heading = np.asarray(with_one)[: box_of(with_one, RED)[1]]
    assert np.ptp(heading) > 60


def test_a_long_run_is_thinned_and_keeps_its_first_and_last_picture():
    rows = [(step, [plain((100, 100, 100))]) for step in range(300)]
    rows[0], rows[-1] = (0, [plain(RED)]), (299, [plain(BLUE)])
    sheet = preview_sheet(rows)
    assert sheet.height < 16 * 300
    assert box_of(sheet, RED)[1] < box_of(sheet, BLUE)[1]


def test_many_prompts_make_smaller_pictures():
    sheet = preview_sheet([(1, [plain(RED)] * 40)])
    assert sheet.width <= 4096


def test_pictures_of_different_shape_and_number_are_shown_whole():
    sheet = preview_sheet([(1, [plain(RED, (64, 32))]), (2, [plain(GREEN, (32, 64)), plain(BLUE)])])
    for color, shape in ((RED, 2.0), (GREEN, 0.5), (BLUE, 1.0)):
        left, top, right, bottom = box_of(sheet, color)
        assert (right - left) / (bottom - top) == pytest.approx(shape, rel=0.05)


def test_a_sheet_of_nothing_is_an_error():
    with pytest.raises(DataError, match="no previews"):
        preview_sheet([])


@pytest.mark.parametrize("text", ["", "short", "many words " * 30, "x" * 400, "two " + "y" * 400])
def test_wrapped_text_stays_inside(text):
    pen, letters = ImageDraw.Draw(plain(RED)), font(14)
    lines = wrapped(text, pen, letters, 120).split("\n")
    assert len(lines) <= 2
    assert all(pen.textlength(line, font=letters) <= 120 for line in lines)
    assert ("…" in lines[-1]) == (len(text) > 20)
