"""Which picture each sample of a training is where pictures have weights.

A pure function of the seed and the sample's number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from itertools import accumulate

import torch

from krona_ops.errors import DataError

from ..randomness import generator

ROUND = 256
"""Draws that share out the weights among them: in each round every picture comes as often as its weight says, but for
one time more or less."""


class Mixture:
    """The pictures of every batch, drawn by their weights without anything to remember.

    A batch takes all its samples from one bucket, which is drawn by the bucket's weight, and each of them by the
    picture's in it. Draws of a round are the points ``(i + u) / ROUND`` in a random order (systematic sampling; Madow
    1949), so that shares are met closely and early.

    Args:
        buckets: For each picture, what it must share with the others of its batch.
        weights: For each picture, how likely it is against the others; 0 or more.
        batch_size: Samples per batch, those of all processes together.

    Raises:
        DataError: A weight is negative or not finite, or all are 0.
    """

    def __init__(self, buckets: Sequence[Hashable], weights: Sequence[float], batch_size: int, seed: int) -> None:
        wrong = next((weight for weight in weights if not 0 <= weight < float("inf")), None)
        if wrong is not None or not sum(weights):
            raise DataError(
                "Pictures cannot be drawn by these weights.",
                found="only weights of 0" if wrong is None else wrong,
                expected="numbers of 0 and more, one of them above 0",
                remedy="Correct the weights, or leave them out.",
            )
        members: dict[Hashable, list[int]] = {}
        for index, bucket in enumerate(buckets):
            members.setdefault(bucket, []).append(index)
        self._members = [tuple(each) for each in members.values()]
        self._ends = [list(accumulate(weights[i] for i in each)) for each in self._members]
        self._bucket_ends = list(accumulate(ends[-1] for ends in self._ends))
        self._batch_size, self._seed = batch_size, seed

    def batch(self, number: int) -> list[int]:
        """The indices of the pictures in batch ``number``, counted from 0."""
        bucket = 0 if len(self._members) == 1 else _drawn(self._bucket_ends, self._point(0, number))
        first = number * self._batch_size
        points = (self._point(bucket + 1, first + i) for i in range(self._batch_size))
        return [self._members[bucket][_drawn(self._ends[bucket], point)] for point in points]

    def _point(self, which: int, number: int) -> float:
        """The point in [0, 1) of a draw.

        Args:
            which: 0 draws the bucket, ``n + 1`` the pictures of bucket ``n``.
            number: Of the batch, or of the sample.
        """
        round_, place = divmod(number, ROUND)
        rng = generator(self._seed, "weights", which, round_)
        shift = torch.rand((), generator=rng, dtype=torch.float64).item()
        return (int(torch.randperm(ROUND, generator=rng)[place]) + shift) / ROUND


def _drawn(ends: Sequence[float], point: float) -> int:
    """The interval that a point of [0, 1) is in; one of no length is never drawn."""
    return min(bisect_right(ends, point * ends[-1]), bisect_right(ends, ends[-1] * (1 - 2**-53)))
