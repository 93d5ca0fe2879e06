"""The loss on pictures that are kept out of the training, always at the same noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from krona_ops.errors import DataError

from ..backbone.protocol import Backbone
from ..batches.examples import Group, Item
from ..config import TrainConfig
from ..objectives.denoising import denoising
from ..objectives.needs import members_of
from ..objectives.noise import Draw
from ..randomness import generator


def keep_out(
    items: Sequence[Item | Group], config: TrainConfig
) -> tuple[Sequence[Item | Group], Sequence[Item | Group]]:
    """The items to train on and those to validate on, drawn by the run's seed; a group is kept out as a whole.

    Raises:
        DataError: Nothing would be left to train on.
    """
    if not config.validation.every:
        return items, ()
    if config.validation.pictures >= len(items):
        what = "groups" if any(isinstance(item, Group) for item in items) else "pictures"
        raise DataError(
            f"Keeping {config.validation.pictures} of {len(items)} {what} out for the validation leaves none to "
            "train on.",
            found=len(items),
            expected=f"more than {config.validation.pictures} {what}",
            remedy=f"Add {what}, keep out fewer, or turn the validation off.",
        )
    order = torch.randperm(len(items), generator=generator(config.seed, "validation")).tolist()
    held_out = set(order[: config.validation.pictures])
    return [item for n, item in enumerate(items) if n not in held_out], [items[n] for n in sorted(held_out)]


@torch.no_grad()
def validation_loss(backbone: Backbone, items: Sequence[Item | Group], config: TrainConfig) -> float:
    """Mean plain squared error over all pictures and noise levels; lower is better, and runs can be compared by it.

    Neither the training's weighting nor its noise levels enter: only its seed does.
    """
    losses = []
    pictures = [member.forms[0] for item in items for member in members_of(item)]
    samples = [(n, level) for n in range(len(pictures)) for level in range(config.validation.levels)]
    for n, level in samples:  # one at a time: validating must never need more memory than training
        batch = backbone.collate([pictures[n]])
        rng = generator(config.seed, "validation", n, level)
        noise = torch.randn(batch.x0.shape[1:], generator=rng).to(batch.x0)[None]
        time = torch.tensor([(level + 0.5) / config.validation.levels], device=batch.x0.device)
        losses.append(denoising(backbone, batch, Draw(backbone.noise_levels(time), noise)).item())
    return sum(losses) / len(losses)
