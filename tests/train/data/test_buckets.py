"""Where pictures are cut: in sizes of about one area, as little as possible, each cut where it says it is."""

import pytest

from krona_train.data.buckets import View, bucket_sizes, mirrored, nearest_size, views

ASPECTS = [1.013**n for n in range(-107, 108)]  # 1:4 to 4:1


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (768, 64), (1024, 64), (520, 64), (512, 32), (64, 64), (40, 64)])
def test_sizes_are_multiples_of_the_step_within_the_area_and_not_too_long(resolution, step):
    sizes = bucket_sizes(resolution, step)
    side = resolution // 8 * 8
    assert (side, side) in sizes
    assert len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width * height <= resolution**2
        assert max(width, height) <= 4 * min(width, height)
        assert (height, width) in sizes
        assert width % 8 == height % 8 == 0
        assert (width, height) == (side, side) or width % min(step, side) == height % min(step, side) == 0


@pytest.mark.parametrize(("resolution", "area"), [(512, 0.81), (768, 0.87), (1024, 0.9)])
def test_all_sizes_have_about_the_same_area(resolution, area):
    assert all(width * height >= area * resolution**2 for width, height in bucket_sizes(resolution))


@pytest.mark.parametrize(("resolution", "kept"), [(512, 0.85), (768, 0.9), (1024, 0.92)])
def test_a_bucket_keeps_most_of_a_picture_of_any_shape(resolution, kept):
    found = [views(round(3000 * aspect), 3000, resolution)[0] for aspect in ASPECTS]
    assert min(view.kept for view in found) >= kept
    assert views(3000, 1000, resolution, buckets=False)[0].kept == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("resolution", [512, 1024])
def test_no_other_size_would_keep_more(resolution):
    sizes = bucket_sizes(resolution)
    for aspect in ASPECTS:
        width, height = round(4000 * aspect), 4000

        def kept(size, shape=width / height):
            return min(shape / (size[0] / size[1]), size[0] / size[1] / shape)

        assert kept(nearest_size(width, height, sizes)) == pytest.approx(max(map(kept, sizes)), abs=1e-9)


def test_a_wide_picture_gets_a_wide_size_and_an_upright_one_an_upright_size():
    wide, upright = views(1500, 1000, 1024)[0], views(1000, 1500, 1024)[0]
    assert (wide.width, wide.height) == (1216, 832)
    assert (upright.width, upright.height) == (832, 1216)
    assert (wide.scaled_width, wide.scaled_height) == (1248, 832)
    assert (wide.left, wide.top) == (16, 0)
    assert (upright.left, upright.top) == (0, 16)


def test_a_picture_beyond_the_longest_size_is_cut_to_it():
    [view] = views(10_000, 300, 512)
    assert (view.width, view.height) == (1024, 256)
    assert view.left == (view.scaled_width - 1024) // 2


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 4000), (4000, 7), (333, 517), (5000, 3333), (1024, 1024)])
@pytest.mark.parametrize("buckets", [True, False])
def test_every_cut_lies_in_the_scaled_picture_which_touches_it_on_two_sides(width, height, buckets):
    found = views(width, height, 512, buckets=buckets, crops=4, flip=True)
    assert len({(view.width, view.height) for view in found}) == 1
    for view in found:
        assert 0 <= view.left <= view.scaled_width - view.width
        assert 0 <= view.top <= view.scaled_height - view.height
        assert view.scaled_width == view.width or view.scaled_height == view.height
        assert view.scaled_width / view.scaled_height == pytest.approx(width / height, rel=0.01)


def test_cuts_are_spread_from_end_to_end_and_one_is_the_middle():
    def lefts(crops):
        return [view.left for view in views(64 + 31, 64, 64, buckets=False, crops=crops)]

    assert lefts(1) == [15]
    assert lefts(2) == [0, 31]
    assert lefts(4) == [0, 10, 21, 31]
    assert lefts(100) == list(range(32))  # no cut twice
    assert [view.top for view in views(64, 64 + 31, 64, buckets=False, crops=2)] == [0, 31]
    assert len(views(64, 64, 64, crops=5)) == 1


def test_a_mirrored_view_is_cut_on_the_other_side():
    view = View(64, 48, 100, 48, 10, 0)
    assert mirrored(view) == View(64, 48, 100, 48, 26, 0, True)
    assert mirrored(mirrored(view)) == view
    assert [v.flip for v in views(95, 64, 64, crops=2, flip=True, buckets=False)] == [False, True, False, True]
