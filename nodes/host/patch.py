"""Apply an adapter to the host's models."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from comfy.quant_ops import QuantizedTensor

from krona_ops import Adapter
from krona_ops.delta import Delta
from krona_ops.errors import KronaError

from .bypass import Entry, add_entries, can_bypass
from .keys import Site, grouped, resolve
from .weight_adapter import KronaWeightAdapter

log = logging.getLogger(__name__)

Mode = Literal["auto", "merge", "bypass"]
MODES: tuple[Mode, ...] = ("auto", "merge", "bypass")


@dataclass(frozen=True)
class Applied:
    """The host's models with an adapter on them."""

    model: Any
    clip: Any
    report: str
    matched: int
    """Layers of the adapter that the models have."""
    layers: int
    """All layers of the adapter."""


def apply_adapter(
    adapter: Adapter,
    model: Any = None,
    clip: Any = None,
    strength_model: float = 1.0,
    strength_clip: float = 1.0,
    mode: Mode = "auto",
) -> Applied:
    """Add ``strength · ΔW`` to every layer that the adapter has; the models given are not changed, clones are.

    Args:
        model: The host's ``MODEL``, or ``None``.
        clip: The host's ``CLIP``, or ``None``.
        mode: ``merge`` adds into the weights once; ``bypass`` computes the update beside each layer, which keeps it
            exact on quantised weights; ``auto`` bypasses quantised layers and merges the rest.

    Raises:
        ShapeError, CoverageError: The adapter is for another base model (see `krona_ops.errors`).
    """
    resolution = resolve(adapter, model, clip)
    if model is not None:
        model = model.clone()
        if strength_model != 0:
            _apply(model, grouped(resolution.model), strength_model, mode)
    if clip is not None:
        clip = clip.clone()
        if strength_clip != 0:
            _apply(clip.patcher, grouped(resolution.clip), strength_clip, mode)
    log.info("KronA: %s", resolution.report())
    matched = resolution.layers - len(resolution.unmatched)
    return Applied(model, clip, resolution.report(), matched, resolution.layers)


def _apply(patcher: Any, updates: dict[Site, list[Delta]], strength: float, mode: Mode) -> None:
    merged: list[dict[Any, KronaWeightAdapter]] = []
    """First, second, ... updates of each weight: the host takes one for each in a call, and looks through the whole model in each call."""
    bypassed: list[Entry] = []
    for site, deltas in updates.items():
        module = patcher.model.get_submodule(site.module)
        wants_bypass = mode == "bypass" or (mode == "auto" and is_quantised(module.weight))
        found = 0
        for delta in deltas:
            if wants_bypass and not delta.needs_weight and can_bypass(site, delta, module):
                bypassed.append(Entry(site, delta, strength))
                continue
            if found == len(merged):
                merged.append({})
            merged[found][site.patch_key] = KronaWeightAdapter.of(delta)
            found += 1
    for patches in merged:
        refused = patches.keys() - set(patcher.add_patches(patches, strength))
        if refused:  # the host drops what it does not know without a word
            raise KronaError(
                "ComfyUI did not take the update.",
                layer=min(map(str, refused)),
                found="a refused patch",
                expected="a weight of the loaded model",
                remedy="Please report this with the names of the checkpoint and of the adapter.",
            )
    if bypassed:
        add_entries(patcher, bypassed)


def is_quantised(weight: torch.Tensor) -> bool:
    """Whether adding a small update to this weight would round most of it away: a 1 % update into fp8 keeps half of it."""
    return isinstance(weight, QuantizedTensor) or isinstance(weight.data, QuantizedTensor) or weight.dtype.itemsize == 1
