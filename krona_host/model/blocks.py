"""The parts of a host's model that follow one another."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.ldm.modules.diffusionmodules.openaimodel
from torch import nn

_UNET_STEP = comfy.ldm.modules.diffusionmodules.openaimodel.TimestepEmbedSequential


def blocks_of(net: nn.Module) -> tuple[nn.Module, ...]:
    """The entries of a model's outermost lists: transformer blocks, and a UNet's residual blocks.

    A UNet's steps are containers that the host reads and never calls, so what is inside them counts: the blocks of
    its transformers, and everything else with more than one layer.
    """
    return tuple(dict.fromkeys(_search(net)))


def _search(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList | _UNET_STEP):
            yield from _entries(child)
        else:
            yield from _search(child)


def _entries(container: nn.Module) -> Iterator[nn.Module]:
    for entry in container.children():
        if isinstance(entry, nn.ModuleList | nn.Sequential):
            yield from _entries(entry)
        elif isinstance(container, _UNET_STEP) and (inner := tuple(_search(entry))):
            yield from inner
        elif _layers(entry) > 1:
            yield entry


def _layers(module: nn.Module) -> int:
    """The number of linear layers, convolutions and the like: of modules that have a matrix."""
    return sum(getattr(getattr(m, "weight", None), "ndim", 0) > 1 for m in module.modules())
