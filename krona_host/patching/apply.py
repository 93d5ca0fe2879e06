"""Apply an adapter to the host's models."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from comfy.quant_ops import QuantizedTensor

from krona_ops import Adapter
from krona_ops.errors import KronaError
from krona_ops.formats import one_step
from krona_ops.updates.delta import Delta

from ..model.layer_shape import weight_of
from ..names.resolution import Site, grouped, resolve
from .bypass import Entry, Tell, add_entries, can_bypass
from .weight_adapter import KronaWeightAdapter

if TYPE_CHECKING:
    from ..types import Clip, Model, Patcher, PatchKey

log = logging.getLogger(__name__)

Mode = Literal["auto", "merge", "bypass"]
MODES: tuple[Mode, ...] = ("auto", "merge", "bypass")


@dataclass(frozen=True)
class Applied:
    """The host's models with an adapter on them."""

    model: Model | None
    clip: Clip | None
    report: str
    matched: int
    """Layers of the adapter that the models have."""
    layers: int
    """All layers of the adapter."""
    notes: tuple[str, ...] = ()
    """What was decided about how the updates are computed, where it was not simply as asked; and where the adapter wants
    to be drawn with otherwise than a sampler does by itself."""


def apply_adapter(
    adapter: Adapter,
    model: Model | None = None,
    clip: Clip | None = None,
    strength_model: float = 1.0,
    strength_clip: float = 1.0,
    mode: Mode = "auto",
    tell: Tell | None = None,
) -> Applied:
    """Add ``strength · ΔW`` to every layer that the adapter has; the models given are not changed, clones are.

    Args:
        model: The host's ``MODEL``, or ``None``.
        clip: The host's ``CLIP``, or ``None``.
        mode: ``merge`` adds into the weights once; ``bypass`` computes the update beside each layer, which keeps it
            exact on quantised weights; ``auto`` bypasses quantised layers and merges the rest.
        tell: Shows a text where the user looks, later too: while the model runs it may turn out that bypassed layers
            are never called.

    Raises:
        ShapeError, CoverageError: The adapter is for another base model (see `krona_ops.errors`).
    """
    resolution = resolve(adapter, model, clip)
    ways = _Ways()
    if model is not None:
        model = model.clone()
        if strength_model != 0:
            ways += _apply(model, grouped(resolution.model), strength_model, mode, tell)
    if clip is not None:
        clip = clip.clone()
        if strength_clip != 0:
            ways += _apply(clip.patcher, grouped(resolution.clip), strength_clip, mode, tell)
    notes = (*ways.notes(mode), *_on_one_step(adapter))
    log.info("KronA: %s", " ".join((resolution.report(), *notes)))
    matched = resolution.layers - len(resolution.unmatched)
    return Applied(model, clip, resolution.report(), matched, resolution.layers, notes)


def _on_one_step(adapter: Adapter) -> tuple[str, ...]:
    """At which noise level the adapter draws in one step, where that is not the one at which samplers begin."""
    if one_step.KEY not in adapter.metadata:
        return ()
    try:
        level = one_step.one_step_of(adapter.metadata).sigma
    except KronaError as error:  # what a stranger has written there keeps nobody from using the rest
        return (str(error),)
    if not level:
        return ()
    return (
        f"It was trained to draw in one step from noise level {level:g}, and KSampler begins higher: connect it to KronA One "
        "Step, and draw with SamplerCustom.",
    )


@dataclass(frozen=True)
class _Ways:
    """How many updates are computed beside their layer, and how many are merged although they were to be."""

    beside: int = 0
    merged_all_the_same: int = 0

    def __add__(self, other: _Ways) -> _Ways:
        return _Ways(self.beside + other.beside, self.merged_all_the_same + other.merged_all_the_same)

    def notes(self, mode: Mode) -> tuple[str, ...]:
        notes = []
        if self.merged_all_the_same:
            where = "" if mode == "bypass" else " into quantised weights, which rounds them"
            notes.append(
                f"{self.merged_all_the_same} updates are merged all the same{where}: DoRA, biases of layers and "
                "grouped convolutions cannot run beside their layer."
            )
        if self.beside:
            notes.append(
                f"{self.beside} updates run beside their layers. Saving this model, or giving it to a ModelMerge node as the "
                "second model, leaves them out; apply in 'merge' mode for that."
            )
        return tuple(notes)


def _apply(
    patcher: Patcher, updates: Mapping[Site, list[Delta]], strength: float, mode: Mode, tell: Tell | None
) -> _Ways:
    # First, second, ... updates of each weight: a call of the host takes one for each, and goes through the model.
    merged: list[dict[PatchKey, KronaWeightAdapter]] = []
    bypassed: list[Entry] = []
    kept_from = 0
    for site, deltas in updates.items():
        module = patcher.model.get_submodule(site.module)
        wants_bypass = mode == "bypass" or (mode == "auto" and is_quantised(weight_of(module)))
        number = 0
        for delta in deltas:
            if wants_bypass and not delta.needs_weight and can_bypass(site, delta, module):
                bypassed.append(Entry(site, delta, strength, tell=tell))
                continue
            kept_from += wants_bypass
            if number == len(merged):
                merged.append({})
            merged[number][site.patch_key] = KronaWeightAdapter.of(delta)
            number += 1
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
    return _Ways(len(bypassed), kept_from)


def is_quantised(weight: torch.Tensor) -> bool:
    """Whether adding a small update to this weight would round most of it away: fp8 keeps half of an update of 1 %."""
    return isinstance(weight, QuantizedTensor) or isinstance(weight.data, QuantizedTensor) or weight.dtype.itemsize == 1
