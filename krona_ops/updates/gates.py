"""What a strength multiplies of a parallel branch: its gates, in which alone its output is linear.

Queries and keys stand in a softmax, and the output's update acts on a mixture of values: half of each update is another
branch, and not half of this one. So every operation that makes an adapter stronger or weaker leaves the projections of
a branch as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..names.branches import GATE, layer_name, place_of
from ..names.spellings import LayerName
from .delta import Delta, Matrix
from .factor import Full


def acting(name: LayerName) -> LayerName:
    """The layer whose strength counts for a layer: itself; the gate of the site for a part of a branch."""
    place = place_of(name)
    return name if place is None else layer_name(place.site, place.mode, GATE)


def is_gate(name: LayerName) -> bool:
    """Whether a layer is a gate: without it, the branch would count there in full."""
    return place_of(name) is not None and acting(name) == name


def gates_unsaid(layers: Mapping[LayerName, Delta]) -> dict[LayerName, Delta]:
    """The gates that a branch does not name: each is 1."""
    names = dict.fromkeys(acting(name) for name in layers)
    return {name: Matrix(Full(torch.ones(1))) for name in names if name not in layers}
