"""LoKr with sums of Kronecker products among its layers, for this pack alone:
see `krona_ops.formats.kinds.lokr_sum`. It is read as LoKr."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..updates.adapter import Adapter
from ..updates.delta import Sum
from . import lokr
from .kinds import lokr_sum
from .layers import Rename

NAME = "lokr-sum"


def write(adapter: Adapter, rename: Rename = str) -> dict[str, Tensor]:
    """The tensors of an adapter: sums in ``lokr_sum_*``, all else as `krona_ops.formats.lokr.write` has it.

    Raises:
        FormatError: LoKr cannot hold a layer that is no sum of Kronecker products.
    """
    sums = {name: lokr_sum.write(delta) for name, delta in adapter.layers.items() if isinstance(delta, Sum)}
    sums = {name: parts for name, parts in sums.items() if parts}
    rest = replace(adapter, layers={name: delta for name, delta in adapter.layers.items() if name not in sums})
    tensors = lokr.write(rest, rename)
    return tensors | {
        f"{rename(name)}.{part}": tensor.contiguous() for name, parts in sums.items() for part, tensor in parts.items()
    }
