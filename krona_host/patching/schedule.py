"""A strength that changes while a picture is sampled, as the host's hooks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import comfy.hooks

from krona_ops import Adapter

from ..model.layer_shape import weight_of
from ..names.resolution import Pairs, Resolution, grouped, resolve, summed, with_networks
from .apply import is_quantised
from .weight_adapter import KronaWeightAdapter

if TYPE_CHECKING:
    from ..types import Clip, Hooks, Model, PatchKey

log = logging.getLogger(__name__)

Curve = Literal["linear", "ease", "step"]
CURVES: dict[Curve, Callable[[float], float]] = {
    "linear": lambda t: t,
    "ease": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "step": lambda t: float(t >= 1),
}
"""How far the strength has gone from the first value to the second, for progress from 0 to 1."""


def strengths(
    first: float, last: float, start: float, end: float, curve: Curve, count: int
) -> list[tuple[float, float]]:
    """``(progress, strength)`` pairs: ``first`` until ``start``, ``last`` from ``end`` on, ``count`` values in between.

    Progress is the host's: 0 is pure noise, 1 the finished picture.
    """
    if end <= start:
        return [(0.0, first), (end, last)] if end > 0 else [(0.0, last)]
    points = [start + (end - start) * n / (count + 1) for n in range(count + 2)]
    values = [first + (last - first) * CURVES[curve](n / (count + 1)) for n in range(count + 2)]
    pairs = list(zip(points, values, strict=True))
    return pairs if start == 0 else [(0.0, first), *pairs]


def scheduled_hooks(
    adapter: Adapter,
    keyframes: list[tuple[float, float]],
    model: Model,
    clip: Clip | None = None,
    previous: Hooks | None = None,
) -> tuple[Hooks, str]:
    """Hooks that add the adapter with the strength of the newest keyframe, and the report of the layers that matched.

    Args:
        keyframes: ``(progress, strength)``, the first at progress 0.
        model: The host's ``MODEL`` that will be sampled, to look up which weight each layer is.
        previous: Hooks to add these to, or ``None``.

    Raises:
        ShapeError, CoverageError: The adapter is for another base model.
    """
    resolution = resolve(adapter, model, clip)
    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=1.0)
    hook.weights = _patches(resolution.model)
    hook.weights_clip = _patches(resolution.clip)
    hook.need_weight_init = False
    group = comfy.hooks.HookKeyframeGroup()
    for progress, strength in keyframes:
        # A guarantee of steps would make the strength lag behind when there are more keyframes than steps.
        group.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=progress, guarantee_steps=0))
    hooks: Hooks = comfy.hooks.HookGroup()
    hooks.add(hook)
    hooks.set_keyframes_on_hooks(group)
    if previous is not None:
        hooks = previous.clone_and_combine(hooks)
    log.info("KronA: %s", resolution.report())
    return hooks, f"{resolution.report()}{_rounded(resolution, model, clip)}"


def _rounded(resolution: Resolution, model: Model, clip: Clip | None) -> str:
    """A sentence on what is lost where weights are quantised: the host can only merge hooks into them."""
    parts = with_networks(resolution, model, clip)
    layers = {(id(net), site.module): net.get_submodule(site.module) for pairs, net in parts for site, _ in pairs}
    count = sum(is_quantised(weight_of(layer)) for layer in layers.values())
    if not count:
        return ""
    return (
        f" {count} of their weights are quantised, and a strength that changes is merged into them, "
        "which rounds small updates away."
    )


def _patches(pairs: Pairs) -> dict[PatchKey, KronaWeightAdapter]:
    return {site.patch_key: KronaWeightAdapter.of(summed(deltas)) for site, deltas in grouped(pairs).items()}
