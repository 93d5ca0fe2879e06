"""What is in an adapter file, told from its header alone:
a list of a thousand files is scanned without reading a tensor."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import FormatError
from ..left_out import LeftOut
from ..names.branches import GATE, Mode, place_of, places_by_mode, published_as
from ..names.spellings import LayerName
from ..updates.absolute import Absolute
from ..updates.adapter import Adapter
from ..updates.control import Enlarged, Replacement
from ..updates.delta import Delta, Dora, Kron, Matrix, Sum
from ..updates.factor import Factor, Full, Hadamard, LowRank, Tucker
from ..updates.gates import is_gate
from ..updates.rows import Rows
from .header import Header, read_header


@dataclass(frozen=True)
class LayerFacts:
    """One layer's update, as the header tells it."""

    name: LayerName
    method: str
    """``LoKr``, ``DiffuseKronA``, ``LoRA``, ``LoHa``, ``diff``, ``sum``; with ``+DoRA`` where it has a norm. ``gate`` of
    a parallel branch, and ``MV-Adapter`` or ``I2V-Adapter`` of one whose projections are whole matrices."""
    shape: tuple[int, ...]
    """``(out, in, *kernel)`` of ``ΔW``; a decomposed convolution may be flattened."""
    factors: tuple[tuple[int, ...], ...]
    """Shapes of ``A`` and ``B`` of a Kronecker product."""
    rank: int | None
    """Of the low-rank part; ``None`` where everything is whole."""
    parameters: int


@dataclass(frozen=True)
class Inspection:
    """What the header of an adapter file says about it."""

    format: str
    layers: tuple[LayerFacts, ...]
    metadata: Mapping[str, str]
    dtypes: Mapping[str, int]
    """How many tensors there are of each element type, by the header's names."""
    bytes: int
    """Size of the file."""
    left_out: tuple[LeftOut, ...] = ()
    """What the file holds besides, by method."""

    @property
    def parameters(self) -> int:
        """Stored numbers of all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def branches(self) -> Mapping[Mode, int]:
        """Modes of the parallel branches in it, with the number of places where each stands."""
        return places_by_mode(layer.name for layer in self.layers)


def inspect_header(path: str | os.PathLike[str]) -> Inspection:
    """Format, layers, factors, ranks and metadata of an adapter file; no tensor is read.

    Raises:
        AdapterFileError: The file cannot be read (see `krona_ops.read_header`).
        FormatError: It holds no adapter of a known format, or an incomplete one.
    """
    header = read_header(path)
    try:
        name, adapter = _read(header)
    except FormatError as error:
        raise FormatError(
            error.reason, layer=error.layer, where=str(path), found=error.found, expected=error.expected
        ) from error
    size = Path(path).stat().st_size
    return Inspection(
        name, _all_facts(adapter), header.metadata, Counter(header.dtypes.values()), size, adapter.left_out
    )


def layers_of(header: Header) -> tuple[str, tuple[LayerFacts, ...]]:
    """The format that a header is of, and the layers that it speaks of.

    Raises:
        FormatError: It is of no known format, or incomplete.
    """
    name, adapter = _read(header)
    return name, _all_facts(adapter)


def _read(header: Header) -> tuple[str, Adapter]:
    from .registry import detect  # imports every format, which no start should wait for

    module = detect(header)
    return module.NAME, module.read(header.placeholders(), header)


_Facts = tuple[str, tuple[int, ...], tuple[tuple[int, ...], ...], int | None, int]
"""The fields of `LayerFacts` after ``name``."""


def _all_facts(adapter: Adapter) -> tuple[LayerFacts, ...]:
    facts: dict[int, _Facts] = {}
    for delta in adapter.layers.values():  # of layers that are alike the reader makes one value
        if id(delta) not in facts:
            facts[id(delta)] = _facts(delta)
    return tuple(_named(LayerFacts(name, *facts[id(delta)]), delta) for name, delta in adapter.layers.items())


def _named(facts: LayerFacts, delta: Delta) -> LayerFacts:
    if is_gate(facts.name):
        return replace(facts, method=GATE)
    method = method_of_branch(facts.name, delta)
    return facts if method is None else replace(facts, method=method)


def method_of_branch(name: LayerName, delta: Delta) -> str | None:
    """In whose files a part of a branch is a whole matrix; ``None`` for updates and for layers of no branch."""
    place = place_of(name)
    return published_as(place.mode) if place is not None and isinstance(delta, Replacement) else None


def _facts(delta: Delta) -> _Facts:
    outer, delta = delta, written(delta)
    inner = delta.delta if isinstance(delta, Dora) else delta
    method = _method(inner) + ("+DoRA" if isinstance(delta, Dora) else "")
    kron = inner.terms[0] if isinstance(inner, Sum) else inner
    factors = (kron.a.shape, kron.b.shape) if isinstance(kron, Kron) else ()
    return method, outer.shape, factors, _rank(inner), outer.parameters


def written(delta: Delta) -> Delta:
    """An update as the file holds it: before it is cut to one projection, or enlarges its weight."""
    if isinstance(delta, Enlarged):
        return written(delta.delta)
    if isinstance(delta, Rows):
        return written(delta.whole)
    if isinstance(delta, Dora) and isinstance(delta.delta, Rows):
        return written(delta.delta)
    return delta


def _method(delta: Delta) -> str:
    if isinstance(delta, Kron):
        return "LoKr" if delta.layout == "kron" else "DiffuseKronA"
    if isinstance(delta, Matrix):
        return "diff" if isinstance(delta.factor, Full) else "LoHa" if isinstance(delta.factor, Hadamard) else "LoRA"
    if isinstance(delta, Absolute):
        return "norm value"
    return "replacement" if isinstance(delta, Replacement) else "sum"


def _rank(delta: Delta) -> int | None:
    ranks = [_factor_rank(getattr(delta, side)) for side in ("b", "a", "factor") if hasattr(delta, side)]
    return next((rank for rank in ranks if rank), None)


def _factor_rank(factor: Factor) -> int | None:
    if isinstance(factor, Hadamard):
        return _factor_rank(factor.left)
    return factor.down.shape[0] if isinstance(factor, LowRank | Tucker) else None
