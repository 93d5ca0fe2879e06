"""Encoded pictures: one, all forms of one, and some of them on the model's device; and what a model saw when it drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, device

from krona_ops.errors import DataError

from .camera import Camera
from .transfer import send


@dataclass(frozen=True)
class Seen:
    """What a model saw at one moment of drawing a picture, and what it made of it; in its own latent scale."""

    x_t: Tensor
    """``(C, *space)``, noisy."""
    sigma: float
    """The noise level in the model's own parameter."""
    guidance: float
    """With what guidance it drew; 1 is none."""
    x0: Tensor
    """``(C, *space)``: the picture without noise that it saw in ``x_t`` with this guidance, or the one that it had drawn
    at the end."""


@dataclass(frozen=True)
class Example:
    """One picture with its caption, encoded; or a caption alone, for what is learnt from prompts."""

    latent: Tensor | None
    """``(C, *space)`` as the autoencoder gives it; may be mapped from a file. ``None`` where there is no picture."""
    condition: object
    """The encoded caption and what else the model is told about this picture; only the backbone looks inside."""
    caption: str = ""
    mask: Tensor | None = None
    """``(*space)``, how much each place counts, from 0 to 1; ``None`` counts all alike."""
    class_condition: object = None
    """As ``condition``, for the caption that names the subject's class alone: prior preservation without pictures."""
    shape: tuple[int, ...] = ()
    """``(C, *space)`` of the latent that is to be drawn, where there is no picture."""
    camera: Camera | None = None
    """Where the picture was taken from; ``None`` where that is not known."""
    seen: Seen | None = None
    """A moment of drawing under this caption; ``None`` where nothing was drawn."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """``(C, *space)``, with a picture or without."""
        return self.shape if self.latent is None else tuple(self.latent.shape)

    def latent_or_zeros(self) -> Tensor:
        """The latent; zeros in its place where there is no picture."""
        return torch.zeros(self.shape) if self.latent is None else self.latent


@dataclass(frozen=True)
class Item:
    """One picture of the data set, in all the forms in which it may be trained on."""

    forms: tuple[Example, ...]
    """Cuts, mirror images and orders of the caption, all of one size; each time one is drawn, all equally likely."""
    uncaptioned: tuple[Example, ...] = ()
    """The same with an empty caption, drawn instead as often as captions are dropped."""
    repeats: int = 1
    """How often per epoch."""
    weight: float | None = None
    """How likely it is against the others, instead of counting epochs; all have one, or none has."""
    is_again: bool = False
    """Whether it is the picture of the item before at another size; what is kept out of a training is kept out at all
    sizes."""


@dataclass(frozen=True)
class Group:
    """Items that stay together in a batch, such as views of one thing or frames of a clip; all of one size."""

    members: tuple[Item, ...]
    take: int = 0
    """So many of them each time, drawn anew; 0 takes all, in their order."""
    repeats: int = 1
    """How often per epoch."""
    weight: float | None = None
    """As that of an `Item`."""
    is_again: bool = False
    """As that of an `Item`."""
    cuts: int = 1
    """In so many ways all members are cut alike, such as straight and mirrored; one is drawn for the whole group. The
    forms of each member are so many parts of one length, in this order."""

    def __post_init__(self) -> None:
        if not self.members or not 0 <= self.take <= len(self.members):
            raise DataError(
                f"{self.take} pictures cannot be taken from a group of {len(self.members)}.",
                found=self.take,
                expected=f"at most {len(self.members)}, and a group that is not empty",
                remedy="Add pictures to the group, or take fewer.",
            )
        odd = next((n for n in map(_forms_of, self.members) if any(count % self.cuts for count in n)), None)
        if odd is not None:
            raise DataError(
                f"The forms of a group's picture cannot be shared out among {self.cuts} cuts.",
                found=odd,
                expected=f"multiples of {self.cuts}",
                remedy="Make the same cuts of each picture of the group.",
            )

    @property
    def size(self) -> int:
        """Samples that it gives each time."""
        return self.take or len(self.members)

    def cut_alike(self, number: int) -> tuple[Item, ...]:
        """The members in the forms of one cut, counted from 0."""

        def part(forms: tuple[Example, ...]) -> tuple[Example, ...]:
            length = len(forms) // self.cuts
            return forms[number * length : (number + 1) * length]

        return tuple(replace(m, forms=part(m.forms), uncaptioned=part(m.uncaptioned)) for m in self.members)


def _forms_of(item: Item) -> tuple[int, int]:
    """How many forms an item has, with its caption and without."""
    return len(item.forms), len(item.uncaptioned)


@dataclass(frozen=True)
class SeenBatch:
    """Some moments of drawing on the model's device, see `Seen`."""

    x_t: Tensor
    """``(B, C, *space)``."""
    sigma: Tensor
    """``(B,)``."""
    guidance: Tensor
    """``(B,)``."""
    x0: Tensor
    """``(B, C, *space)``."""


@dataclass(frozen=True)
class Batch:
    """Some examples on the model's device, in the model's own latent scale."""

    x0: Tensor
    """``(B, C, *space)``, clean."""
    conditions: tuple[object, ...]
    """One for each of the ``B`` samples, in the backbone's own form."""
    mask: Tensor | None = None
    """``(B, 1, *space)``, how much each place counts; ``None`` where no sample has a mask."""
    class_conditions: tuple[object, ...] = ()
    """One for each of the ``B`` samples, or none."""
    unconditional: tuple[object, ...] = ()
    """For each sample its condition without a prompt, all else as in its own; none where the model was given none."""
    has_pictures: bool = True
    """Whether ``x0`` are pictures; zeros otherwise."""
    seen: SeenBatch | None = None
    """What the model saw when it drew, of each of the ``B`` samples; ``None`` where nothing was drawn."""


def stack_masks(examples: Sequence[Example], device: device) -> Tensor | None:
    """The masks of a batch as ``(B, 1, *space)``, ones where a sample has none; ``None`` where none has."""
    if all(example.mask is None for example in examples):
        return None
    space = examples[0].latent_shape[1:]
    masks = [torch.ones(space) if e.mask is None else e.mask.float() for e in examples]
    return send(torch.stack(masks).unsqueeze(1), device)


def stack_seen(examples: Sequence[Example], device: device) -> SeenBatch | None:
    """The moments of a batch; ``None`` where not every sample has one."""
    moments = [example.seen for example in examples if example.seen is not None]
    if not moments or len(moments) < len(examples):
        return None
    x_t, x0 = (torch.stack([each.float() for each in of]) for of in zip(*((m.x_t, m.x0) for m in moments), strict=True))
    sigma, guidance = (torch.tensor(of) for of in zip(*((m.sigma, m.guidance) for m in moments), strict=True))
    return SeenBatch(send(x_t, device), send(sigma, device), send(guidance, device), send(x0, device))
