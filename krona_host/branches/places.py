"""Where in a UNet a parallel branch can stand, and which of a branch's sites is which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from krona_ops.branches.branch import Branch
from krona_ops.branches.projections import SiteBranch
from krona_ops.errors import CoverageError, FormatError, ShapeError
from krona_ops.names.spellings import LayerName, flat, spellings
from krona_ops.shown import shown

from ..model.attention import attention_sites
from ..model.families import family_of
from ..names.diffusers_names import diffusers_names

if TYPE_CHECKING:
    from ..types import DiffusionNet, Model


class Spot(NamedTuple):
    """A self-attention as the host names it while it computes: ``block`` and ``block_index`` of its options."""

    side: str
    """``input``, ``middle`` or ``output``."""
    block: int
    transformer: int
    """Of the transformer block among those of its place."""


class Site(NamedTuple):
    """A self-attention of a network."""

    name: str
    """Of its module, such as ``diffusion_model.middle_block.1.transformer_blocks.0.attn1``."""
    heads: int


_NAME = re.compile(
    r"diffusion_model\.(?:(?P<side>input|output)_blocks\.(?P<block>\d+)|middle_block)\.\d+"
    r"\.transformer_blocks\.(?P<transformer>\d+)\.attn1"
)


def spots_of(net: DiffusionNet) -> dict[Spot, Site]:
    """The self-attentions of a UNet by their place; none of a model that has no UNet's."""
    spots: dict[Spot, Site] = {}
    for name, *_, heads in attention_sites(net.diffusion_model):
        match = _NAME.fullmatch(name)
        if match is not None:
            side = match["side"] or "middle"
            spots[Spot(side, int(match["block"] or 0), int(match["transformer"]))] = Site(name, heads)
    return spots


def require_spots(model: Model) -> dict[Spot, Site]:
    """The self-attentions of a model that a branch can stand beside.

    Raises:
        CoverageError: There are none.
    """
    spots = spots_of(model.model)
    if not spots:
        raise CoverageError(
            "A parallel branch stands beside the self-attentions of a UNet, and this model has none.",
            found=family_of(model),
            expected="a UNet, such as SD1.5's or SDXL's",
            remedy="Load a model with a UNet; diffusion transformers attend to picture and prompt in one.",
        )
    return spots


def matched(branch: Branch, model: Model) -> dict[Spot, SiteBranch]:
    """The parts of a branch by the places where they stand, whether it has the host's names of them or diffusers'.

    Raises:
        CoverageError: The model has no UNet, none of the branch's sites, or fewer than half of them.
        FormatError: Two of the branch's sites are one of the model's.
        ShapeError: A site of the model has another width than the branch.
    """
    spots = require_spots(model)
    names = _by_any_name(spots, model)
    parts: dict[Spot, SiteBranch] = {}
    for site, part in branch.sites.items():
        layer, spot = LayerName(site), next((names[name] for name in spellings(site).names if name in names), None)
        if spot in parts:
            raise FormatError(
                "The branch has this place twice, under two names.",
                layer=layer,
                found=spots[spot].name,
                expected="one name of each place",
                remedy="The file was put together from two; take one of them.",
            )
        if spot is not None:
            parts[spot] = part
    if not parts:
        raise CoverageError(
            "None of the places where this branch stands is in the model.",
            found=family_of(model),
            expected=shown(next(iter(branch.sites))),
            remedy="Load the kind of model that the branch was trained on.",
        )
    for spot, part in parts.items():
        _require_fit(spots[spot].name, part, model.model)
    if 2 * len(parts) < len(branch.sites):  # the places that two kinds of UNet share are the same in name only
        raise CoverageError(
            f"The branch is for another kind of model: this one has {len(parts)} of its {len(branch.sites)} places.",
            found=family_of(model),
            expected=f"a model with {len(branch.sites)} such places",
            remedy="Load the kind of model that the branch was trained on.",
        )
    return parts


def _by_any_name(spots: Mapping[Spot, Site], model: Model) -> dict[str, Spot]:
    """Places by flat names (`krona_ops.names.spellings.flat`): the host's own ones, and diffusers'."""
    theirs = diffusers_names(model)
    names: dict[str, Spot] = {}
    for spot, site in spots.items():
        query = theirs.get(f"{site.name}.to_q", "").partition(".")[2]
        for name in (site.name, site.name.partition(".")[2], query.removesuffix(".to_q")):
            names.setdefault(flat(name), spot)
    return names


def _require_fit(name: str, part: SiteBranch, net: DiffusionNet) -> None:
    attention = net.get_submodule(name)
    for which in ("q", "k", "v", "out"):
        module = attention.get_submodule("to_out.0" if which == "out" else f"to_{which}")
        wanted: tuple[int, ...] = tuple(module.weight.shape)  # type: ignore[arg-type]  # a linear layer's
        shape, layer = getattr(part, which).shape, LayerName(f"{name}.to_{which}")
        if shape is not None and shape != wanted:
            raise ShapeError(
                f"The branch is for a model of another width: it has {_times(shape)}, the model {_times(wanted)}.",
                layer=layer,
                found=shape,
                expected=wanted,
                remedy="Load the kind of model that the branch was trained on.",
            )


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def unmatched(branch: Branch, parts: Mapping[Spot, SiteBranch]) -> int:
    """How many sites of a branch have no place in the model."""
    return len(branch.sites) - len(parts)
