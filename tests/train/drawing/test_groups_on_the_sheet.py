"""The contact sheet of groups: each in a frame of its own, with its name, its size and its cameras."""

import numpy as np
import pytest
import torch

from krona_train.batches.camera import Camera
from krona_train.config import DataConfig
from krona_train.data.notices import Notice
from krona_train.data.pictures import Dataset, Picture, PictureGroup
from krona_train.drawing.contact_sheet import BRIGHT, FAINT, TILE, contact_sheet

SIDE, GAP, TEXT = 64, 2, 9
HEIGHT = SIDE + 4 * (TEXT + 4) + 2 * GAP
LABEL = TEXT + 4 + GAP


def group(name, count, size=(32, 32), camera=None):
    of = PictureGroup(name)
    return [
        Picture(torch.full((size[1], size[0], 3), (n + 1) / (count + 1)), "a fox", f"{name}/{n}", None, 1, of, camera)
        for n in range(count)
    ]


def rgb(colour):
    return tuple(int(colour[n : n + 2], 16) for n in (1, 3, 5))


def sheet(*pictures, columns=4, **options):
    limit = {"limit": options.pop("limit")} if "limit" in options else {}
    return np.asarray(contact_sheet(Dataset(pictures, 64, **options), SIDE, columns, **limit))


def places(drawn, colour):
    """Whether each row of pixels has the colour."""
    return (drawn == rgb(colour)).all(-1)


def test_each_group_begins_a_row_in_a_frame_with_its_name():
    drawn = sheet(*group("fox", 3), *group("cup", 2))
    width = 3 * (SIDE + GAP) + GAP
    assert drawn.shape[:2] == (2 * (LABEL + HEIGHT + GAP) + GAP, width)
    tiles = places(drawn, TILE)
    for band, count in enumerate((3, 2)):
        top = GAP + band * (LABEL + HEIGHT + GAP)
        label = drawn[top : top + TEXT + 2]
        assert (label > 200).any()  # its name
        row = tiles[top + LABEL + SIDE + 1]  # between the pictures and what is written below them
        assert [bool(row[GAP + n * (SIDE + GAP) + 1]) for n in range(3)] == [n < count for n in range(3)]
        edge = places(drawn, FAINT)
        bottom = top + LABEL + HEIGHT + GAP - GAP // 2 - 1
        assert edge[top - GAP // 2, 1 : width - 1].all()
        assert edge[bottom, 1 : width - 1].all()
        assert edge[top:bottom, 1].all()
    assert (places(drawn, BRIGHT)).any()


def test_without_groups_nothing_has_a_frame():
    """The tiles stand where they always did: the places of this sheet were written down before there were groups."""
    pictures = [Picture(p.source, p.caption, p.name) for p in group("fox", 5)]
    drawn = sheet(*pictures, class_count=2)
    assert drawn.shape == (2 * (HEIGHT + GAP) + GAP, 4 * (SIDE + GAP) + GAP, 3)
    assert not places(drawn, FAINT)[:GAP].any()
    for n in range(6):  # the last one says that class pictures are made later
        row, column = divmod(n, 4)
        left, top = GAP + column * (SIDE + GAP), GAP + row * (HEIGHT + GAP)
        assert tuple(drawn[top + HEIGHT - 1, left]) == rgb(TILE)
        if n < 5:
            assert abs(int(drawn[top + SIDE // 2, left + SIDE // 2, 0]) - round(255 * (n + 1) / 6)) <= 1


def test_pictures_of_a_group_are_shown_with_the_size_that_they_become():
    settings = DataConfig(bucket_step=8)
    together = sheet(*group("fox", 1, (64, 32)), *group("fox", 1, (32, 64)), settings=settings)
    one = PictureGroup("fox")
    shared = [Picture(p.source, p.caption, p.name, group=one) for p in (*group("a", 1, (64, 32)), *group("a", 1, (32, 64)))]
    mixed = sheet(*shared, settings=settings)
    apart = together[GAP + LABEL : GAP + LABEL + SIDE, GAP : GAP + SIDE]
    cut = mixed[GAP + LABEL : GAP + LABEL + SIDE, GAP : GAP + SIDE]
    assert apart.shape == cut.shape
    middle = apart.shape[0] // 2
    assert tuple(apart[middle, 3]) == tuple(apart[middle, SIDE // 2])  # alone, nothing is cut off
    assert cut[middle, 3, 0] < cut[middle, SIDE // 2, 0]  # as a square, its sides are, and dark


def test_cameras_class_pictures_and_notices_are_beside_the_groups():
    bare, views = sheet(*group("fox", 2)), sheet(*group("fox", 2, camera=Camera(90, 10.5)))
    assert views.shape == bare.shape
    assert (views[GAP + LABEL : GAP + LABEL + SIDE] == bare[GAP + LABEL : GAP + LABEL + SIDE]).all()
    assert (views != bare).any()
    others = tuple(Picture(p.source, p.caption, p.name) for p in group("dog", 3))
    with_class = sheet(*group("fox", 2), class_pictures=others)
    assert with_class.shape[0] == bare.shape[0] + HEIGHT + GAP
    told = sheet(*group("fox", 2), notices=(Notice("Left out", "a reason", ("a",)),))
    assert told.shape[0] > bare.shape[0]
    assert (told[: bare.shape[0], : bare.shape[1]] == bare).all()


@pytest.mark.parametrize(("limit", "rows", "labels"), [(5, 2, 2), (4, 2, 1), (2, 2, 1)])
def test_a_large_sheet_says_how_many_pictures_it_leaves_out(limit, rows, labels):
    drawn = sheet(*group("fox", 3), *group("cup", 2), limit=limit)
    assert drawn.shape[0] == rows * (HEIGHT + GAP) + labels * LABEL + GAP
    mirrored = sheet(*group("fox", 3), *group("cup", 2), limit=limit, settings=DataConfig(flip=True))
    assert mirrored.shape == drawn.shape
