"""Gradient checkpointing of a model's blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.utils.checkpoint import checkpoint

from .config import Checkpointing
from .inject import patched


@contextmanager
def checkpointed(blocks: Sequence[nn.Module], mode: Checkpointing) -> Iterator[None]:
    def forward(original, *args, **kwargs):
        return checkpoint(original, *args, use_reentrant=False, **kwargs)

    with patched({} if mode == "none" else dict.fromkeys(blocks, forward)):
        yield
