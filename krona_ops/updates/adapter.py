"""A whole adapter: the updates of many layers, and what is known about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor

from ..left_out import LeftOut
from ..names.spellings import LayerName
from ..shown import printable
from .delta import Delta, map_tensors, tensors
from .gates import acting, gates_unsaid


@dataclass(frozen=True, eq=False)
class Adapter:
    """``{layer: ΔW}`` plus metadata. Immutable; every operation returns a new one
    that shares what it did not change."""

    layers: Mapping[LayerName, Delta]
    """Updates by layer name, as the file spells it; a file of another dialect keeps
    its names until it meets a model."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What a safetensors header holds under ``__metadata__``."""
    notes: tuple[str, ...] = ()
    """What the reader decided, for the user: how the scale was found, what it left out.
    No part of the value: not compared."""
    left_out: tuple[LeftOut, ...] = ()
    """What the file held besides, by method; `notes` says it in words. No part of the value either."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        object.__setattr__(self, "notes", tuple(printable(note, "\n") for note in self.notes))

    def scaled(self, scale: float) -> Adapter:
        """Every update times ``scale``, exactly; a parallel branch by its gates."""
        return self.weighted(lambda name: scale)

    def weighted(self, strength: Callable[[LayerName], float]) -> Adapter:
        """Every update times its own strength, exactly: the tensors are shared.

        Of a parallel branch each site has one, that of its gate (see `krona_ops.updates.gates`).
        """
        unsaid = {name: gate for name, gate in gates_unsaid(self.layers).items() if strength(name) != 1}
        layers = {
            name: delta.scaled(strength(name)) if acting(name) == name and strength(name) != 1 else delta
            for name, delta in (*self.layers.items(), *unsaid.items())
        }
        return replace(self, layers=layers)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Adapter:
        """Every stored tensor in another dtype or on another device."""
        return self.mapped(lambda tensor: tensor.to(device=device, dtype=dtype))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Adapter:
        """Every stored tensor replaced by ``change(tensor)``."""
        return replace(self, layers={name: map_tensors(delta, change) for name, delta in self.layers.items()})

    def with_metadata(self, **entries: str) -> Adapter:
        """The same updates with entries added to, or replaced in, the metadata."""
        return replace(self, metadata={**self.metadata, **entries})

    @property
    def parameters(self) -> int:
        """Stored numbers of all updates."""
        return sum(delta.parameters for delta in self.layers.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of the stored tensors."""
        return sum(t.numel() * t.element_size() for delta in self.layers.values() for t in tensors(delta))

    def __len__(self) -> int:
        return len(self.layers)

    def __eq__(self, other: object) -> bool:
        """Bitwise the same updates for the same layers, and the same metadata."""
        if not isinstance(other, Adapter):
            return NotImplemented
        return self.metadata == other.metadata and dict(self.layers) == dict(other.layers)

    __hash__ = None  # type: ignore[assignment]  # tensors have no cheap hash

    def __repr__(self) -> str:
        return f"Adapter({len(self)} layers, {self.parameters:,} parameters)"
