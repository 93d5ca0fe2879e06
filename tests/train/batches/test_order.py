"""Which picture comes when: everybody as often, batches of one size, the same on any number of processes."""

from collections import Counter

import pytest
import torch

from krona_train import TrainConfig
from krona_train.batches.examples import Example, Item
from krona_train.batches.fingerprint import fingerprint
from krona_train.batches.order import Order
from krona_train.batches.samples import Samples, as_items
from krona_train.config import DataConfig

BUCKETS = ["tall", "wide", "tall", "square", "wide", "tall", "wide"]


def test_without_buckets_every_picture_is_seen_once_per_epoch_in_an_order_that_changes():
    order = Order([0] * 5, [1] * 5, 3, seed=7)
    samples = [index for batch in range(40) for index in order.batch(batch)]
    epochs = [tuple(samples[e : e + 5]) for e in range(0, 120, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 5


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_batch_has_one_size_and_each_round_sees_all_pictures_equally_often(batch_size):
    repeats = [1, 1, 3, 1, 2, 1, 1]
    order = Order(BUCKETS, repeats, batch_size, seed=3)
    assert order.pictures == 10
    for round_ in range(3):
        batches = [order.batch(number) for number in range(round_ * 10, round_ * 10 + 10)]
        assert all(len({BUCKETS[index] for index in batch}) == 1 for batch in batches)
        assert Counter(i for batch in batches for i in batch) == {i: n * batch_size for i, n in enumerate(repeats)}


def test_a_picture_comes_again_only_when_all_of_its_size_have_come():
    order = Order(BUCKETS, [1] * 7, 2, seed=1)
    tall = [i for number in range(70) for i in order.batch(number) if BUCKETS[i] == "tall"]
    assert all(sorted(tall[n : n + 3]) == [0, 2, 5] for n in range(0, len(tall), 3))


def test_the_order_needs_no_memory():
    order = Order(BUCKETS, [2] * 7, 2, seed=5)
    forward = [order.batch(n) for n in range(30)]
    assert [order.batch(n) for n in reversed(range(30))] == forward[::-1]
    assert forward != [Order(BUCKETS, [2] * 7, 2, seed=6).batch(n) for n in range(30)]


def items(buckets=BUCKETS, forms=1):
    sizes = {"tall": (6, 4), "wide": (4, 6), "square": (5, 5)}
    return [
        Item(tuple(Example(torch.full((2, *sizes[b]), float(n)), f"{n}.{f}") for f in range(forms)))
        for n, b in enumerate(buckets)
    ]


def test_processes_share_out_the_batches_of_one():
    one = Samples(items(forms=3), TrainConfig(batch_size=4))
    two = [Samples(items(forms=3), TrainConfig(batch_size=2), process, 2) for process in range(2)]
    for number in range(20):
        whole = [(s.number, s.example.condition) for s in one.batch(number)]
        assert [(s.number, s.example.condition) for part in two for s in part.batch(number)] == whole


def test_forms_come_equally_often_and_captions_are_dropped_as_often_as_asked():
    [item] = items(["tall"], forms=3)
    bare = tuple(Example(f.latent, f"bare {n}") for n, f in enumerate(item.forms))
    config = TrainConfig(data=DataConfig(caption_dropout=0.25))
    samples = Samples([Item(item.forms, bare)], config)
    seen = Counter(samples.batch(n)[0].example.condition for n in range(4000))
    for n in range(3):
        assert abs(seen[f"0.{n}"] / 4000 - 0.25) < 0.03  # more than four standard errors
        assert abs(seen[f"bare {n}"] / 4000 - 0.25 / 3) < 0.02


def test_the_fingerprint_knows_pictures_captions_masks_repeats_and_order():
    def one(**changes):
        return Item((Example(**{"latent": torch.ones(2, 4, 6), "condition": None, "caption": "a", **changes}),))

    variants = [
        [one(), one(caption="b")],
        [one(caption="b"), one()],
        [one(latent=torch.zeros(2, 4, 6)), one(caption="b")],
        [one(mask=torch.ones(4, 6)), one(caption="b")],
        [one(mask=torch.zeros(4, 6)), one(caption="b")],
        [Item(one().forms, repeats=2), one(caption="b")],
        [Item(one().forms, one(caption="").forms), one(caption="b")],
    ]
    assert len({fingerprint(as_items(v)) for v in variants}) == len(variants)
