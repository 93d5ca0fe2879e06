"""From items to the batches of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from krona_ops.errors import DataError

from ..randomness import Stream, generator
from ..settings.groups import DataConfig
from .examples import Example, Group, Item
from .mixture import Mixture
from .order import Order


class Sampling(Protocol):
    """The settings that decide how samples are drawn, as `krona_train.config.TrainConfig` has them."""

    @property
    def batch_size(self) -> int:
        """Samples, or groups of them, in each process's part of a batch."""

    @property
    def seed(self) -> int:
        """What everything random comes from."""

    @property
    def data(self) -> DataConfig:
        """How often captions are dropped."""


@dataclass(frozen=True)
class Sample:
    """One picture of a batch, in the form in which it is trained on this time."""

    number: int
    """Counted from the start of the training over all processes; everything random about the sample comes from it."""
    example: Example
    group: int = -1
    """The number of the group that it is a part of, counted in the same way; samples of one group follow one another.
    -1 where there are no groups."""
    size: int = 1
    """Samples of its group."""


class Samples:
    """The batches of one process.

    Args:
        items: All pictures or groups of them, the same in every process.
        process, processes: This process's number and how many there are; each batch is shared out among them.

    Raises:
        DataError: Some items have weights and others have none, or pictures of one group have different sizes.
    """

    def __init__(
        self,
        items: Sequence[Item | Group],
        config: Sampling,
        process: int = 0,
        processes: int = 1,
        stream: Stream = "order",
    ) -> None:
        self._items, self._config, self._process = items, config, process
        self._whole = config.batch_size * processes
        buckets = [_bucket(item) for item in items]
        weights = [item.weight for item in items if item.weight is not None]
        if weights and len(weights) != len(items):
            raise DataError(
                f"{len(weights)} of {len(items)} pictures have a weight.",
                found=len(weights),
                expected="all of them, or none",
                remedy="Give each one a weight, or none.",
            )
        self._order: Order | Mixture = (
            Mixture(buckets, weights, self._whole, config.seed)
            if weights
            else Order(buckets, [item.repeats for item in items], self._whole, config.seed, stream)
        )

    def batch(self, number: int) -> list[Sample]:
        """This process's part of batch ``number``, counted from 0."""
        indices = self._order.batch(number)
        mine = range(self._process * self._config.batch_size, (self._process + 1) * self._config.batch_size)
        return [sample for i in mine for sample in self._samples(indices[i], number * self._whole + i)]

    def _samples(self, index: int, number: int) -> list[Sample]:
        item = self._items[index]
        if isinstance(item, Item):
            return [Sample(number, self._form(item, number))]
        members = item.members
        if item.cuts > 1:
            cut = torch.randint(item.cuts, (), generator=generator(self._config.seed, "cuts", number))
            members = item.cut_alike(int(cut))
        if item.take:
            drawn = torch.randperm(len(members), generator=generator(self._config.seed, "members", number))[: item.take]
            members = tuple(members[i] for i in drawn.tolist())
        numbers = range(number * item.size, (number + 1) * item.size)
        return [Sample(n, self._form(member, n), number, item.size) for n, member in zip(numbers, members, strict=True)]

    def _form(self, item: Item, number: int) -> Example:
        dropout = self._config.data.caption_dropout if item.uncaptioned else 0.0
        if len(item.forms) == 1 and not dropout:
            return item.forms[0]
        rng = generator(self._config.seed, "forms", number)
        is_dropped = torch.rand((), generator=rng).item() < dropout
        forms = item.uncaptioned if is_dropped else item.forms
        return forms[int(torch.randint(len(forms), (), generator=rng))]


def _bucket(item: Item | Group) -> tuple[int, ...]:
    """What samples of one batch have in common: the latent's shape, and how many a group gives."""
    if isinstance(item, Item):
        return item.forms[0].latent_shape
    shapes = {member.forms[0].latent_shape for member in item.members}
    if len(shapes) > 1:
        raise DataError(
            "The pictures of a group have different sizes.",
            found=sorted(shapes),
            expected="one size",
            remedy="Cut them to one size, or turn buckets off.",
        )
    return (item.size, *shapes.pop())


def taking(items: Sequence[Item | Group], count: int) -> tuple[Item | Group, ...]:
    """The items with so many members drawn from each group every time; 0 leaves them as they are.

    Raises:
        DataError: A group has fewer.
    """
    small = next((each for each in items if isinstance(each, Group) and len(each.members) < count), None)
    if small is not None:
        raise DataError(
            f"A group of {len(small.members)} pictures is too small: {count} are taken from each.",
            found=len(small.members),
            expected=f"at least {count}",
            remedy="Add pictures to the group, leave it out, or take fewer targets.",
        )
    return tuple(replace(each, take=count) if isinstance(each, Group) and count else each for each in items)


def as_items(data: Sequence[Item | Group | Example]) -> tuple[Item | Group, ...]:
    """Examples are items of one form.

    Raises:
        DataError: There are none.
    """
    if not data:
        raise DataError(
            "There is nothing to train on.",
            found=0,
            expected="at least one picture",
            remedy="Add pictures to the data set.",
        )
    return tuple(Item((entry,)) if isinstance(entry, Example) else entry for entry in data)
