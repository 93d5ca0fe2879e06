"""What the layers of a parallel branch are called: the site that it stands beside, its mode, and which part it is.

``<site>.krona_<mode>.to_q``, ``to_k``, ``to_v`` and ``to_out`` are updates of the projections of the attention at that
site, and ``<site>.krona_<mode>.gate`` is the one number that its output is multiplied by. Files of other authors
replace projections instead of adding to them; then there may be ``<site>.krona_<mode>.to_out.bias`` too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from .spellings import LayerName

Mode = Literal["reference", "first", "views", "row", "row+col"]
"""What a branch attends to: clean references, the first frame of the group, all views of it, or those of its tokens
that lie in the same row (or column)."""
MODES: tuple[Mode, ...] = get_args(Mode)
AmongViews = Literal["views", "row", "row+col"]
"""The modes in which the samples of a group attend to one another."""
AMONG_VIEWS: tuple[AmongViews, ...] = get_args(AmongViews)
Reading = Literal["with the others", "alone"]
"""How a branch of the mode ``first`` reads the first frame: in the pass of the frames that are drawn, at their noise
level; or in a pass of its own at no noise, as ``reference`` reads its pictures."""
READINGS: tuple[Reading, ...] = get_args(Reading)
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
OUT_BIAS = "to_out.bias"
GATE = "gate"
PARTS = (*PROJECTIONS, OUT_BIAS, GATE)
_BEFORE = ".krona_"


class Place(NamedTuple):
    """Where in a branch a layer belongs."""

    site: str
    """The attention that the branch stands beside."""
    mode: Mode
    part: str
    """One of `PARTS`."""


def layer_name(site: str, mode: Mode, part: str) -> LayerName:
    """What a layer of a branch is called.

    >>> layer_name("mid.attn1", "row", "to_q")
    'mid.attn1.krona_row.to_q'
    """
    return LayerName(f"{site}{_BEFORE}{mode}.{part}")


def place_of(name: str) -> Place | None:
    """Where in a branch a layer belongs; ``None`` for a layer of no branch.

    >>> place_of("mid.attn1.krona_row.to_q")
    Place(site='mid.attn1', mode='row', part='to_q')
    """
    site, found, rest = name.rpartition(_BEFORE)
    mode, _, part = rest.partition(".")
    if not found or not site or part not in PARTS:
        return None
    return next((Place(site, each, part) for each in MODES if each == mode), None)


def places_by_mode(names: Iterable[str]) -> dict[Mode, int]:
    """In how many places the branch of each mode stands, of those that layers of these names are parts of."""
    there = {(place.mode, place.site) for place in map(place_of, names) if place is not None}
    counts = {mode: sum(each == mode for each, _ in there) for mode in MODES}
    return {mode: count for mode, count in counts.items() if count}


def branches_in_words(names: Iterable[str]) -> str:
    """The branches that layers of these names are parts of; empty where there are none.

    >>> branches_in_words(["mid.attn1.krona_row.gate", "mid.attn1.krona_row.to_q", "in.attn1.krona_first.to_q"])
    'parallel branch: first in 1 place, row in 1 place'
    """
    counts = places_by_mode(names).items()
    each = (f"{mode} in {count} place{'' if count == 1 else 's'}" for mode, count in counts)
    return f"parallel branch: {', '.join(each)}" if counts else ""


def published_as(mode: Mode) -> str:
    """The method in whose files the projections of a branch of this mode are whole matrices.

    >>> published_as("row"), published_as("first")
    ('MV-Adapter', 'I2V-Adapter')
    """
    return "I2V-Adapter" if mode == "first" else "MV-Adapter"
