"""The loss on pictures that are kept out of the training, always at the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from krona_ops.errors import DataError

from ..batches.examples import Group, Item
from ..config import TrainConfig
from ..objectives.needs import members_of
from ..objectives.noise import Draw
from ..randomness import generator
from ..step.scene import Scene


def keep_out(
    items: Sequence[Item | Group], config: TrainConfig
) -> tuple[Sequence[Item | Group], Sequence[Item | Group]]:
    """The items to train on and those to validate on, drawn by the run's seed; a group is kept out as a whole, and what
    is trained at several sizes at all of them.

    Raises:
        DataError: Nothing would be left to train on.
    """
    if not config.validation.every:
        return items, ()
    starts = [n for n, item in enumerate(items) if n == 0 or not item.is_again]
    pictures = [range(start, end) for start, end in pairwise([*starts, len(items)])]
    if config.validation.pictures >= len(pictures):
        what = "groups" if any(isinstance(item, Group) for item in items) else "pictures"
        raise DataError(
            f"Keeping {config.validation.pictures} of {len(pictures)} {what} out for the validation leaves none to "
            "train on.",
            found=len(pictures),
            expected=f"more than {config.validation.pictures} {what}",
            remedy=f"Add {what}, keep out fewer, or turn the validation off.",
        )
    order = torch.randperm(len(pictures), generator=generator(config.seed, "validation")).tolist()
    held_out = {n for picture in order[: config.validation.pictures] for n in pictures[picture]}
    return [item for n, item in enumerate(items) if n not in held_out], [items[n] for n in sorted(held_out)]


@torch.no_grad()
def validation_loss(scene: Scene, items: Sequence[Item | Group]) -> float:
    """Mean plain squared error over all pictures, or groups where the objective learns from groups, and noise levels;
    lower is better, and runs can be compared by it.

    Neither the training's weighting nor its noise levels enter: only its seed does.
    """
    losses = []
    config, backbone, objective = scene.config, scene.backbone, scene.objective
    if objective.rollouts is not None:
        units = [[form] for item in items for member in members_of(item) for form in member.forms]
    elif objective.beside is None:
        units = [[member.forms[0]] for item in items for member in members_of(item)]
    else:
        units = [[member.forms[0] for member in members_of(item)[: objective.take or None]] for item in items]
    levels = 1 if objective.rollouts is not None else config.validation.levels  # what was seen has its own
    samples = [(n, level) for n in range(len(units)) for level in range(levels)]
    for n, level in samples:  # one at a time: validating must never need more memory than training
        batch = backbone.collate(units[n])
        rng = generator(config.seed, "validation", n, level)
        noise = torch.randn(batch.x0.shape, generator=rng).to(batch.x0)
        time = torch.full((len(batch.x0),), (level + 0.5) / levels, device=batch.x0.device)
        drawn = Draw(backbone.noise_levels(time), noise)
        losses.append(objective.held_out(backbone, scene.bank, batch, drawn).item())
    return sum(losses) / len(losses)
