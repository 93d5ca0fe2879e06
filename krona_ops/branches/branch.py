"""A whole parallel branch as a value: what it attends to, and its parts at each site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..errors import FormatError
from ..names.branches import GATE, MODES, OUT_BIAS, PROJECTIONS, READINGS, Mode, Reading, place_of
from ..shown import shown
from ..updates.adapter import Adapter
from ..updates.control import Replacement
from ..updates.delta import Delta
from ..updates.reading import reading_of
from .projections import Beside, Own, SiteBranch


@dataclass(frozen=True, eq=False)
class Branch:
    """Parts of a second attention beside the self-attentions of a model. Immutable."""

    mode: Mode
    sites: Mapping[str, SiteBranch]
    """By the name of the attention that each stands beside, in the adapter's own spelling."""
    reading: Reading = READINGS[0]
    """How one of the mode ``first`` reads the first frame; those of other modes do not ask."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", MappingProxyType(dict(self.sites)))

    @property
    def has_own_weights(self) -> bool:
        """Whether it projects with matrices of its own, as MV-Adapter and I2V-Adapter do, instead of the base's."""
        return any(isinstance(part, Own) for site in self.sites.values() for part in (site.q, site.k, site.v, site.out))


def is_branch(adapter: Adapter) -> bool:
    """Whether an adapter holds parts of branches."""
    return any(place_of(name) is not None for name in adapter.layers)


def branches_of(adapter: Adapter) -> tuple[Branch, ...]:
    """The branches that an adapter holds, one for each mode, in the order of `MODES`; its updates of the model's own layers
    are passed over.

    A projection that it lacks is the base's own, and a gate that it lacks is 1. One that is replaced is the branch's own
    matrix.

    Raises:
        FormatError: It holds no branch; a part of one could not be read; a gate is no single number; an update needs the
            weight that it is added to (DoRA); a bias has no matrix to go with; how the first frame is read is not known.
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
        Branch(
            mode,
            {site: _site(site, parts) for site, parts in sites[mode].items()},
            reading_of(adapter.metadata) if mode == "first" else READINGS[0],
        )
        for mode in MODES
        if mode in sites
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
    is_own = isinstance(delta, Replacement)
    wanted = {GATE: "one number", OUT_BIAS: "a vector (out,)"}.get(part, "an update (out, in)")
    fits = {GATE: delta.shape == (1,) and not is_own, OUT_BIAS: len(delta.shape) == 1}.get(part, len(delta.shape) == 2)
    if not fits:
        raise FormatError(
            f"A part of the branch has a shape that it cannot have: {shown(part)}.",
            layer=name,
            found=delta.shape,
            expected=wanted,
            remedy="Get the file again.",
        )
    if delta.needs_weight and not is_own:
        raise FormatError(
            "A parallel branch adds its updates beside the model's projections, which DoRA cannot do.",
            layer=name,
            found="DoRA",
            expected=wanted,
            remedy="Train it without DoRA.",
        )
    return delta


def _site(name: str, parts: Mapping[str, Delta]) -> SiteBranch:
    gate = parts.get(GATE)
    q, k, v, out = (_projection(parts.get(part)) for part in PROJECTIONS)
    return SiteBranch(q, k, v, _with_bias(name, out, parts.get(OUT_BIAS)), 1.0 if gate is None else float(gate.dense()))


def _projection(delta: Delta | None) -> Beside | Own:
    return Own(delta.value) if isinstance(delta, Replacement) else Beside(delta)


def _with_bias(name: str, out: Beside | Own, bias: Delta | None) -> Beside | Own:
    if bias is None:
        return out
    if not isinstance(out, Own) or not isinstance(bias, Replacement) or bias.shape != out.shape[:1]:
        raise FormatError(
            "The branch has a bias without the output projection that it belongs to.",
            layer=name,
            found=f"to_out.bias {bias.shape}, to_out {out.shape}",
            expected="both, or neither",
            remedy="Get the file again.",
        )
    return replace(out, bias=bias.value)
