"""Which weight of which model each layer of an adapter belongs to; checked before anything is patched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import comfy.lora
from torch import nn

from krona_ops import Adapter
from krona_ops.delta import Delta
from krona_ops.errors import CoverageError, ShapeError
from krona_train.backbone.comfyui import family_of, layer_shape

Offset = tuple[int, int, int]
"""``(dimension, start, length)``: the part of a fused weight that a layer is."""


@dataclass(frozen=True)
class Site:
    """One weight, or a part of a fused one."""

    key: str
    """As in the model's state dict, ``.weight`` included."""
    offset: Offset | None = None

    @property
    def module(self) -> str:
        """The layer's path."""
        return self.key.removesuffix(".weight")

    @property
    def patch_key(self) -> str | tuple[str, Offset]:
        """As the host's ``add_patches`` wants it."""
        return self.key if self.offset is None else (self.key, self.offset)


@dataclass(frozen=True)
class Resolution:
    """Where the layers of an adapter go."""

    model: tuple[tuple[Site, Delta], ...]
    clip: tuple[tuple[Site, Delta], ...]
    unmatched: tuple[str, ...]
    """Layers that neither the model nor the text encoder has."""
    model_name: str = ""

    def report(self) -> str:
        """One line for the user: how much of the adapter was used."""
        total = len(self.model) + len(self.clip) + len(self.unmatched)
        line = f"{total - len(self.unmatched)} of {total} layers matched"
        if self.clip:
            line += f" ({len(self.clip)} in the text encoder)"
        if self.unmatched:
            line += (
                f"; {len(self.unmatched)} unmatched: {', '.join(self.unmatched[:4])}{', …' if len(self.unmatched) > 4 else ''}"
            )
        return line + "."


def resolve(adapter: Adapter, model: Any = None, clip: Any = None) -> Resolution:
    """Find the weight of every layer by the host's own key map and check that the shapes fit.

    Args:
        model: The host's ``MODEL``, or ``None``.
        clip: The host's ``CLIP``, or ``None``.

    Raises:
        ShapeError: A layer's update does not have the shape of its weight: the adapter is for another base model.
        CoverageError: Not one layer was found.
    """
    in_model, in_clip, unmatched = [], [], []
    model_map = _key_map(comfy.lora.model_lora_keys_unet, model.model) if model is not None else {}
    clip_map = _key_map(comfy.lora.model_lora_keys_clip, clip.cond_stage_model) if clip is not None else {}
    for name, delta in adapter.layers.items():
        if name in model_map:
            in_model.append((_checked(name, delta, model_map[name], model.model), delta))
        elif name in clip_map:
            in_clip.append((_checked(name, delta, clip_map[name], clip.cond_stage_model), delta))
        else:
            unmatched.append(str(name))
    family = family_of(model) if model is not None else "text encoder"
    if not in_model and not in_clip:
        trained_on = adapter.metadata.get("ss_base_model_version")
        raise CoverageError(
            f"None of the adapter's {len(adapter)} layers exists in this {family} model"
            + (f"; the file says it was trained on {trained_on}." if trained_on else "."),
            layer=unmatched[0] if unmatched else None,
            found=trained_on or "other layer names",
            expected=family,
            remedy="Load the checkpoint that the adapter was trained for.",
        )
    return Resolution(tuple(in_model), tuple(in_clip), tuple(unmatched), family)


def _key_map(make: Any, model: nn.Module) -> dict[str, Site]:
    sites = {}
    for name, target in make(model, {}).items():
        key, offset = (target, None) if isinstance(target, str) else (target[0], target[1])
        if key.endswith(".weight"):
            sites[name] = Site(key, offset)
    return sites


def _checked(name: str, delta: Delta, site: Site, model: nn.Module) -> Site:
    shape = _weight_shape(site, model)
    flat = (shape[0], prod(shape[1:]))
    if delta.shape not in (shape, flat):
        raise ShapeError(
            f"The file's update is {_times(delta.shape)}, the model's weight is {_times(shape)}.",
            layer=name,
            found=delta.shape,
            expected=shape,
            remedy="The adapter was trained for another base model; load the checkpoint that it was trained for.",
        )
    return site


def _weight_shape(site: Site, model: nn.Module) -> tuple[int, ...]:
    module = model.get_submodule(site.module)
    shape = list(layer_shape(module) or module.weight.shape)
    if site.offset is not None:
        shape[site.offset[0]] = site.offset[2]
    return tuple(shape)


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def grouped(pairs: tuple[tuple[Site, Delta], ...]) -> Mapping[Site, list[Delta]]:
    """Updates by weight: a file may name one weight twice, in two dialects."""
    groups: dict[Site, list[Delta]] = {}
    for site, delta in pairs:
        groups.setdefault(site, []).append(delta)
    return groups
