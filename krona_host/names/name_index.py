"""A model's layers by every name that some tool has for them; asked where the host's own key map lacks a name."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from torch import nn

from krona_ops.names.dialects import OtherName, Table, table_of
from krona_ops.names.spellings import Projection, flat, part_names, projection, renamed, split_names, usual_names

from ..model.layer_shape import layer_shape
from .sites import Site, reordered

Place = tuple[Site, ...]
"""Where a layer goes: one weight; or several, in the file's order of rows, where the file has in one what the model has
apart."""

_ROOT = "diffusion_model."
_HOST_PREFIXES = (
    "lora_unet_", "lora_prior_unet_", "lora_transformer_", "lycoris_", "base_model.model.", "diffusion_model.",
    "transformer.", "unet.",
)  # fmt: skip
_ENCODERS = ("clip_l", "clip_g", "clip_h", "t5xxl", "t5xl", "t5base")
"""The order in which trainers count text encoders; others follow."""
_LIBRARYS = ("text_model.", "model.", "language_model.", "bert.")
"""What transformers puts in front of a text encoder's layers."""


class NameIndex:
    """Places by flat names (`krona_ops.names.spellings.flat`): sure ones, and those that diffusers' habits suggest."""

    def __init__(self) -> None:
        self._sure: dict[str, dict[Place, None]] = {}
        self._likely: dict[str, dict[Place, None]] = {}

    @classmethod
    def of_model(cls, model: nn.Module, host_names: Mapping[str, Site]) -> NameIndex:
        """Of a diffusion model: its module paths, the host's names with any prefix, other tools' names of its layers."""
        index = cls()
        layers = _layers(model, _ROOT)
        for path in layers:
            index._add(path, Site(f"{_ROOT}{path}.weight"))
        for name, site in dict.fromkeys((_bare(name), site) for name, site in host_names.items()):
            index._add(name, site)
        table = table_of(layers)
        for path in layers:
            index._suggest_names(path, path, layers, table)
            for spelled in table.rooted(path) if table else ():
                index._suggest(spelled, Site(f"{_ROOT}{path}.weight"))
                index._suggest_names(path, spelled, layers, table)
        return index

    def _suggest_names(
        self, path: str, spelled: str, layers: Mapping[str, tuple[int, ...]], table: Table | None
    ) -> None:
        for name, site in _usual(path, spelled, layers):
            self._suggest(name, site)
        for other in table.of(spelled) if table else ():
            place = _site(path, other, layers)
            if place is not None:
                self._suggest(other.name, place)

    @classmethod
    def of_text_encoders(cls, model: nn.Module) -> NameIndex:
        """Of all text encoders of a ``CLIP``: their paths, with and without what host and library put in front."""
        index = cls()
        for path in _layers(model, ""):
            site = Site(f"{path}.weight")
            index._add(path, site)
            _, outer, inner = path.partition(".transformer.")
            while outer:
                index._add(inner, site)
                outer = next((part for part in _LIBRARYS if inner.startswith(part)), "")
                inner = inner.removeprefix(outer)
        return index

    def find(self, names: tuple[str, ...]) -> Iterator[list[Place]]:
        """Places that one of a layer's names may mean, the surest group first; the order of the groups decides."""
        for table in (self._sure, self._likely):
            places = {place: None for name in names for place in table.get(renamed(name), ())}
            if places:
                yield list(places)
        apart = {place: None for name in names for place in self._apart(name)}
        if apart:
            yield list(apart)

    def entries(self, several: bool = False) -> Iterator[tuple[str, Place]]:
        """Every flat name with its place, the sure ones first.

        Args:
            several: Also names that mean several places, once with each.
        """
        for table in (self._sure, self._likely):
            for name, places in table.items():
                if several or len(places) == 1:
                    yield from ((name, place) for place in places)

    def _apart(self, name: str) -> Iterator[Place]:
        """The places of a fused layer's parts."""
        for parts in split_names(name):
            sites = [self._single(part) for part in parts]
            if None not in sites:
                yield _joined(tuple(site for site in sites if site))

    def _single(self, name: str) -> Site | None:
        for table in (self._sure, self._likely):
            places = table.get(name)
            if places:
                return next(iter(places))[0] if len(places) == 1 else None
        return None

    def _add(self, name: str, site: Site) -> None:
        self._sure.setdefault(flat(name), {})[(site,)] = None

    def _suggest(self, name: str, site: Site) -> None:
        self._likely.setdefault(flat(name), {})[(site,)] = None
        if name.endswith(".to_out.0"):
            self._suggest(name[:-2], site)


def encoder_of(place: Place) -> str:
    """The text encoder that a place is in."""
    return place[0].key.partition(".")[0]


def of_encoder(places: list[Place], number: int) -> list[Place]:
    """Those in the text encoder that a trainer counts as the ``number``-th, from 1.

    Only encoders that have such a layer are counted.
    """

    def order(encoder: str) -> tuple[int, str]:
        return _ENCODERS.index(encoder) if encoder in _ENCODERS else 99, encoder

    encoders = sorted({encoder_of(place) for place in places}, key=order)
    wanted = encoders[min(number, len(encoders)) - 1]
    return [place for place in places if encoder_of(place) == wanted]


def _bare(name: str) -> str:
    for prefix in _HOST_PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def _layers(model: nn.Module, root: str) -> dict[str, tuple[int, ...]]:
    return {
        path[len(root) :]: shape
        for path, module in model.named_modules()
        if path.startswith(root) and (shape := layer_shape(module)) is not None
    }


def _usual(path: str, spelled: str, layers: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Site]]:
    """The names that an attention's projections, fused or not, have nearly everywhere."""
    key = f"{_ROOT}{path}.weight"
    for name in usual_names(spelled):
        yield name, Site(key)
    kind = projection(path)
    sizes = _sizes(path, kind, layers) if kind in ("qkv", "kv") else None
    if kind and sizes:
        for name, part in part_names(spelled, kind):
            n = kind.index(part)
            yield name, Site(key, (0, sum(sizes[:n]), sizes[n]))
        if path.endswith(".linear1"):
            yield f"{spelled}_qkv", Site(key, (0, 0, sum(sizes)))


def _site(path: str, other: OtherName, layers: Mapping[str, tuple[int, ...]]) -> Site | None:
    """Where a name of a table goes; nothing where it is a part and it is not known how the rows are divided."""
    key, height = f"{_ROOT}{path}.weight", layers[path][0]
    if other.parts == 1:
        return Site(key, None, reordered(other.order) if other.order else None)
    kind = projection(path)
    sizes = _sizes(path, kind, layers) if kind in ("qkv", "kv") else (height // other.parts,) * other.parts
    if sizes is None:
        return None
    if other.parts == len(sizes) + 1:  # what stands behind q, k and v
        sizes = (*sizes, height - sum(sizes))
    return Site(key, (0, sum(sizes[: other.part]), sizes[other.part]))


def _sizes(path: str, kind: Projection, layers: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Rows of q, k and v in a fused layer (of k and v if ``kind`` is ``kv``); ``None`` where they cannot be told.

    The output's input is as wide as q; k and v are as wide, or narrower where heads share them.
    """
    total, width = layers[path][:2]
    if path.endswith(".linear1"):  # a Flux-type single block, the MLP's half behind q, k and v
        return (width, width, width) if total > 3 * width else None
    parent = path.rpartition(".")[0]
    inner = {layers[other][1] for other in _siblings(parent, layers) if projection(other) == "out"}
    width_of_out = inner.pop() if len(inner) == 1 else None
    q = width_of_out or total // (2 if kind == "kv" else 3)
    rest = total if kind == "kv" else total - q
    if rest % 2 or rest <= 0 or q % (rest // 2):
        return None
    return (rest // 2, rest // 2) if kind == "kv" else (q, rest // 2, rest // 2)


def _siblings(parent: str, layers: Container[str]) -> Iterator[str]:
    for leaf in ("proj", "out", "to_out", "to_out.0", "out_proj", "o", "o_proj", "proj_x", "to_add_out", "output_proj"):
        if f"{parent}.{leaf}" in layers:
            yield f"{parent}.{leaf}"


def _joined(sites: tuple[Site, ...]) -> Place:
    """The parts as one piece where they lie one behind the other in one weight."""
    offsets = [site.offset for site in sites if site.offset is not None]
    is_in_one = len({site.key for site in sites}) == 1 and len(offsets) == len(sites)
    if not is_in_one or any(site.function for site in sites):
        return sites
    start, length = offsets[0][1], 0
    for _, begin, size in offsets:
        if begin != start + length:
            return sites
        length += size
    return (Site(sites[0].key, (0, start, length)),)
