"""An update as an adapter that the host patches weights with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from krona_ops.updates.control import enlarges, padded
from krona_ops.updates.delta import Delta, map_tensors, tensors

if TYPE_CHECKING:
    from ..types import Offset


class KronaWeightAdapter(WeightAdapterBase):
    """One layer's `Delta` behind the host's interface.

    The host rebuilds adapters as ``type(v)(v.loaded_keys, moved_weights)`` and moves only tensors that stand in the
    ``weights`` tuple itself. So that tuple holds everything: first the update with its tensors on the meta device, then
    the tensors.
    """

    name = "krona"

    def __init__(self, loaded_keys: set[str], weights: tuple[Delta | Tensor, ...]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def of(cls, delta: Delta) -> KronaWeightAdapter:
        """The adapter of an update."""
        return cls(set(), (map_tensors(delta, lambda t: t.to("meta")), *tensors(delta)))

    @property
    def delta(self) -> Delta:
        """The update, with its tensors wherever the host has moved them."""
        remaining = iter(self.weights[1:])
        return map_tensors(self._form, lambda _: next(remaining))

    @property
    def _form(self) -> Delta:
        form = self.weights[0]
        assert isinstance(form, Delta), f"the first of the weights is a {type(form).__name__}"
        return form

    def calculate_shape(self, key: str) -> tuple[int, ...] | None:
        """The shape that the weight will have, where the update enlarges it."""
        return self._form.shape if enlarges(self._form) else None

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Offset | None,
        function: Callable[[Tensor], Tensor],
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: object = None,
    ) -> Tensor:
        """Add ``strength · ΔW`` into ``weight (out, in, *kernel)``, in float32 or the weight's own precision.

        Returns:
            The same tensor; another one where the update enlarges the weight.
        """
        delta = map_tensors(self.delta, lambda t: t.to(weight.device))
        weight = padded(weight, delta)
        probe = torch.empty(weight.shape, device="meta")
        if tuple(weight.shape) == delta.shape and function(probe) is probe:
            return delta.add_to(weight, strength)
        if delta.needs_weight:  # in the order of rows that the update is in: its norms are by row
            source = function(torch.arange(weight.shape[0], device=weight.device)[:, None]).flatten()
            theirs = weight[source.argsort()].reshape(delta.shape)
            return weight.copy_(function(delta.add_to(theirs, strength)).reshape(weight.shape))
        weight += function((strength * delta.formed()).reshape(weight.shape)).to(weight.dtype)
        return weight

    def h(self, x: Tensor, base_out: Tensor) -> Tensor:
        """What the layer's output gains: the host's bypass mode sets the attributes that are read here."""
        delta = map_tensors(self.delta, lambda t: t.to(x.device))
        if not getattr(self, "is_conv", False):
            return delta.apply(x) * self.multiplier
        options = {name: self.kw_dict[name] for name in ("stride", "padding", "dilation")}
        return delta.convolve(x, **options) * self.multiplier
