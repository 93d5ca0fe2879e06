"""Whether what is attached to the layers of a model is really used while the model runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from torch import nn
from torch.utils.hooks import RemovableHandle

from .attach import ForwardPatch

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
SHOWN = 4


class Reach:
    """Counts, from `begin` to `end`, which patches are used, and tells which are passed by.

    Passed by is a layer that is not reached while the part of the model around it runs: that code reads the layer's
    weight in a way of its own, and the change is lost. A layer whose whole part stands still (the branch for sound of a
    picture, an expert that is not asked, a block that is skipped) is left alone.
    """

    def __init__(self) -> None:
        self._patches: Mapping[str, ForwardPatch] = {}
        self._owners: dict[str, str] = {}
        self._modules: dict[str, nn.Module] = {}
        self._handles: list[RemovableHandle] = []
        self._reached: set[str] = set()
        self._ran: dict[str, bool] = {}
        self._is_counting = False

    def attach(self, module: Callable[[str], nn.Module], patches: Mapping[str, ForwardPatch]) -> None:
        """Count these patches, from now on where `begin` was called.

        Args:
            module: From a path in the model to what is there.
            patches: By the layer's path.
        """
        self._patches = patches
        modules = {name: _owner(module, name) for name in patches}
        self._owners = {name: path for name, (path, _) in modules.items()}
        self._modules = dict(modules.values())
        if self._is_counting:
            self._listen()

    def detach(self) -> None:
        """Let go of the patches, which are taken off, perhaps only for a while; what has been counted stays."""
        self._collect()
        self._patches = {}

    def begin(self) -> None:
        """Forget what was counted and count from now on."""
        self._reached.clear()
        self._ran.clear()
        for patch in self._patches.values():
            patch.is_reached = False
        self._is_counting = True
        self._listen()

    def end(self) -> tuple[str, ...]:
        """The layers that were passed by since `begin`; none where nothing was counted."""
        self._collect()
        if not self._is_counting:
            return ()
        self._is_counting = False
        around = self._ran.keys() | {self._owners[name] for name in self._reached if name in self._owners}
        return tuple(name for name, owner in self._owners.items() if name not in self._reached and owner in around)

    def counted(self, function: Callable[P, T], what: str) -> Callable[P, T]:
        """The function, which in its first call also finds out which layers are passed by, and warns of them.

        Args:
            what: Who does it, with the verb: ``previews do``.
        """
        is_first = True

        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            nonlocal is_first
            if not is_first:
                return function(*args, **kwargs)
            is_first = False
            self.begin()
            try:
                return function(*args, **kwargs)
            finally:
                if missed := self.end():
                    log.warning(
                        "KronA: %s without %d adapted layer(s), whose weights this model reads in a way of its own: %s",
                        what,
                        len(missed),
                        some(missed),
                    )

        return call

    def _listen(self) -> None:
        self._silence()
        for path, module in self._modules.items():
            self._handles.append(module.register_forward_pre_hook(_noting(path, self._ran)))

    def _silence(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _collect(self) -> None:
        self._silence()
        self._reached |= {name for name, patch in self._patches.items() if patch.is_reached}


def _noting(path: str, ran: dict[str, bool]) -> Callable[[nn.Module, object], None]:
    def note(module: nn.Module, args: object) -> None:
        ran[path] = True

    return note


def _owner(module: Callable[[str], nn.Module], name: str) -> tuple[str, nn.Module]:
    """Path and module of what calls a layer: the nearest one above it that is no plain list of others."""
    path = name.rpartition(".")[0]
    while path and type(module(path)) in (nn.ModuleList, nn.ModuleDict, nn.Sequential):
        path = path.rpartition(".")[0]
    return path, module(path)


def some(names: tuple[str, ...]) -> str:
    """The first `SHOWN` of many names, for a message."""
    return f"{', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}"
