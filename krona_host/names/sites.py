"""Weights of the host's models, or parts of them, that a layer of an adapter changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import comfy.utils
import torch
from torch import Tensor, nn

from ..model.layer_shape import layer_shape

if TYPE_CHECKING:
    from ..types import Offset, PatchKey


@dataclass(frozen=True)
class Site:
    """One weight, or a part of a fused one."""

    key: str
    """As in the model's state dict, ``.weight`` included."""
    offset: Offset | None = None
    function: Callable[[Tensor], Tensor] | None = None
    """What the host does to an update before it adds it, ``None`` for nothing: diffusers keeps the halves of a
    modulation the other way round."""

    @property
    def module(self) -> str:
        """The path of the layer that the weight is in."""
        return self.key.rpartition(".")[0]

    @property
    def patch_key(self) -> PatchKey:
        """The key of a patch here, for the host's ``add_patches``."""
        if self.function is not None:
            return (self.key, self.offset, self.function)
        return self.key if self.offset is None else (self.key, self.offset)

    def __str__(self) -> str:
        if self.offset is None:
            return self.module
        _, start, length = self.offset
        return f"{self.module}[{start}:{start + length}]"


def key_map(make: Callable[[nn.Module, dict], Mapping[str, str | tuple]], model: nn.Module) -> dict[str, Site]:
    """The host's own names of a model's weights, from one of ``comfy.lora.model_lora_keys_*``.

    Left out are weights that this model does not have (for SD3.5 ComfyUI names a second attention in every block), and
    parts that reach beyond their weight: for Lumina 2, whose q is wider than its k and v, ComfyUI 0.30 counts all as
    wide as q. Put right is the last block of SD3, whose modulation of the text has two halves only, and in diffusers the
    other way round.
    """
    sites, present = {}, model.state_dict().keys()
    for name, target in make(model, {}).items():
        site = Site(target) if isinstance(target, str) else Site(*target)
        if site.key.endswith(".weight") and site.key in present and _is_inside(site, model):
            is_last = "norm1_context" in name and name.endswith(_LAST_CONTEXT) and _is_halved(site, model)
            sites[name] = replace(site, function=reordered((1, 0))) if is_last else site
    return sites


_LAST_CONTEXT = ("norm1_context.linear", "norm1_context_linear")


def _is_halved(site: Site, model: nn.Module) -> bool:
    height, width = weight_shape(site, model)[:2]
    return height == 2 * width


@lru_cache
def reordered(order: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A function that brings blocks of rows in another tool's order into the model's.

    Args:
        order: That tool's block ``i`` is the model's block ``order[i]``.
    """
    places = tuple(order.index(block) for block in range(len(order)))

    def reorder(update: Tensor) -> Tensor:
        blocks = update.chunk(len(order), dim=0)
        return torch.cat([blocks[place] for place in places], dim=0)

    return reorder


def _is_inside(site: Site, model: nn.Module) -> bool:
    """Whether a part does not reach beyond its weight."""
    if site.offset is None:
        return True
    dimension, start, length = site.offset
    return start + length <= weight_shape(Site(site.key), model)[dimension]


def weight_shape(site: Site, model: nn.Module) -> tuple[int, ...]:
    """The shape of a weight or of the part of it, ``(out, in, *kernel)``; ``(out,)`` for biases and norms."""
    shape = layer_shape(model.get_submodule(site.module)) if site.key.endswith(".weight") else None
    sizes = list(shape or comfy.utils.get_attr(model, site.key).shape)
    if site.offset is not None:
        sizes[site.offset[0]] = site.offset[2]
    return tuple(sizes)
