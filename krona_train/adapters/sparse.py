"""One factor of each update trained in parts: a step computes with one of them, drawn for each layer (MoSA: Zhang et al.
2023, "Mixture of Sparse Adapters for Visual Efficient Tuning", arXiv 2312.02923).

The entries of ``B`` are split into ``N`` parts by masks ``M_1 … M_N`` with ``Σ M_e = 1``. A step computes with
``A ⊗ (N · M_e ∘ B)``, and the mean over ``e`` is ``A ⊗ B``: what is saved, drawn and validated with is ``B`` itself. The
paper keeps a copy of the up-projection for each part, shares the down-projection, and merges the copies by their mean;
with one ``B``, and ``N`` in the pass instead of in the merge, there is nothing to merge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from krona_ops import LayerName
from krona_ops.errors import ConfigError
from krona_ops.names.branches import GATE, place_of
from krona_ops.targets.rules import Target

from ..randomness import generator
from ..settings.groups import AdapterConfig, SparseConfig
from .layers import LAYERS, layer_type_of
from .layers.protocol import Computed, Layer


class Sparse:
    """The parts of an adapter's factors, and which of them a step computes with: from the seed alone.

    Args:
        layers: Of one adapter, on their device; those of a kind that is split compute in parts from now on.
        drawn: Gives the part of each factor, `Gates.drawn`; the factors are whole where it is ``None``.

    Raises:
        ConfigError: A factor has fewer entries than there shall be parts.
    """

    def __init__(
        self,
        layers: Mapping[LayerName, Layer],
        config: SparseConfig,
        seed: int,
        drawn: Callable[[], Tensor | None],
    ) -> None:
        self._parts, self._seed, self._drawn = config.parts, seed, drawn
        self._factors = 0
        self._device = torch.device("cpu")
        if self._parts == 1:
            return
        for name, layer in layers.items():
            if layer.splits:
                _require_entries(layer, name, self._parts)
                layer.split(self._split)

    def draw(self, step: int, number: int = 0) -> Tensor | None:
        """The part of each factor, ``(factors,)`` on their device; ``None`` where no factor has parts.

        Args:
            step: Optimizer steps done before it. All its samples compute with one draw, whichever batch, piece or
                process they are in.
            number: Of the draw in the step.
        """
        if not self._factors:
            return None
        rng = generator(self._seed, "sparse draws", step, number)
        return torch.randint(self._parts, (self._factors,), generator=rng).to(self._device, non_blocking=True)

    def _split(self, factor: nn.Parameter) -> Computed:
        parts, drawn, number = self._parts, self._drawn, self._factors
        self._factors, self._device = number + 1, factor.device
        owners = partition(factor.shape, parts, generator(self._seed, "sparse parts", number)).to(factor.device)

        def computed() -> Tensor:
            draw = drawn()
            # The draw stays on its device: Python does not wait for it, and a compiled block is the same for every part.
            return factor if draw is None else torch.where(owners == draw[number], factor * parts, 0)

        return computed


def partition(shape: Sequence[int], parts: int, rng: torch.Generator) -> Tensor:
    """For each entry the number of the part that owns it, ``shape`` in bytes; sizes of parts differ by one at most."""
    size = torch.Size(shape).numel()
    return (torch.randperm(size, generator=rng) % parts).to(torch.uint8).view(*shape)


def require_two_factors(targets: Sequence[Target], config: AdapterConfig) -> None:
    """Refuse to split what has no two factors; a parallel branch's gate is one number and stays whole.

    Raises:
        ConfigError: A target is of such a kind.
    """
    if config.sparse.parts == 1:
        return
    for target in targets:
        name = target.name
        place = place_of(name)
        is_gate = place is not None and place.part == GATE
        kind = layer_type_of(target, config)
        if not kind.splits and not is_gate:
            kinds = ", ".join(each.kind for each in LAYERS if each.splits)
            raise ConfigError(
                f"Parts are of one factor of two, and the kind {kind.kind} has no factors.",
                layer=name,
                where="adapter.sparse.parts",
                found=f"{config.sparse.parts} parts of the kind {kind.kind}",
                expected=f"one of {kinds}",
                remedy="Set parts to 1, or choose another kind for this layer.",
            )


def _require_entries(layer: Layer, name: LayerName, parts: int) -> None:
    for factor in layer.by_role()["zero"]:
        if factor.numel() < parts:
            raise ConfigError(
                f"A factor of {factor.numel()} entries cannot be split into {parts} parts.",
                layer=name,
                where="adapter.sparse.parts",
                found=parts,
                expected=f"at most {factor.numel()}",
                remedy="Set fewer parts, or give this layer factors of other sizes.",
            )
