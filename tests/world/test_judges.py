"""The judges' losses against their formulas, and what they are fed."""

import math

import numpy as np
import torch

from benchmarks.world.characters import SUBJECTS
from benchmarks.world.grammar import vocabulary
from benchmarks.world.judges import HEADS, TEMPERATURE, matching, spelled
from benchmarks.world.pictures import for_judges, for_training, held_out, picture, rendered
from benchmarks.world.train_judges import truths
from krona_train.evaluation.small_world import LONGEST, Attributes, ImageText, SubjectEncoder


def unit(*shape, seed):
    return torch.nn.functional.normalize(
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


def test_matching_is_infonce_in_both_directions():
    one, other = unit(5, 7, seed=0), unit(5, 7, seed=1)
    cosines = (one @ other.mT / TEMPERATURE).tolist()

    def cross_entropy(rows):
        return -sum(row[n] - math.log(sum(map(math.exp, row))) for n, row in enumerate(rows)) / len(rows)

    expected = (cross_entropy(cosines) + cross_entropy(list(zip(*cosines, strict=True)))) / 2
    assert abs(matching(one, other).item() - expected) < 1e-12


def test_captions_are_spelled_by_the_words_of_the_world():
    words = vocabulary()
    [line] = spelled(["a photo of sks robot in the snow by day"]).tolist()
    assert [words[n - 1] for n in line if n] == ["a", "photo", "of", "robot", "in", "the", "snow", "by", "day"]
    assert len(line) == LONGEST
    assert max(len(for_training(n).caption.split()) for n in range(500)) <= LONGEST


def test_the_judges_have_a_vector_of_length_one_and_scores_for_every_value():
    x = torch.randn(3, 3, 64, 64)
    assert {name: tuple(scores.shape) for name, scores in Attributes(HEADS, 8)(x).items()} == {
        name: (3, len(v)) for name, v in HEADS.items()
    }
    for vectors in (
        SubjectEncoder(8)(x),
        ImageText(len(vocabulary()), 8).pictures(x),
        ImageText(len(vocabulary()), 8).captions(spelled(["a photo of a cat"] * 3)),
    ):
        assert vectors.shape == (3, 64)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(3))


def test_truths_are_what_was_rendered():
    told = [for_judges(n) for n in range(40)]
    found = truths(told)
    for n, each in enumerate(told):
        assert HEADS["pose"][found["pose"][n]] == each.scene.pose
        assert HEADS["background"][found["background"][n]] == each.scene.background
        assert HEADS["kind"][found["kind"][n]] == each.character.kind
        assert HEADS["paint"][found["paint"][n]] == each.character.paint


def test_training_judging_and_measuring_see_different_characters():
    trained = {for_training(n).number for n in range(40_000)}
    judged = {for_judges(n).number for n in range(24_000)}
    kept = {held_out(n).number for n in range(4_000)}
    assert trained.isdisjoint(judged)
    assert kept.isdisjoint(trained | judged)
    assert max(trained | judged | kept) < SUBJECTS
    assert len({for_judges(n).number for n in range(8)}) == 1


def test_rendering_that_was_stopped_goes_on(tmp_path):
    file = tmp_path / "x.rgb"
    images = rendered(file, held_out, 40, chunk=20)
    assert np.array_equal(images[7], picture(held_out(7)))
    whole = file.read_bytes()
    marked = bytes([whole[0] ^ 1]) + whole[1:]
    file.write_bytes(marked[:-1])  # as a kill leaves it
    said = []
    assert np.array_equal(rendered(file, held_out, 40, said.append, chunk=20)[39], picture(held_out(39)))
    assert said == ["40 of 40 pictures rendered"]
    assert file.read_bytes() == marked, "what was whole is not rendered again"
