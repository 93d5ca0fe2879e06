"""Which attention processors a UNet has, by its names in diffusers:
the loader released with DiffuseKronA wants all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

_BLOCKS: dict[str, dict[str, dict[int, tuple[int, ...]]]] = {
    "SD 1 or 2": {"down_blocks": {0: (1, 1), 1: (1, 1), 2: (1, 1)}, "mid_block": {0: (1,)}, "up_blocks": {1: (1, 1, 1), 2: (1, 1, 1), 3: (1, 1, 1)}},
    "SDXL": {"down_blocks": {1: (2, 2), 2: (10, 10)}, "mid_block": {0: (10,)}, "up_blocks": {0: (10, 10, 10), 1: (2, 2, 2)}},
    "SDXL's refiner": {"down_blocks": {1: (4, 4), 2: (4, 4)}, "mid_block": {0: (4,)}, "up_blocks": {1: (4, 4, 4), 2: (4, 4, 4)}},
    "SSD-1B": {"down_blocks": {1: (2, 2), 2: (4, 4)}, "up_blocks": {0: (4, 4, 10), 1: (2, 1, 1)}},
    "Segmind Vega": {"down_blocks": {1: (1, 1), 2: (2, 2)}, "up_blocks": {0: (2, 2, 2), 1: (1, 1, 1)}},
    "KOALA-700M": {"down_blocks": {1: (2,), 2: (5,)}, "up_blocks": {0: (5, 5), 1: (2, 2)}},
    "KOALA-1B": {"down_blocks": {1: (2,), 2: (6,)}, "mid_block": {0: (6,)}, "up_blocks": {0: (6, 6), 1: (2, 2)}},
}  # fmt: skip
"""By family, side and block, how many transformer blocks each ``attentions.<n>`` has; each holds two attentions."""
_PROCESSOR = re.compile(
    r"(?P<processor>(?:down_blocks|mid_block|up_blocks)\..*attn[12]\.processor)\.(?P<projection>to_(?:q|k|v|out))$"
)


def what_is_missing(layers: Iterable[str]) -> str:
    """Why the authors' loader refuses a file with these layers, as the end of a sentence;
    empty where nothing speaks against it.

    It makes a processor of each one in the file, with the projections that it is told for all, and diffusers 0.21 then
    wants as many as the UNet has attentions.
    """
    projections: dict[str, set[str]] = {}
    for layer in layers:
        if match := _PROCESSOR.search(layer):
            projections.setdefault(match["processor"], set()).add(match["projection"])
    if not projections:
        return "it has no layer of the UNet's attentions"
    usual = Counter(map(frozenset, projections.values())).most_common(1)[0][0]
    fewer = next((processor for processor, own in projections.items() if own != usual), None)
    if fewer is not None:
        return f"{fewer} has {', '.join(sorted(projections[fewer]))}, and most others have {', '.join(sorted(usual))}"
    processors = set(projections)
    families = _families()
    if processors in families.values():
        return ""
    larger = {family: all_of_it for family, all_of_it in families.items() if processors < all_of_it}
    if larger:
        family = min(larger, key=lambda name: len(larger[name]))
        return f"it has {len(processors)} of the {len(larger[family])} attentions of {family}"
    alone = next((processor for processor in sorted(processors) if _other(processor) not in processors), None)
    return f"it has {alone}, but not {_other(alone)}" if alone is not None else ""


@lru_cache(maxsize=1)
def _families() -> dict[str, frozenset[str]]:
    return {family: frozenset(_processors(blocks)) for family, blocks in _BLOCKS.items()}


def _other(processor: str) -> str:
    """The cross-attention beside a self-attention, and the other way round."""
    return processor.replace("attn1", "attn0").replace("attn2", "attn1").replace("attn0", "attn2")


def _processors(sides: Mapping[str, Mapping[int, tuple[int, ...]]]) -> Iterable[str]:
    for side, blocks in sides.items():
        for block, attentions in blocks.items():
            start = side if side == "mid_block" else f"{side}.{block}"
            for n, count in enumerate(attentions):
                for inner in range(count):
                    for attention in (1, 2):
                        yield f"{start}.attentions.{n}.transformer_blocks.{inner}.attn{attention}.processor"
