"""What to do when a step does not fit: the same step in less memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..settings.groups import Checkpointing

_TEXTS = ("out of memory", "can't allocate memory", "not enough memory")
"""How PyTorch's allocators say it where they have no class of their own for it."""


@dataclass(frozen=True)
class Plan:
    """How a step is computed; its result is the same up to rounding."""

    checkpointing: Checkpointing
    pieces: int = 1
    """Each batch is computed in this many parts, one after the other."""

    def smaller(self, batch_size: int) -> Plan | None:
        """The next plan that needs less memory; ``None`` when there is none."""
        if self.checkpointing == "none":
            return replace(self, checkpointing="blocks")
        if self.pieces < batch_size:
            return replace(self, pieces=min(2 * self.pieces, batch_size))
        if self.checkpointing == "blocks":
            return replace(self, checkpointing="offloaded")
        return None

    def describe(self, batch_size: int) -> str:
        """The plan in words, such as ``checkpointing, 2 pictures at a time``."""
        how = {"none": "without checkpointing", "blocks": "checkpointing", "offloaded": "checkpointing, offloaded"}
        size = -(-batch_size // self.pieces)
        return f"{how[self.checkpointing]}, {size} picture{'s' if size > 1 else ''} at a time"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation has failed, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _TEXTS)
