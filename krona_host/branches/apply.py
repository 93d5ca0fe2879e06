"""Put the branches of an adapter on the host's model."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from krona_ops import Adapter
from krona_ops.branches.branch import Branch, branches_of
from krona_ops.errors import ConfigError, ShapeError
from krona_ops.names.branches import AMONG_VIEWS, AmongViews, Mode, place_of, published_as

from ..types import Model
from .patch import BranchPatch
from .places import matched, require_spots, unmatched
from .sampling import Rows

if TYPE_CHECKING:
    from ..types import ModelOptions

log = logging.getLogger(__name__)
_JOINS = {"nodes_hypertile": "HyperTile", "nodes_tomesd": "Token Merging (ToMe)"}
"""Files whose patches join or cut the tokens of self-attentions; a server calls their modules by their paths."""


@dataclass(frozen=True)
class Use:
    """How a branch is used.

    Raises:
        ConfigError: It would stop before it begins.
    """

    strength: float = 1.0
    reference: Tensor | None = None
    """``(R, C, *space)`` latents as the VAE gives them."""
    views: int = 0
    """Samples of a group; 0 takes the whole batch."""
    rows: Rows | None = None
    """``None``: as the branch was made for, ``both`` for those of MV-Adapter and I2V-Adapter, else ``positive``."""
    start: float = 0.0
    """The branch counts from this part of the way on: 0 is pure noise."""
    end: float = 1.0
    """And up to this one: 1 is the finished picture."""
    mode: AmongViews | None = None
    """How branches among views attend; ``None``: as their files say. MV-Adapter's for texturing want ``row+col`` and do
    not say so."""

    def __post_init__(self) -> None:
        if not self.start <= self.end:
            raise ConfigError(
                f"The branch would begin to count at {self.start:g} and stop at {self.end:g}, which is before.",
                found=(self.start, self.end),
                expected="a start that is not behind the end",
                remedy="Exchange them: 0 is pure noise, 1 the finished picture.",
            )


def apply_branches(adapter: Adapter, model: Model, use: Use) -> tuple[Model, str]:
    """A clone of the model with the adapter's branches on it, and a report; at strength 0 they are left out.

    Updates of the model's own layers beside them are not applied, which the report says.

    Raises:
        FormatError: The adapter is no branch, or not all of one.
        CoverageError, ShapeError: It is for another model, see `krona_host.branches.places.matched`.
        ConfigError: A branch wants a reference and there is none, a mode is chosen that is for none of the branches, or a
            patch that the model has makes it impossible.
    """
    branches = _in_mode(branches_of(adapter), use.mode)
    sites = require_spots(model)
    _require_whole_tokens(model.model_options)
    lines = []
    for branch in branches:
        parts = matched(branch, model)
        _require_reference(branch.mode, use, model)
        left = unmatched(branch, parts)
        beside = f"; {left} of the branch's {len(branch.sites)} places are not in this model" if left else ""
        rows, about_rows = _rows(branch, use.rows)
        alone = " The first frame is read alone, at no noise." if branch.reading == "alone" else ""
        lines.append(f"{branch.mode}: beside {len(parts)} of {len(sites)} self-attentions{beside}.{alone}{about_rows}")
        if use.strength != 0:
            patch = BranchPatch(
                branch.mode,
                parts,
                sites,
                use.strength,
                use.reference,
                use.views,
                rows,
                use.start,
                use.end,
                blanks=branch.has_own_weights,
                adapter=adapter,
                reading=branch.reading,
            )
            model = patch.attach(model)
    if not use.strength:
        lines.append("Strength 0: left out.")
    if use.reference is not None and not {branch.mode for branch in branches} & {"reference", "first"}:
        lines.append("The reference is not used: what is drawn together attends to itself.")
    own = sum(place_of(name) is None for name in adapter.layers)
    if own:
        lines.append(
            f"{own} of the adapter's {len(adapter)} layers are updates of the model's own: Apply KronA applies them."
        )
    report = " ".join(lines)
    log.info("KronA: %s", report)
    return model if use.strength != 0 else model.clone(), report


def _in_mode(branches: tuple[Branch, ...], mode: AmongViews | None) -> tuple[Branch, ...]:
    """The branches, those among views in the mode that is chosen.

    Raises:
        ConfigError: There are none among views.
    """
    if mode is None:
        return branches
    if not any(branch.mode in AMONG_VIEWS for branch in branches):
        raise ConfigError(
            f"The mode {mode} is for branches among views, and there is none.",
            found=", ".join(branch.mode for branch in branches),
            expected=" or ".join(AMONG_VIEWS),
            remedy="Leave the mode to the file, or choose another file.",
        )
    return tuple(replace(branch, mode=mode) if branch.mode in AMONG_VIEWS else branch for branch in branches)


def _rows(branch: Branch, chosen: Rows | None) -> tuple[Rows, str]:
    """For which side of guidance a branch counts, and a sentence about it where its authors' pipeline is another's."""
    if not branch.has_own_weights:
        return chosen or "positive", ""
    if chosen == "positive":
        whose = published_as(branch.mode)
        return chosen, f" It counts for the prompt alone; {whose} lets it count for the negative prompt too (both)."
    return "both", " It counts for the negative prompt too."


def _require_reference(mode: Mode, use: Use, model: Model) -> None:
    channels = model.get_model_object("latent_format").latent_channels
    if use.reference is not None and (use.reference.ndim != 4 or use.reference.shape[1] != channels):
        raise ShapeError(
            "The reference is a latent of another kind of model.",
            found=tuple(use.reference.shape),
            expected=f"(pictures, {channels}, height, width)",
            remedy="Encode the picture with the VAE of this model.",
        )
    if use.reference is not None and not use.reference.numel():
        raise ShapeError(
            "The reference holds no picture.",
            found=tuple(use.reference.shape),
            expected=f"(1 or more, {channels}, height, width)",
            remedy="Connect the latent of a picture, from VAE Encode.",
        )
    if mode == "reference" and use.reference is None:
        raise ConfigError(
            "This branch attends to reference pictures, and there are none.",
            found="nothing in 'reference'",
            expected="a latent",
            remedy="Encode a picture with VAE Encode and connect it.",
        )


def _require_whole_tokens(options: ModelOptions) -> None:
    """Refuse a model on which something joins tokens before the branch sees them."""
    patches = options.get("transformer_options", {}).get("patches", {})
    before = patches.get("attn1_patch", []) if isinstance(patches, dict) else []
    files = (re.split(r"[./\\]", getattr(each, "__module__", ""))[-1] for each in before)
    name = next((_JOINS[file] for file in files if file in _JOINS), None)
    if name is not None:
        raise ConfigError(
            f"{name} is on the model, which joins or cuts the tokens that a branch attends to.",
            found=name,
            expected="a model without it",
            remedy=f"Take {name} out of the graph.",
        )
