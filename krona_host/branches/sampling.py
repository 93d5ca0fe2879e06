"""What a branch knows while one picture, or one batch, is sampled; forgotten with the sampling."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..types import DiffusionNet
from .places import Spot
from .weights import Parts

Rows = Literal["positive", "both"]
"""Which conditions a branch counts for: the prompts alone, or what is unwanted too."""
NEGATIVE = frozenset({"negative", "empty_negative_prompt"})
"""What the host's guiders call conditions that guidance leads away from."""
Tokens = Mapping[Spot, Tensor]
"""What each self-attention read of the references, ``(R, M, d)``."""


class Read(NamedTuple):
    """What was read of the references, or of a group's first frame, under one prompt."""

    samples: tuple[int, ...]
    """Those of a batch that look at it under this prompt, in their order."""
    tokens: Tokens


class Guider(Protocol):
    """What is used of the host's ``CFGGuider`` while it samples."""

    inner_model: DiffusionNet
    conds: Mapping[str, Sequence[dict[str, object]]]
    """By what the guider calls them; each has an id of its own under ``uuid``."""


@dataclass(eq=False)
class Sampling:
    """One sampling with one branch."""

    wanted: frozenset[object]
    """Ids of the conditions that guidance leads to."""
    size: torch.Size
    """Of the latents that are sampled, ``(B, C, *space)``."""
    reference: Tensor | None
    """``(R, C, *space)`` clean latents in the model's own scale, on its device."""
    reads: dict[tuple[object, str], tuple[Read, ...]] = field(default_factory=dict)
    """By the condition's id and the device; several where the samples of a batch have prompts or first frames of their
    own."""


def wanted_ids(guider: Guider) -> frozenset[object]:
    """Ids of the conditions that guidance leads to.

    Those that something makes up on the way, as the older PerpNeg does its empty prompt, are none of them.
    Where a condition has an area, the host gives the other side a copy of it with the same id; each gets its own here.
    """
    seen: set[object] = set()
    for conditions in guider.conds.values():
        for condition in conditions:
            if condition["uuid"] in seen:
                condition["uuid"] = uuid.uuid4()
            seen.add(condition["uuid"])
    return frozenset(c["uuid"] for name, conditions in guider.conds.items() if name not in NEGATIVE for c in conditions)


@dataclass(frozen=True, eq=False)
class Recording:
    """A pass in which the tokens of the references are taken."""

    tokens: dict[Spot, Tensor]


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass with a branch."""

    sampling: Sampling
    net: DiffusionNet
    parts: Parts
    """The branch, with its tensors where the host has them for this network."""
    chunks: tuple[object, ...]
    """Ids of the conditions in the batch, each with as many rows as there are samples."""
    counted: tuple[int, ...]
    """Which of them the branch counts for."""
    rows: int
    """Of the whole batch."""
    space: tuple[int, int]
    """Height and width of the latents."""
