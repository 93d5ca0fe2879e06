"""Which weight of which model each layer of an adapter belongs to; checked before anything is patched.

The host's own key map is asked first. What it does not know is looked up by its flat name (`name_index`), must have the
shape of the weight, and is refused where it fits two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Literal

import comfy.lora
from torch import nn

from krona_ops import Adapter, LayerName
from krona_ops.errors import CoverageError, ShapeError
from krona_ops.names.branches import branches_in_words, place_of
from krona_ops.names.families import guess
from krona_ops.names.spellings import Spelling, spellings
from krona_ops.updates.delta import Delta, Sum
from krona_ops.updates.reshape import reshaped, suits
from krona_ops.updates.rows import own_rows, rows

from ..model.families import family_of
from .name_index import NameIndex, Place, of_encoder
from .sites import Site, key_map, weight_shape
from .values import against, require_whole

if TYPE_CHECKING:
    from ..types import Clip, Model

__all__ = ["Pairs", "Resolution", "Site", "grouped", "resolve", "summed", "with_networks"]

Pairs = tuple[tuple[Site, Delta], ...]
"""Weights, each with an update of it."""

NO_CLIP = "it belongs to a text encoder; connect the CLIP"
NO_MODEL = "it belongs to the diffusion model; connect the MODEL"
BRANCH = "they are a parallel branch beside the model's layers; Apply KronA Branch applies it"
UNKNOWN = ""
"""Nothing to say but that no weight has this name."""


@dataclass(frozen=True)
class Resolution:
    """The weights that an adapter's layers belong to, and the layers that have none."""

    model: Pairs
    clip: Pairs
    unmatched: tuple[str, ...]
    """Layers that neither the model nor the text encoder has."""
    model_name: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a layer is unmatched, where there is more to say than that no weight has its name."""
    layers: int = 0
    """Layers of the adapter; a fused one may have gone to several weights."""
    clip_layers: int = 0

    def report(self) -> str:
        """One line for the user: how much of the adapter was used, and why the rest was not."""
        line = f"{self.layers - len(self.unmatched)} of {self.layers} layers matched"
        if self.clip_layers:
            line += f" ({self.clip_layers} in the text encoder)"
        if self.unmatched:
            line += f"; {len(self.unmatched)} unmatched: {_some(self.unmatched)}"
        misfits = [f"{name}: {reason}" for name, reason in self.reasons.items() if isinstance(reason, _Misfit)]
        if len(misfits) > 1:
            line += f"; {len(misfits)} of them have another shape than the model's weight and are left out: "
            line += "; ".join(misfits[:2])
        others = [reason for reason in self.reasons.values() if len(misfits) < 2 or not isinstance(reason, _Misfit)]
        for reason, count in Counter(others).most_common():
            line += f"; {count} of them: {reason}" if count < len(self.unmatched) else f": {reason}"
        return line + "."


def resolve(adapter: Adapter, model: Model | None = None, clip: Clip | None = None) -> Resolution:
    """Find the weight of every layer and check that the shapes fit; values become changes of the model's own.

    Args:
        model: The host's ``MODEL``, or ``None``.
        clip: The host's ``CLIP``, or ``None``.

    Raises:
        ShapeError: Fewer than half of the layers fit by name and shape, and some have another shape than their weight:
            the adapter is for another base model. Where most fit, those that do not are left out and reported, however
            their names are spelled. A ResAdapter fits whole or not at all.
        CoverageError: Not one layer was found; or the adapter is a parallel branch alone, which is no update of a layer.
    """
    parts = [_Part("model", model.model)] if model is not None else []
    parts += [_Part("text encoder", clip.cond_stage_model)] if clip is not None else []
    pairs: dict[str, list[tuple[Site, Delta]]] = {"model": [], "text encoder": []}
    reasons: dict[str, str] = {}
    clip_layers = 0
    for name, delta in adapter.layers.items():
        of_branch = BRANCH if place_of(name) is not None else None
        match = of_branch or _by_host(name, delta, parts) or _by_name(name, delta, parts)
        if isinstance(match, str):
            reasons[str(name)] = match
        else:
            pairs[match.part.kind] += match.pairs
            clip_layers += match.part.kind == "text encoder"
    family = family_of(model) if model is not None else "text encoder"
    if model is not None:
        misfits = {name: reason for name, reason in reasons.items() if isinstance(reason, _Misfit)}
        require_whole(adapter, family, parts[0].host_names, reasons, misfits)
    if len(reasons) == len(adapter) and not any(isinstance(reason, _Misfit) for reason in reasons.values()):
        raise _nothing_found(adapter, family, reasons)
    _check_model(adapter, family, reasons)
    return Resolution(
        against(tuple(pairs["model"]), model),
        tuple(pairs["text encoder"]),
        tuple(reasons),
        family,
        {name: reason for name, reason in reasons.items() if reason},
        len(adapter),
        clip_layers,
    )


class _Part:
    """The diffusion model, or the text encoders."""

    def __init__(self, kind: Literal["model", "text encoder"], net: nn.Module) -> None:
        self.kind, self.net = kind, net
        make = comfy.lora.model_lora_keys_unet if kind == "model" else comfy.lora.model_lora_keys_clip
        self.host_names = key_map(make, net)

    @cached_property
    def index(self) -> NameIndex:
        if self.kind == "model":
            return NameIndex.of_model(self.net, self.host_names)
        return NameIndex.of_text_encoders(self.net)

    def shape(self, site: Site) -> tuple[int, ...]:
        return weight_shape(site, self.net)


@dataclass(frozen=True)
class _Match:
    part: _Part
    pairs: Pairs


def _by_host(name: str, delta: Delta, parts: list[_Part]) -> _Match | str | None:
    for part in parts:
        site = part.host_names.get(name) or _bias(name, part)
        if site is not None:
            shape = part.shape(site)
            delta = own_rows(delta, name, site.key, shape)
            if not suits(delta, shape):
                return _misfit((site,), delta, part)
            return _Match(part, ((site, reshaped(delta, shape)),))
    return None


def _bias(name: str, part: _Part) -> Site | None:
    """The bias of a layer, which goes by the layer's name and ``.bias``."""
    site = part.host_names.get(name.removesuffix(".bias")) if name.endswith(".bias") else None
    if site is None or getattr(part.net.get_submodule(site.module), "bias", None) is None:
        return None
    return replace(site, key=f"{site.module}.bias")


def _by_name(name: str, delta: Delta, parts: list[_Part]) -> _Match | str:
    """The weight that has the layer's name, normalised, and its shape; or a sentence that says why there is none."""
    meaning = spellings(name)
    asked = [part for part in parts if meaning.owner in (None, part.kind)]
    if not asked:
        return NO_CLIP if meaning.owner == "text encoder" else NO_MODEL
    reason = UNKNOWN
    matches: list[_Match] = []
    for part in asked:
        answer = _in_part(meaning, delta, part)
        if isinstance(answer, str):
            reason = reason or answer
        else:
            matches.append(answer)
    if len(matches) > 1:
        return f"its name fits both {matches[0].pairs[0][0]} and {matches[1].pairs[0][0]}"
    return matches[0] if matches else reason


def _in_part(meaning: Spelling, delta: Delta, part: _Part) -> _Match | str:
    reason = UNKNOWN
    for places in chain(part.index.find(meaning.names), _biases(meaning, part)):
        if places and part.kind == "text encoder" and meaning.encoder:
            places = of_encoder(places, meaning.encoder)
        own = _own_rows(meaning, delta, places, part)
        fitting = [place for place in places if _place_fits(place, own, part)]
        if len(fitting) > 1:
            return f"its name fits both {fitting[0][0]} and {fitting[1][0]}"
        if fitting:
            try:
                return _Match(part, _divided(fitting[0], own, part))
            except ShapeError as error:
                return str(error)
        reason = reason or (_misfit(places[0], delta, part) if places else UNKNOWN)
    return reason


def _biases(meaning: Spelling, part: _Part) -> Iterator[list[Place]]:
    """Places of the biases that a layer's names may mean: they go by the layer's name and ``bias``."""
    names = tuple(name.removesuffix("_bias") for name in meaning.names if name.endswith("_bias"))
    for places in part.index.find(names) if names else ():
        biases = [tuple(replace(site, key=f"{site.module}.bias") for site in place) for place in places]
        yield [
            place
            for place in biases
            if all(getattr(part.net.get_submodule(site.module), "bias", None) is not None for site in place)
        ]


def _own_rows(meaning: Spelling, delta: Delta, places: list[Place], part: _Part) -> Delta:
    if len(places) != 1 or len(places[0]) != 1:
        return delta
    (site,) = places[0]
    return own_rows(delta, meaning.names[0], site.key, part.shape(site))


def _place_fits(place: Place, delta: Delta, part: _Part) -> bool:
    shapes = [part.shape(site) for site in place]
    is_one_piece = len({shape[1:] for shape in shapes}) == 1
    return is_one_piece and suits(delta, (sum(shape[0] for shape in shapes), *shapes[0][1:]))


def _divided(place: Place, delta: Delta, part: _Part) -> Pairs:
    """The update in the shape of its weight; of several weights, cut into the rows of each, in order."""
    shapes = [part.shape(site) for site in place]
    whole = reshaped(delta, (sum(shape[0] for shape in shapes), *shapes[0][1:]))
    if len(place) == 1:
        return ((place[0], whole),)
    starts = [sum(shape[0] for shape in shapes[:i]) for i in range(len(place))]
    return tuple((site, rows(whole, start, shape[0])) for site, start, shape in zip(place, starts, shapes, strict=True))


class _Misfit(str):
    """Why a layer is left out whose name the model has and whose shape it has not."""


def _misfit(place: Place, delta: Delta, part: _Part) -> _Misfit:
    shapes = " and ".join(_times(part.shape(site)) for site in place)
    are = "is" if len(place) == 1 else "are"
    return _Misfit(f"its update is {_times(delta.shape)}, {_some(tuple(map(str, place)))} {are} {shapes}")


def _check_model(adapter: Adapter, family: str, reasons: Mapping[str, str]) -> None:
    """Refuse an adapter for another model: layers of another shape may be left out if at least half of all fit.

    Raises:
        ShapeError: Fewer fit, by name and shape.
    """
    misfits = {name: reason for name, reason in reasons.items() if isinstance(reason, _Misfit)}
    asked = [name for name in map(str, adapter.layers) if reasons.get(name) not in (NO_CLIP, NO_MODEL, BRANCH)]
    fitting = sum(name not in reasons for name in asked)
    # A handful of other shapes beside many names that nobody knows does not make it another model's.
    if not misfits or 2 * fitting >= len(asked) or 10 * len(misfits) < fitting:
        return
    name, reason = next(iter(misfits.items()))
    looks_like = guess({str(layer): delta.shape for layer, delta in adapter.layers.items()})
    raise ShapeError(
        f"{reason[0].upper()}{reason[1:]}; {len(misfits)} of {len(asked)} layers have another shape than the weights of "
        f"this {family} model, {fitting} fit{f'. The adapter looks like {looks_like}' if looks_like else ''}.",
        layer=name,
        found=adapter.layers[LayerName(name)].shape,
        expected="the shapes of the model's weights",
        remedy="The adapter was trained for another base model; load the checkpoint that it was trained for.",
    )


def _nothing_found(adapter: Adapter, family: str, reasons: Mapping[str, str]) -> CoverageError:
    if set(reasons.values()) == {BRANCH}:
        return CoverageError(
            "The adapter is no update of the model's layers but a parallel branch beside its self-attentions "
            f"({branches_in_words(adapter.layers).partition(': ')[2]}).",
            found="a parallel branch",
            expected="updates of layers",
            remedy="Apply it with Apply KronA Branch.",
        )
    trained_on = adapter.metadata.get("ss_base_model_version")
    looks_like = guess({str(name): delta.shape for name, delta in adapter.layers.items()})
    hints = [f"the file says it was trained on {trained_on}"] if trained_on else []
    hints += [f"its layers look like {looks_like}"] if looks_like else []
    reason = next((reason for reason in reasons.values() if reason), "")
    if reason in (NO_CLIP, NO_MODEL) and set(reasons.values()) == {reason}:
        what, remedy = ("text encoder", "CLIP") if reason == NO_CLIP else ("diffusion model", "MODEL")
        message = f"All of the adapter's {len(adapter)} layers belong to a {what}, and none is connected"
        remedy = f"Connect the {remedy}."
    else:
        message = f"None of the adapter's {len(adapter)} layers exists in this {family} model"
        remedy = "Load the checkpoint that the adapter was trained for."
    return CoverageError(
        f"{message}; {', '.join(hints)}." if hints else f"{message}.",
        layer=next(iter(reasons), None),
        found=trained_on or looks_like or "other layer names",
        expected=family,
        remedy=remedy,
    )


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:4])}{', …' if len(names) > 4 else ''}"


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def grouped(pairs: Pairs) -> Mapping[Site, list[Delta]]:
    """Updates by weight: a file may name one weight twice, in two dialects."""
    groups: dict[Site, list[Delta]] = {}
    for site, delta in pairs:
        groups.setdefault(site, []).append(delta)
    return groups


def summed(deltas: list[Delta]) -> Delta:
    """Several updates of one weight as one."""
    return deltas[0] if len(deltas) == 1 else Sum(tuple(deltas))


def with_networks(resolution: Resolution, model: Model | None, clip: Clip | None) -> list[tuple[Pairs, nn.Module]]:
    """The updates of each network that is there, with the network."""
    parts: list[tuple[Pairs, nn.Module]] = [] if model is None else [(resolution.model, model.model)]
    return parts if clip is None else [*parts, (resolution.clip, clip.cond_stage_model)]
