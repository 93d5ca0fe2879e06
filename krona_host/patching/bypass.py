"""Adapters beside the weights: the layer's output gains ``ΔW x``, the weight itself stays as it is.

Where the host multiplies with a layer's weight itself instead of calling the layer, that product gets ``W + ΔW``
(`krona_ops.live.attach`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection
from torch import Tensor, nn

from krona_ops.live.attach import ForwardPatch, convolution_options
from krona_ops.live.beside import AddProduct, beside
from krona_ops.live.reach import Reach, some
from krona_ops.updates.delta import Delta, map_tensors

from ..names.resolution import Site
from .norms import NormUpdate, is_vector_of_norm

if TYPE_CHECKING:
    from ..types import Offset, Patcher

log = logging.getLogger(__name__)
KEY = "krona"
"""Our one entry among a patcher's injections."""
Tell = Callable[[str], None]
"""Shows a text where the user looks."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One adapter's update of one layer."""

    site: Site
    delta: Delta
    strength: float
    patches_before: int = 0
    """How many patches the weight had when this was added: what is patched later may scale all that is there."""
    tell: Tell | None = None
    """Where to show that the update is lost."""


class BypassInjection(PatcherInjection):
    """All bypassed updates of one patcher; several of one layer are added up.

    One injection for all, because two on the same module cannot be taken off in the order in which the host does it.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(self._inject, self._eject)
        self.entries = tuple(entries)
        self._attached: dict[int, list[ForwardPatch]] = {}
        self._reach: dict[int, Reach] = {}
        self._reported: set[tuple[str, ...]] = set()

    def _inject(self, patcher: Patcher) -> None:
        """The host calls this whenever the model is about to run, sometimes twice."""
        net = patcher.model
        if id(net) in self._attached:
            return
        updates: dict[str, list[_Update | NormUpdate]] = {}
        for entry in self.entries:
            update = _ready(entry, strength_left(patcher, entry), net, patcher.load_device)
            updates.setdefault(entry.site.module, []).append(update)
        patches = {name: _patch(net.get_submodule(name), parts) for name, parts in updates.items()}
        self._attached[id(net)] = list(patches.values())
        for patch in patches.values():
            patch.attach()
        self._reach_of(net).attach(net.get_submodule, patches)
        if patcher.is_clip:  # an encoder has no beginning and end of sampling
            self.begin_sampling(patcher)

    def _eject(self, patcher: Patcher) -> None:
        if patcher.is_clip:
            self.end_sampling(patcher)
        self._reach_of(patcher.model).detach()
        for patch in reversed(self._attached.pop(id(patcher.model), [])):
            patch.detach()

    def _reach_of(self, net: nn.Module) -> Reach:
        return self._reach.setdefault(id(net), Reach())

    def begin_sampling(self, patcher: Patcher) -> None:
        """From now on it is counted which layers are reached."""
        self._reach_of(patcher.model).begin()

    def end_sampling(self, patcher: Patcher) -> None:
        """Say, once, which layers the model has passed by while it ran."""
        missed = self._reach_of(patcher.model).end()
        if not missed or missed in self._reported:
            return
        self._reported.add(missed)
        text = (
            f"{len(missed)} bypassed {'layer was' if len(missed) == 1 else 'layers were'} never called while the model ran, "
            f"so the adapter does nothing there: {some(missed)}. This model, or another pack, reads their weights in a way of "
            "its own; apply the adapter in 'merge' mode."
        )
        log.warning("KronA: %s", text)
        for tell in {entry.tell for entry in self.entries if entry.tell is not None and entry.site.module in missed}:
            tell(text)


def strength_left(patcher: Patcher, entry: Entry) -> float:
    """An entry's strength after later patches of its weight: the host's merge of two models scales the first one."""
    later = patcher.patches.get(entry.site.key, ())[entry.patches_before :]
    scales = (scale for _, _, scale, offset, _ in later if offset is None or offset == entry.site.offset)
    return entry.strength * math.prod(scales)


def _ready(entry: Entry, strength: float, net: nn.Module, device: torch.device) -> _Update | NormUpdate:
    """An entry's update with its strength, on its device."""
    module, key = net.get_submodule(entry.site.module), entry.site.key
    # Nodes run under inference mode; a training may go through this layer later, and autograd saves its tensors.
    with torch.inference_mode(False):
        delta = map_tensors(entry.delta.scaled(strength), lambda t: _ordinary(t.to(device)))
    if is_vector_of_norm(key, delta, module):
        return NormUpdate(delta, module, key.endswith(".bias"))
    return _Update(delta, entry.site, module)


class _Update:
    """One update of a layer on its device, ready to run."""

    def __init__(self, delta: Delta, site: Site, module: nn.Module) -> None:
        self._delta = delta
        self._convolution = convolution_options(module, site.key)
        self._offset: Offset | None = site.offset
        self._ready: dict[torch.dtype, AddProduct] = {}

    def add(self, y: Tensor, x: Tensor, *, is_ours: bool) -> Tensor:
        """``y + ΔW x``, where ``y (..., out)`` or ``(batch, out, *space)`` is the layer's output.

        Args:
            is_ours: Whether ``y`` may be written into: the layer's own output may be somebody else's too.
        """
        if self._convolution is None and self._offset is None and y.dtype == x.dtype:
            y = y if is_ours else y.clone(memory_format=torch.contiguous_format)
            return self._for(x.dtype)(y, x.contiguous())
        change = self._delta.apply(x) if self._convolution is None else self._delta.convolve(x, **self._convolution)
        if self._offset is None:
            return y + change.to(y.dtype)
        y = y.clone()
        y.narrow(-1 if self._convolution is None else 1, self._offset[1], self._offset[2]).add_(change)
        return y

    def add_to(self, weight: Tensor) -> None:
        """Add ``ΔW`` into the layer's weight ``(out, in, *kernel)``, or into its part of it."""
        part = weight if self._offset is None else weight.narrow(*self._offset)
        map_tensors(self._delta, lambda t: t.to(weight.device)).add_to(part)

    def _for(self, dtype: torch.dtype) -> AddProduct:
        if dtype not in self._ready:
            with torch.inference_mode(False):
                self._ready[dtype] = beside(self._delta, dtype)
        return self._ready[dtype]


def _ordinary(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


def _patch(module: nn.Module, updates: Sequence[_Update | NormUpdate]) -> ForwardPatch:
    products = [update for update in updates if isinstance(update, _Update)]  # nobody multiplies with a norm's weight
    return ForwardPatch(module, _adding(updates), _weighing(products) if products else None)


def _weighing(updates: Sequence[_Update]) -> Callable[[Tensor], Tensor]:
    def weigh(weight: Tensor) -> Tensor:
        total = weight.to(torch.float32, copy=True)
        for update in updates:
            update.add_to(total)
        return total.to(weight.dtype)

    return weigh


def _adding(updates: Sequence[_Update | NormUpdate]) -> Callable[..., Tensor]:
    def forward(original: Callable[..., Tensor], x: Tensor, *args: object, **kwargs: object) -> Tensor:
        y = original(x, *args, **kwargs)
        for number, update in enumerate(updates):
            y = update.add(y, x, is_ours=number > 0)
        return y

    return forward


def can_bypass(site: Site, delta: Delta, module: nn.Module) -> bool:
    """Whether an update can run beside its layer: a linear layer or plain convolution, or some of its outputs; a norm."""
    if is_vector_of_norm(site.key, delta, module):
        return site.function is None and site.offset is None
    kernel = getattr(module, "kernel_size", None)
    dimensions = 2 if kernel is None else 2 + len(kernel)
    is_plain = getattr(module, "groups", 1) == 1 and getattr(module, "padding_mode", "zeros") == "zeros"
    is_whole_in_width = site.function is None and (site.offset is None or site.offset[0] == 0)
    return is_plain and is_whole_in_width and len(delta.shape) == dimensions


def add_entries(patcher: Patcher, entries: Sequence[Entry]) -> None:
    """Add bypassed updates to those that a patcher has already."""
    before = [entry for injection in _ours(patcher) for entry in injection.entries]
    placed = [replace(entry, patches_before=len(patcher.patches.get(entry.site.key, ()))) for entry in entries]
    patcher.set_injections(KEY, [BypassInjection((*before, *placed))])
    for kind, callback in ((CallbacksMP.ON_PRE_RUN, _begin), (CallbacksMP.ON_CLEANUP, _end)):
        patcher.remove_callbacks_with_key(kind, KEY)
        patcher.add_callback_with_key(kind, KEY, callback)


def _ours(patcher: Patcher) -> list[BypassInjection]:
    """Our injection, where the patcher has it already."""
    return [each for each in patcher.injections.get(KEY, ()) if isinstance(each, BypassInjection)]


def _begin(patcher: Patcher) -> None:
    for injection in _ours(patcher):
        injection.begin_sampling(patcher)


def _end(patcher: Patcher) -> None:
    for injection in _ours(patcher):
        injection.end_sampling(patcher)
