"""The layers of one or several adapters on the modules of a model, and which of them count right now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from krona_ops import LayerName
from krona_ops.errors import TrainingError
from krona_ops.live.attach import ForwardPatch, every
from krona_ops.live.reach import Reach
from krona_ops.names.branches import place_of

from ..backbone.protocol import Backbone
from ..settings.groups import MAIN
from .branches import branch_patches
from .gates import Gate, Gates
from .layers.protocol import BIAS, Call, IsPlain, Layer

Layers = Mapping[LayerName, Layer]


def forward_with(
    layer: Layer, module: nn.Module, name: str, is_plain: IsPlain = lambda module: type(module) is nn.Linear
) -> Callable[..., Tensor]:
    """``forward(original, x, ...)`` of ``module`` with the output of ``layer`` added, for `krona_ops.live.attach`.

    Args:
        is_plain: Whether a linear layer is nothing but ``W x + bias``, so that base and update may be computed as one.

    Raises:
        ConfigError: The module is a convolution that the update cannot follow (grouped, or padded by reflection).
    """
    return _forward([(MAIN, layer.call_for(module, name, is_plain))], Gates())


def patch_of(
    held: Mapping[LayerName, tuple[tuple[str, Layer], ...]], module: nn.Module, gates: Gates, is_plain: IsPlain
) -> ForwardPatch:
    """One module with all updates of its weight and its bias, however it is used: called, or by its weight.

    Args:
        held: By the weight's or the bias's name, the layers of it with the names of their adapters.

    Raises:
        ConfigError: See `forward_with`.
    """
    calls = [(a, layer.call_for(module, name, is_plain)) for name, layers in held.items() for a, layer in layers]
    weighing = [(a, layer) for layers in held.values() for a, layer in layers if not layer.changes_bias]

    def weigh(weight: Tensor) -> Tensor:
        for adapter, layer in weighing:
            if adapter in gates.now:
                _require_no_gate(gates.now[adapter], next(iter(held)))
                weight = layer.weigh(weight)
        return weight

    return ForwardPatch(module, _forward(calls, gates), weigh if weighing else None)


def _forward(calls: list[tuple[str, Call]], gates: Gates) -> Callable[..., Tensor]:
    if len(calls) == 1:  # the usual case, on a path that a model takes hundreds of times in a step
        [(adapter, call)] = calls

        def forward(original: Callable[..., Tensor], x: Tensor, *args: object, **kwargs: object) -> Tensor:
            if adapter not in gates.now:
                return original(x, *args, **kwargs)
            return call(original, gates.gate(adapter), x, *args, **kwargs)

        return forward

    def forward_through_all(original: Callable[..., Tensor], x: Tensor, *args: object, **kwargs: object) -> Tensor:
        for adapter, call in calls:
            if adapter in gates.now:
                original = partial(call, original, gates.gate(adapter))
        return original(x, *args, **kwargs)

    return forward_through_all


def _require_no_gate(gate: Gate, name: LayerName) -> None:
    if gate is not None:
        raise TrainingError(
            "This model reads the layer's weight instead of calling the layer, so its samples cannot have gates of "
            "their own.",
            layer=name,
            found="a gate for each sample",
            expected="no gate",
            remedy="Leave the layer out with a target rule.",
        )


@contextmanager
def all_attached(
    backbone: Backbone, adapters: Mapping[str, Layers], gates: Gates, reach: Reach | None = None
) -> Iterator[None]:
    """The backbone computes with the adapters that count inside the block, and without them after it.

    Args:
        reach: Counts which of the patches are used.
    """
    held: dict[str, dict[LayerName, list[tuple[str, Layer]]]] = {}
    for adapter, layers in adapters.items():
        for name, layer in layers.items():
            if place_of(name) is not None:
                continue
            path = name.removesuffix(BIAS) if layer.changes_bias else name
            held.setdefault(path, {}).setdefault(name, []).append((adapter, layer))
    patches: dict[str, ForwardPatch] = {}
    for path, names in held.items():
        of_module = {name: tuple(pairs) for name, pairs in names.items()}
        patches[path] = patch_of(of_module, backbone.module(LayerName(path)), gates, backbone.is_plain)

    patches |= branch_patches(backbone, adapters, gates)

    def again() -> None:
        for patch in patches.values():
            patch.offer_weight()

    if reach is not None:
        reach.attach(lambda path: backbone.module(LayerName(path)), patches)
    with every(patches.values()), backbone.on_load(again):
        yield


@contextmanager
def attached(
    backbone: Backbone, layers: Layers, gates: Gates | None = None, reach: Reach | None = None
) -> Iterator[None]:
    """`all_attached` of one adapter, which always counts where there are no gates."""
    with all_attached(backbone, {MAIN: layers}, gates or Gates(), reach):
        yield
