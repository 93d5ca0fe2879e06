"""Change what a layer of a shared model computes, and leave no trace afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]
"""``forward(original, x, *args, **kwargs)``: called instead of the module's own, which it gets as its first argument."""


class ForwardPatch:
    """Replaces one module's ``forward`` until it is detached.

    ``forward`` becomes an attribute of the instance, which hides the class's method; taking it away restores the module
    exactly. If somebody else has replaced it in between, theirs stays and ours becomes a plain pass-through: other
    tools put back what they found, in any order, and a dead link in that chain would break the shared model.
    """

    def __init__(self, module: nn.Module, forward: Forward) -> None:
        self._module, self._forward = module, forward
        self._original: Callable[..., Any] | None = None
        self._hidden: object = None

    def attach(self) -> None:
        """Start; does nothing when already attached."""
        if self._original is not None:
            return
        self._hidden = self._module.__dict__.get("forward")
        original = self._original = self._module.forward

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._original is not original:  # detached while somebody else still calls us
                return original(*args, **kwargs)
            return self._forward(original, *args, **kwargs)

        self._call = call
        self._module.forward = call  # type: ignore[method-assign]

    def detach(self) -> None:
        """Stop; does nothing when not attached."""
        if self._original is None:
            return
        self._original = None
        if self._module.__dict__.get("forward") is not self._call:
            return
        if self._hidden is None:
            del self._module.forward
        else:
            self._module.forward = self._hidden  # type: ignore[assignment]


@contextmanager
def patched(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Patch some modules for the length of a ``with`` block."""
    patches = [ForwardPatch(module, forward) for module, forward in forwards.items()]
    try:
        for patch in patches:
            patch.attach()
        yield
    finally:
        for patch in reversed(patches):
            patch.detach()
