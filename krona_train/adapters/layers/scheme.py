"""How one adapted linear layer computes its gradients: chosen by cost, from integers.

- ``"factored"``: the base's product, and the update beside it by its two factors.
- ``"hybrid"``: one product with ``W + A ⊗ B``, which is formed in one pass and formed again for the backward pass; the
  factors' gradients as in ``"factored"``. Cheaper where there are many tokens for the size of the weight.
- ``"dense"``: as ``"hybrid"``, and the factors' gradients by way of the whole ``∂L/∂ΔW``. Cheaper where a factor has
  but a few rows.

All three save the input and the factors for the backward pass, and nothing else.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

from krona_ops.updates.shapes import KronShape

Scheme = Literal["factored", "hybrid", "dense"]

BALANCE = 32
"""Multiply-adds that a processor does in the time in which it moves one number between memory and core.

An x86 core measured 20 to 40 (1280 × 1280, float32: 70·10⁹ multiply-adds per second in a product, 1.7 to 3.6·10⁹
numbers per second in a pass). Half of it changes only choices whose costs differ by 2 % of the base's product or less,
twice as much some that differ by 18 %.
"""


@cache
def choose(sizes: KronShape, tokens: int, *, exact: bool) -> Scheme:
    """The scheme that costs least for a linear layer.

    Args:
        sizes: Of the factors, without a kernel.
        tokens: Rows of the input.
        exact: Whether ``W + A ⊗ B`` may be rounded once more than the two apart: only in float32 or wider, because half
            precision loses an update that is small beside the weight.
    """
    if not exact:
        return "factored"
    schemes: tuple[Scheme, ...] = get_args(Scheme)
    return min(schemes, key=lambda scheme: cost(sizes, tokens, scheme))


def cost(sizes: KronShape, tokens: int, scheme: Scheme) -> float:
    """What a scheme adds to the frozen layer's forward pass and its gradient to the input, in multiply-adds.

    Memory traffic counts `BALANCE` for each number that is read or written.
    """
    weight = sizes.out_features * sizes.in_features
    ends = sizes.out_features + sizes.in_features
    through = sizes.apply_cost(sizes.cheapest_order)
    middle = (sizes.in_a * sizes.out_b) if sizes.cheapest_order == "b first" else (sizes.out_a * sizes.in_b)
    # The gradients of both factors need both intermediate values and one more product with each: twice the map itself.
    gradients = tokens * (2 * through + BALANCE * (2 * ends + 4 * middle))
    # A pass reads the weight and writes the sum.
    forming = 2 * BALANCE * 2 * weight
    if scheme == "factored":
        # Forward, and the last half of the way back to the input: results are added onto what the base's products left
        # in memory.
        return gradients + tokens * (2 * through + BALANCE * (2 * ends + 2 * middle))
    if scheme == "hybrid":
        return gradients + forming
    return tokens * weight + 3 * BALANCE * weight + forming
