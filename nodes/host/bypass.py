"""Adapters beside the weights: the layer's output gains ``ΔW x``, the weight itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from krona_ops.beside import AddProduct, beside
from krona_ops.delta import Delta, map_tensors
from krona_train.inject import ForwardPatch
from krona_train.layers import convolution_options

from .keys import Offset, Site

KEY = "krona"
"""Our one entry among a patcher's injections."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One adapter's update of one layer."""

    site: Site
    delta: Delta
    strength: float


class BypassInjection(PatcherInjection):
    """All bypassed updates of one patcher; several of one layer are added up.

    One injection for all, because two on the same module cannot be taken off in the order in which the host does it.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(self._inject, self._eject)
        self.entries = tuple(entries)
        self._attached: dict[int, list[ForwardPatch]] = {}

    def _inject(self, patcher: Any) -> None:
        """The host calls this whenever the model is about to run, sometimes twice."""
        if id(patcher.model) in self._attached:
            return
        updates: dict[str, list[_Update]] = {}
        for entry in self.entries:
            module = patcher.model.get_submodule(entry.site.module)
            updates.setdefault(entry.site.module, []).append(_Update(entry, module, patcher.load_device))
        patches = [ForwardPatch(patcher.model.get_submodule(name), _adding(parts)) for name, parts in updates.items()]
        self._attached[id(patcher.model)] = patches
        for patch in patches:
            patch.attach()

    def _eject(self, patcher: Any) -> None:
        for patch in reversed(self._attached.pop(id(patcher.model), [])):
            patch.detach()


class _Update:
    """One update on its device, ready to run."""

    def __init__(self, entry: Entry, module: nn.Module, device: Any) -> None:
        # Nodes run under inference mode; a training may go through this layer later, and its tensors are then saved for the backward pass.
        with torch.inference_mode(False):
            self._delta = map_tensors(entry.delta.scaled(entry.strength), lambda t: _ordinary(t.to(device)))
        self._convolution = convolution_options(module, entry.site.key)
        self._offset: Offset | None = entry.site.offset
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

    def _for(self, dtype: torch.dtype) -> AddProduct:
        if dtype not in self._ready:
            with torch.inference_mode(False):
                self._ready[dtype] = beside(self._delta, dtype)
        return self._ready[dtype]


def _ordinary(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


def _adding(updates: Sequence[_Update]) -> Callable[..., Tensor]:
    def forward(original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = original(x, *args, **kwargs)
        for number, update in enumerate(updates):
            y = update.add(y, x, is_ours=number > 0)
        return y

    return forward


def can_bypass(site: Site, delta: Delta, module: nn.Module) -> bool:
    """Whether an update can run beside its layer: a linear layer or a plain convolution, whole or some of its outputs."""
    kernel = getattr(module, "kernel_size", None)
    is_plain = kernel is None or (module.groups == 1 and module.padding_mode == "zeros" and len(delta.shape) == 2 + len(kernel))
    is_plain = is_plain and site.function is None
    return is_plain and (kernel is not None or len(delta.shape) == 2) and (site.offset is None or site.offset[0] == 0)


def add_entries(patcher: Any, entries: Sequence[Entry]) -> None:
    """Add bypassed updates to those that a patcher has already."""
    present = next(iter(patcher.injections.get(KEY, [])), None)
    before = present.entries if isinstance(present, BypassInjection) else ()
    patcher.set_injections(KEY, [BypassInjection((*before, *entries))])
