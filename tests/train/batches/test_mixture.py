"""Batches of what is no single picture: prompts alone, groups that stay together, and pictures that are drawn by
weights."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from test_loop import config, examples

from krona_ops.errors import DataError
from krona_train import TrainConfig, fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example, Group, Item
from krona_train.batches.fingerprint import fingerprint
from krona_train.batches.mixture import ROUND, Mixture
from krona_train.batches.samples import Samples
from krona_train.run.events import Stepped


def items(shapes, weights):
    rng = torch.Generator().manual_seed(0)
    return [
        Item((Example(torch.randn(4, *shape, generator=rng), torch.zeros(7, 24), f"{n}"),), weight=weight)
        for n, (shape, weight) in enumerate(zip(shapes, weights, strict=True))
    ]


def drawn(samples, batches):
    return Counter(sample.example.caption for number in range(batches) for sample in samples.batch(number))


@pytest.mark.parametrize("weights", [(1, 3, 4), (0.25, 0.0, 0.75), (5.0, 1e-9, 5.0)])
def test_pictures_come_as_often_as_their_weights_say_in_each_round(weights):
    mixture = Mixture([0] * 3, weights, 4, seed=2)
    for first in range(0, 3 * ROUND // 4, ROUND // 4):
        found = Counter(index for number in range(first, first + ROUND // 4) for index in mixture.batch(number))
        for index, weight in enumerate(weights):
            assert abs(found[index] - ROUND * weight / sum(weights)) < 1 + 1e-6
            assert weight or not found[index]


def test_sizes_are_drawn_by_the_weights_of_their_pictures():
    samples = Samples(items([(6, 5), (6, 5), (4, 8)], (9.0, 4.0, 1.0)), TrainConfig(batch_size=2))
    found = drawn(samples, 3 * ROUND)
    assert abs(found["2"] / found.total() - 1 / 14) < 0.01
    assert abs(found["0"] / found.total() - 9 / 14) < 0.02
    assert all(len({s.example.latent_shape for s in samples.batch(n)}) == 1 for n in range(50))


def test_the_draw_is_the_same_for_any_number_of_processes():
    data = items([(6, 5)] * 5, (1.0, 2.0, 3.0, 4.0, 5.0))
    one = Samples(data, TrainConfig(batch_size=4))
    two = [Samples(data, TrainConfig(batch_size=2), process, 2) for process in range(2)]
    for number in range(20):
        apart = [sample.example.caption for part in two for sample in part.batch(number)]
        assert [sample.example.caption for sample in one.batch(number)] == apart


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (1.0, None)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(DataError):
        Samples(items([(6, 5)] * 2, weights), TrainConfig())


def test_weights_decide_which_pictures_a_training_is_of():
    data = items([(6, 5)] * 2, (1.0, 3.0))
    assert fingerprint(data) != fingerprint([replace(item, weight=None) for item in data])
    assert fit(ToyBackbone(), data, config()) == fit(ToyBackbone(), data, config())


def group(size, take=0, first=0):
    return Group(tuple(Item((example,)) for example in examples(first + size)[first:]), take)


def test_a_group_stays_together_in_its_order():
    samples = Samples([group(3), group(3, first=1)], TrainConfig(batch_size=2))
    for number in range(6):
        batch = samples.batch(number)
        assert len(batch) == 6
        assert [sample.group for sample in batch] == [2 * number] * 3 + [2 * number + 1] * 3
        assert [sample.number for sample in batch] == list(range(6 * number, 6 * number + 6))
        for captions in (batch[:3], batch[3:]):
            first = int(captions[0].example.caption.split()[1])
            assert [sample.example.caption for sample in captions] == [f"caption {first + n}" for n in range(3)]


def test_of_a_large_group_other_members_are_taken_each_time():
    samples = Samples([group(5, take=2)], TrainConfig(batch_size=1))
    pairs = [tuple(sample.example.caption for sample in samples.batch(number)) for number in range(40)]
    assert all(len(set(pair)) == 2 for pair in pairs)
    assert len(set(pairs)) > 10
    assert {caption for pair in pairs for caption in pair} == {f"caption {n}" for n in range(5)}


def cut_group(*counts, cuts=2, take=0):
    """A group of pictures of so many forms each; the captions say which picture and which form."""
    forms = [tuple(replace(examples(1)[0], caption=f"{n}.{form}") for form in range(count)) for n, count in enumerate(counts)]
    return Group(tuple(Item(each, each[:cuts]) for each in forms), take, cuts=cuts)


def test_all_of_a_group_are_cut_alike_each_time():
    group = cut_group(4, 2, 6)
    assert [[form.caption for form in member.forms] for member in group.cut_alike(1)] == [
        ["0.2", "0.3"], ["1.1"], ["2.3", "2.4", "2.5"],
    ]  # fmt: skip
    assert [[form.caption for form in member.uncaptioned] for member in group.cut_alike(0)] == [["0.0"], ["1.0"], ["2.0"]]
    samples = Samples([group], TrainConfig(batch_size=2))
    halves = {4: 2, 2: 1, 6: 3}
    seen = []
    for number in range(30):
        drawn = [sample.example.caption.split(".") for sample in samples.batch(number)]
        for three in (drawn[:3], drawn[3:]):
            cuts = {int(form) // halves[(4, 2, 6)[int(picture)]] for picture, form in three}
            assert len(cuts) == 1
            seen += cuts
    assert 20 < seen.count(1) < 40
    again = Samples([group], TrainConfig(batch_size=1), 1, 2)  # the second of two processes
    for number in range(5):
        assert again.batch(number) == samples.batch(number)[3:]


def test_other_cuts_are_another_training_and_those_that_do_not_share_out_are_refused():
    members = cut_group(2, 2).members
    assert fingerprint([Group(members)]) != fingerprint([Group(members, cuts=2)])
    assert fingerprint([Group(members)]) == fingerprint([Group(members, cuts=1)])
    with pytest.raises(DataError, match="The forms of a group's picture cannot be shared out among 2 cuts"):
        cut_group(2, 3)
    with pytest.raises(DataError, match="cannot be shared out among 2 cuts"):
        Group(tuple(replace(member, uncaptioned=member.forms[:1]) for member in members), cuts=2)


def test_the_loss_of_groups_is_a_mean_over_all_their_samples():
    """Of one picture three times: the numbers of the samples, and so their noise, are the same alone and in a group."""
    [picture], losses = examples(1), []

    def note(event):
        if isinstance(event, Stepped):
            losses.append(event.loss)

    for data, size in (([Item((picture,))] * 3, 3), ([Group((Item((picture,)),) * 3)], 1)):
        fit(ToyBackbone(), data, config(steps=4, batch_size=size), note)
    assert losses[:4] == losses[4:]


def test_pictures_of_one_group_have_one_size():
    odd = Group((Item((Example(torch.zeros(4, 6, 5), None),)), Item((Example(torch.zeros(4, 5, 6), None),))))
    with pytest.raises(DataError, match="different sizes"):
        Samples([odd], TrainConfig())
    with pytest.raises(DataError, match="3 pictures cannot be taken from a group of 2"):
        Group(odd.members, take=3)


def test_prompts_are_batches_without_pictures_which_denoising_refuses():
    prompts = [Example(None, e.condition, e.caption, shape=(4, 6, 5)) for e in examples(3)]
    samples = Samples([Item((prompt,)) for prompt in prompts], config())
    batch = ToyBackbone().collate([sample.example for sample in samples.batch(0)])
    assert not batch.has_pictures
    assert batch.x0.shape == (3, 4, 6, 5)
    assert not batch.x0.any()
    with pytest.raises(DataError, match="prompts and no pictures; the objective denoising needs pictures"):
        fit(ToyBackbone(), prompts, config())
