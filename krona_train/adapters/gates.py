"""Which adapters of a bank count right now, how much, with which parts, and what parallel branches attend to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from torch import Tensor

from krona_ops import LayerName
from krona_ops.names.branches import Mode

from ..settings.groups import MAIN

Gate: TypeAlias = Tensor | None
"""``(B,)``, what each sample's update is multiplied by; ``None`` for all of it."""
_ALONE: Mapping[str, Gate] = MappingProxyType({MAIN: None})


@dataclass(frozen=True, eq=False)
class Recording:
    """What each self-attention reads is written down; the branches themselves do nothing."""

    tokens: dict[LayerName, Tensor]
    """By the attention's name, ``(B, N, d)``; empty before the pass."""


@dataclass(frozen=True, eq=False)
class Attending:
    """What the branches attend to in a pass of whole groups."""

    mode: Mode
    views: int
    """Samples of a group."""
    space: tuple[int, int]
    """Height and width of the latents."""
    tokens: Mapping[LayerName, Tensor] | None = None
    """By the attention's name, ``(G, M, d)`` of each group's references."""


Beside: TypeAlias = Recording | Attending
"""What parallel branches do in a pass."""


class _State(NamedTuple):
    """What `Gates` say at one moment."""

    now: Mapping[str, Gate]
    beside: Beside | None
    drawn: Tensor | None
    rows: Callable[[], Tensor | None]


class Gates:
    """Which adapters the model computes with right now, and how much: a value, not a second copy of the model.

    Args:
        rows: Which samples of the batch are being computed, `Backbone.rows`.
    """

    def __init__(self, rows: Callable[[], Tensor | None] = lambda: None) -> None:
        self._state = _State(_ALONE, None, None, rows)

    @property
    def now(self) -> Mapping[str, Gate]:
        """The adapters that count, by name."""
        return self._state.now

    @property
    def beside(self) -> Beside | None:
        """What parallel branches do right now; ``None`` where they do nothing."""
        return self._state.beside

    @property
    def drawn(self) -> Tensor | None:
        """For each factor that is trained in parts, the number of the part that is computed with; ``None`` for all of
        them: the factors themselves."""
        return self._state.drawn

    @property
    def rows(self) -> Tensor | None:
        """The samples that are being computed, by their numbers; ``None`` for all of them in order."""
        return self._state.rows()

    def only(self, gates: Mapping[str, Gate]) -> AbstractContextManager[None]:
        """Inside, these adapters count and no others; none at all where there are none. It can be entered again."""
        return _Set(self, lambda: self._state._replace(now=MappingProxyType(dict(gates))))

    def attending(self, beside: Beside | None) -> AbstractContextManager[None]:
        """Inside, parallel branches do this."""
        return _Set(self, lambda: self._state._replace(beside=beside))

    def drawing(self, drawn: Tensor | None) -> AbstractContextManager[None]:
        """Inside, factors that are trained in parts count with these parts alone."""
        return _Set(self, lambda: self._state._replace(drawn=drawn))

    def pinned(self) -> AbstractContextManager[None]:
        """What a backward pass must enter to compute again what is computed now.

        By then other adapters and parts may count, branches may attend to something else, and other samples may be
        computed.
        """
        state, rows = self._state, self.rows
        return _Set(self, lambda: state._replace(rows=lambda: rows))

    def gate(self, adapter: str) -> Gate:
        """The gate of an adapter that counts, for the samples that are being computed."""
        gate = self._state.now[adapter]
        rows = None if gate is None else self._state.rows()
        return gate if gate is None or rows is None else gate[rows]


class _Set(AbstractContextManager[None]):
    """Gates set to something, for the length of a block."""

    def __init__(self, gates: Gates, wanted: Callable[[], _State]) -> None:
        self._gates, self._wanted = gates, wanted
        self._before: list[_State] = []

    def __enter__(self) -> None:
        self._before.append(self._gates._state)
        self._gates._state = self._wanted()

    def __exit__(self, *exception: object) -> None:
        self._gates._state = self._before.pop()
