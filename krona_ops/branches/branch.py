"""A whole parallel branch as a value: what it attends to, and its parts at each site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import FormatError
from ..names.branches import GATE, PROJECTIONS, Mode, place_of
from ..shown import shown
from ..updates.adapter import Adapter
from ..updates.delta import Delta
from .projections import Beside, SiteBranch


@dataclass(frozen=True, eq=False)
class Branch:
    """Parts of a second attention beside the self-attentions of a model. Immutable."""

    mode: Mode
    sites: Mapping[str, SiteBranch]
    """By the name of the attention that each stands beside, in the adapter's own spelling."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", MappingProxyType(dict(self.sites)))


def is_branch(adapter: Adapter) -> bool:
    """Whether an adapter holds parts of branches."""
    return any(place_of(name) is not None for name in adapter.layers)


def branches_of(adapter: Adapter) -> tuple[Branch, ...]:
    """The branches that an adapter holds, one for each mode; its updates of the model's own layers are passed over.

    A projection that it lacks is the base's own, and a gate that it lacks is 1.

    Raises:
        FormatError: It holds no branch; a part of one could not be read; a gate is no single number; an update needs the
            weight that it is added to (DoRA).
    """
    _require_whole(adapter)
    sites: dict[Mode, dict[str, dict[str, Delta]]] = {}
    for name, delta in adapter.layers.items():
        if place := place_of(name):
            sites.setdefault(place.mode, {}).setdefault(place.site, {})[place.part] = _usable(name, delta, place.part)
    if not sites:
        layer = next(iter(adapter.layers), None)
        raise FormatError(
            "The adapter is no parallel branch." if layer else "The adapter holds nothing.",
            layer=layer,
            found="updates of the model's own layers" if layer else 0,
            expected="layers such as …attn1.krona_reference.to_q",
            remedy="Apply it with Apply KronA." if layer else "Choose another file.",
        )
    return tuple(
        Branch(mode, {site: _site(parts) for site, parts in of_mode.items()}) for mode, of_mode in sites.items()
    )


def _require_whole(adapter: Adapter) -> None:
    """Refuse a branch of which the reader had to leave something out: what is missing would count as the base's own."""
    for entry in adapter.left_out:
        layer = next((name for name in entry.names if place_of(name) or place_of(name.rpartition(".")[0])), None)
        if layer is not None:
            raise FormatError(
                f"A part of the branch cannot be read. {entry.reason}",
                layer=layer,
                found=entry.method,
                expected="all of its parts",
                remedy="Get the file again.",
            )


def _usable(name: str, delta: Delta, part: str) -> Delta:
    wanted = "one number" if part == GATE else "an update (out, in)"
    if (delta.shape != (1,)) if part == GATE else (len(delta.shape) != 2):
        raise FormatError(
            f"A part of the branch has a shape that it cannot have: {shown(part)}.",
            layer=name,
            found=delta.shape,
            expected=wanted,
            remedy="Get the file again.",
        )
    if delta.needs_weight:
        raise FormatError(
            "A parallel branch adds its updates beside the model's projections, which DoRA cannot do.",
            layer=name,
            found="DoRA",
            expected=wanted,
            remedy="Train it without DoRA.",
        )
    return delta


def _site(parts: Mapping[str, Delta]) -> SiteBranch:
    gate = parts.get(GATE)
    q, k, v, out = (Beside(parts.get(part)) for part in PROJECTIONS)
    return SiteBranch(q, k, v, out, 1.0 if gate is None else float(gate.dense()))
