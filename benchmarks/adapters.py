"""Adapters with random factors, of the sizes of real ones."""

from __future__ import annotations

import torch

from benchmarks.shapes import sdxl_attention
from krona_ops import Adapter, Full, Kron, LayerName
from krona_ops.updates.shapes import split

FACTORS = (64, 4)
"""The paper's best variant."""


def sdxl_adapter(seed: int, factors: tuple[int, int] = FACTORS) -> Adapter:
    """Random factors for the 560 attention layers of SDXL's UNet; ``factors`` is ``(out_a, in_a)``."""
    rng = torch.Generator().manual_seed(seed)
    layers = {}
    for name, shape in sdxl_attention().items():
        s = split(shape, factors)
        a, b = torch.randn(s.out_a, s.in_a, generator=rng), torch.randn(s.out_b, s.in_b, generator=rng)
        layers[LayerName(name)] = Kron(Full(a * 0.01), Full(b * 0.01))
    return Adapter(layers)
