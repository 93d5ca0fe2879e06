"""The world's pictures: the same from the same numbers, showing what their captions say, and never a subject in pre-training."""

import dataclasses
from typing import get_args

import numpy as np
import pytest

from benchmarks.world.canvas import Canvas
from benchmarks.world.characters import SUBJECTS, character
from benchmarks.world.grammar import Scene, caption, draw_scene, vocabulary, who
from benchmarks.world.render import render
from benchmarks.world.vocabulary import Accessory, Background, Kind, Light, Pattern, Pose

SCENE = Scene("standing", "none", "beach", "day")


def difference(a, b):
    return np.abs(a.astype(int) - b).mean()


def test_a_picture_is_a_function_of_its_numbers():
    one = render(character(4), SCENE, 9)
    assert one.shape == (64, 64, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, render(character(4), SCENE, 9))
    assert difference(one, render(character(4), SCENE, 10)) > 2
    assert difference(one, render(character(6), SCENE, 9)) > 2
    assert character(4) == character(4)


@pytest.mark.parametrize(
    ("part", "literal"), [("pose", Pose), ("accessory", Accessory), ("background", Background), ("light", Light)]
)
def test_each_thing_that_a_caption_can_say_changes_the_picture(part, literal):
    pictures = {value: render(character(12), dataclasses.replace(SCENE, **{part: value}), 3) for value in get_args(literal)}
    for a in pictures:
        for b in pictures:
            assert a == b or difference(pictures[a], pictures[b]) > 1.5


@pytest.mark.parametrize("kind", get_args(Kind))
def test_each_pattern_can_be_told_from_the_others_on_the_body(kind):
    someone = dataclasses.replace(character(8, kind), colour=(0.9, 0.2, 0.2), second=(0.1, 0.2, 0.9), frequency=3.0, phase=0.3)
    pictures = {p: render(dataclasses.replace(someone, pattern=p), SCENE, 3)[28:58, 20:44] for p in get_args(Pattern)}
    for a in pictures:
        for b in pictures:
            assert a == b or difference(pictures[a], pictures[b]) > 1.5


def test_a_larger_picture_shows_the_same():
    small, large = render(character(4), SCENE, 9), render(character(4), SCENE, 9, side=128)
    assert difference(small, large.reshape(64, 2, 64, 2, 3).mean((1, 3))) < 2.5


def test_none_of_the_first_characters_of_pre_training_looks_like_a_subject():
    def looks(each):
        return (
            each.kind,
            each.pattern,
            *(round(v, 4) for v in (*each.colour, each.frequency, each.phase, *each.body, each.head)),
        )

    trained = {looks(character(n)) for n in range(0, 40_000, 2)}
    assert len(trained) == 20_000
    assert trained.isdisjoint(looks(character(SUBJECTS + n)) for n in range(1_000))


def test_captions_follow_the_grammar():
    assert (
        caption(Scene("waving", "hat", "snow", "night"), who("robot", "red"))
        == "a photo of a red robot waving with a hat in the snow at night"
    )
    assert caption(SCENE, who("bear", "orange")) == "a photo of an orange bear standing on the beach by day"
    assert caption(SCENE, "sks cat") == "a photo of sks cat standing on the beach by day"
    rng, known = np.random.default_rng(0), set(vocabulary())
    for n in range(500):
        each = character(n)
        assert set(caption(draw_scene(rng), who(each.kind, each.paint)).split()) <= known
    assert len(known) < 60


def test_scenes_are_drawn_evenly():
    rng = np.random.default_rng(1)
    drawn = [draw_scene(rng) for _ in range(6_000)]
    for part, literal in {"pose": Pose, "accessory": Accessory, "background": Background, "light": Light}.items():
        values = get_args(literal)
        for value in values:
            share = sum(getattr(scene, part) == value for scene in drawn) / len(drawn)
            assert abs(share - 1 / len(values)) < 0.03


def test_distances_are_those_of_the_shapes():
    canvas = Canvas(50)
    assert np.allclose(canvas.capsule((0.5, 0.5), (0.5, 0.5), 0.2), np.hypot(canvas.x - 0.5, canvas.y - 0.5) - 0.2, atol=1e-6)
    inside = canvas.box((0.4, 0.5), (0.2, 0.1)) < 0
    assert np.array_equal(inside, (np.abs(canvas.x - 0.4) < 0.2) & (np.abs(canvas.y - 0.5) < 0.1))
    assert np.array_equal(
        canvas.ellipse((0.4, 0.5), (0.3, 0.1)) < 0, ((canvas.x - 0.4) / 0.3) ** 2 + ((canvas.y - 0.5) / 0.1) ** 2 < 1
    )
    for corners in [((0.2, 0.2), (0.8, 0.3), (0.4, 0.9)), ((0.4, 0.9), (0.8, 0.3), (0.2, 0.2))]:
        area = (canvas.triangle(*corners) < 0).mean()
        (ax, ay), (bx, by), (cx, cy) = corners
        assert abs(area - abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2) < 0.01
