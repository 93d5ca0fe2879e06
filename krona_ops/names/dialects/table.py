"""Rules that say what another tool calls the layers of a family of models, as data: see `Table`."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

_NUMBER = re.compile(r"\d+")
_BRACES = re.compile(r"\{([^{}]*)\}")
_ORDER = re.compile(r"^<([\d ]+)> ")

SWAPPED = "<1 0> "
"""In front of a name: the halves of the rows the other way round, as diffusers keeps scale before shift."""


@dataclass(frozen=True)
class OtherName:
    """A name that another tool has for a layer, or for some of its rows."""

    name: str
    part: int = 0
    """Which of the parts that the other tool keeps apart."""
    parts: int = 1
    order: tuple[int, ...] | None = None
    """Where the other tool's blocks of rows are in the model's weight, where it has them in another order."""


@dataclass(frozen=True)
class Table:
    """What the layers of one kind of model are called elsewhere.

    In ``names`` a ``#`` is a number, the same on both sides. A name with braces is several, in the order of their rows
    in the model's one weight: ``"attn.to_{q|k|v}"``. ``<1 0> name`` is a weight whose blocks of rows are in another
    order there: its first block is the model's block 1. Several names for one layer are a tuple.
    """

    signs: tuple[str, ...]
    """Layers, one of which every such model has, and no other kind."""
    names: Mapping[str, str | tuple[str, ...]]
    roots: tuple[tuple[str, str], ...] = ()
    """Beginnings of paths, and what stands there elsewhere; the rest of the path may then be renamed too."""
    source: str = field(default="", kw_only=True)
    """Where the names are from."""

    def fits(self, layers: Container[str]) -> bool:
        """Whether a model with these layers is of this kind."""
        return any(sign in layers for sign in self.signs)

    def of(self, path: str) -> Iterator[OtherName]:
        """The names of one layer, by its path inside the model."""
        for pattern, names in self._rules.get(_NUMBER.sub("#", path), ()):
            if match := pattern.fullmatch(path):
                for name in names:
                    yield from _expanded(name, match.groups())

    def rooted(self, path: str) -> Iterator[str]:
        """The path of a layer with each beginning that other tools have for it (``roots``)."""
        if path.startswith(self._beginnings):
            yield from (theirs + path[len(ours) :] for ours, theirs in self.roots if path.startswith(ours))

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        return tuple(ours for ours, _ in self.roots)

    @cached_property
    def _rules(self) -> Mapping[str, list[tuple[re.Pattern[str], tuple[str, ...]]]]:
        """By the path with every number left open, so that a layer is looked up and not compared with each rule."""
        rules: dict[str, list[tuple[re.Pattern[str], tuple[str, ...]]]] = {}
        for ours, theirs in self.names.items():
            pattern = re.compile(re.escape(ours).replace(r"\#", r"(\d+)"))
            rules.setdefault(_NUMBER.sub("#", ours), []).append(
                (pattern, (theirs,) if isinstance(theirs, str) else theirs)
            )
        return rules


def _expanded(template: str, numbers: tuple[str, ...]) -> Iterator[OtherName]:
    order = _ORDER.match(template)
    name = template[order.end() :] if order else template
    for number in numbers:
        name = name.replace("#", number, 1)
    braces = _BRACES.search(name)
    parts = braces[1].split("|") if braces else [""]
    blocks = tuple(map(int, order[1].split())) if order else None
    for n, part in enumerate(parts):
        yield OtherName(_BRACES.sub(part, name), n, len(parts), blocks)
