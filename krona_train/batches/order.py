"""Which picture each sample of a training is: a pure function of the seed and the sample's number."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate

import torch

from ..randomness import Stream, generator


class Order:
    """The pictures of every batch, without anything to remember.

    Pictures of one size share a bucket, and a batch takes all its samples from one. Time is cut into rounds of as many
    batches as there are pictures (counted with their repeats): in each round a bucket of ``n`` pictures gets ``n``
    batches, so that all pictures are seen equally often, in an order that is new in every round. Inside its bucket each
    picture comes once before any comes again. Without buckets this is the usual: every picture once per epoch.

    Args:
        buckets: For each picture, what it must share with the others of its batch.
        repeats: For each picture, how often it counts.
        batch_size: Samples per batch, those of all processes together.
    """

    def __init__(
        self, buckets: Sequence[Hashable], repeats: Sequence[int], batch_size: int, seed: int, stream: Stream = "order"
    ) -> None:
        members: dict[Hashable, list[int]] = {}
        for index, (bucket, times) in enumerate(zip(buckets, repeats, strict=True)):
            members.setdefault(bucket, []).extend([index] * times)
        self._members = list(members.values())
        self._ends = list(accumulate(len(m) for m in self._members))
        self._batch_size, self._seed, self._stream = batch_size, seed, stream

    @property
    def pictures(self) -> int:
        """Pictures per epoch, counted with their repeats."""
        return self._ends[-1]

    def batch(self, number: int) -> list[int]:
        """The indices of the pictures in batch ``number``, counted from 0."""
        round_, position = divmod(number, self.pictures)
        bucket, turn = self._turn(round_, position)
        members = self._members[bucket]
        first = (round_ * len(members) + turn) * self._batch_size
        return [members[self._place(bucket, first + i)] for i in range(self._batch_size)]

    def _turn(self, round_: int, position: int) -> tuple[int, int]:
        """The bucket that is next, and how often it was before in this round."""
        if len(self._members) == 1:
            return 0, position
        tickets = torch.randperm(self.pictures, generator=generator(self._seed, "buckets", round_))[: position + 1]
        drawn = torch.bucketize(tickets, torch.tensor(self._ends), right=True)
        return int(drawn[-1]), int((drawn[:-1] == drawn[-1]).sum())

    def _place(self, bucket: int, sample: int) -> int:
        """Where in its bucket the bucket's sample of that number stands: each epoch has a permutation of its own."""
        size = len(self._members[bucket])
        epoch, position = divmod(sample, size)
        rng = generator(self._seed, self._stream, epoch, *([bucket] if bucket else []))
        return int(torch.randperm(size, generator=rng)[position])
