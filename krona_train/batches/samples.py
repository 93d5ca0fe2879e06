"""From items to the batches of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from krona_ops.errors import DataError

from ..config import TrainConfig
from ..randomness import Stream, generator
from .examples import Example, Item
from .order import Order


@dataclass(frozen=True)
class Sample:
    """One picture of a batch, in the form in which it is trained on this time."""

    number: int
    """Counted from the start of the training over all processes; everything random about the sample comes from it."""
    example: Example


class Samples:
    """The batches of one process.

    Args:
        items: All pictures, the same in every process.
        process, processes: This process's number and how many there are; each batch is shared out among them.
    """

    def __init__(
        self, items: Sequence[Item], config: TrainConfig, process: int = 0, processes: int = 1, stream: Stream = "order"
    ) -> None:
        self._items, self._config, self._process = items, config, process
        self._whole = config.batch_size * processes
        buckets = [tuple(item.forms[0].latent.shape) for item in items]
        self._order = Order(buckets, [item.repeats for item in items], self._whole, config.seed, stream)

    def batch(self, number: int) -> list[Sample]:
        """This process's part of batch ``number``, counted from 0."""
        indices = self._order.batch(number)
        mine = range(self._process * self._config.batch_size, (self._process + 1) * self._config.batch_size)
        return [Sample(number * self._whole + i, self._form(indices[i], number * self._whole + i)) for i in mine]

    def _form(self, index: int, number: int) -> Example:
        item = self._items[index]
        dropout = self._config.data.caption_dropout if item.uncaptioned else 0.0
        if len(item.forms) == 1 and not dropout:
            return item.forms[0]
        rng = generator(self._config.seed, "forms", number)
        is_dropped = torch.rand((), generator=rng).item() < dropout
        forms = item.uncaptioned if is_dropped else item.forms
        return forms[int(torch.randint(len(forms), (), generator=rng))]


def as_items(data: Sequence[Item | Example]) -> tuple[Item, ...]:
    """Examples are items of one form.

    Raises:
        DataError: There are none.
    """
    if not data:
        raise DataError(
            "There is nothing to train on.", found=0, expected="at least one picture", remedy="Add pictures to the data set."
        )
    return tuple(entry if isinstance(entry, Item) else Item((entry,)) for entry in data)


def prior_items(config: TrainConfig, items: Sequence[Item], class_data: Sequence[Item | Example]) -> tuple[Item, ...]:
    """The class pictures that the settings want; none where the model itself is the prior, or where there is no prior.

    Raises:
        DataError: What the prior needs is missing: class pictures, or what a picture's caption says of its class.
    """
    if not config.prior.weight:
        return ()
    if config.prior.source == "pictures":
        if not class_data:
            raise DataError(
                "Prior preservation with pictures has no class pictures.",
                found=0,
                expected="at least one picture of the subject's class",
                remedy="Name a folder or a number of class pictures, or take the model itself as the prior.",
            )
        return as_items(class_data)
    for item in items:
        for example in (*item.forms, *item.uncaptioned):
            if example.class_condition is None:
                raise DataError(
                    f'Prior preservation does not know what "{example.caption}" is a kind of.',
                    found="no class caption",
                    expected="an encoded class caption for every picture",
                    remedy="Give a class prompt, or the trigger word that the captions hold.",
                )
    return ()
