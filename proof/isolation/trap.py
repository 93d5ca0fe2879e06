"""Making a node fail in its middle: at some operation of torch, or at some call inside the pack."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tools.comfyui.server import PACK

from ..inside import host_nodes

Act = Callable[[], None]
_OURS = tuple(str(PACK / package) for package in ("krona_ops", "krona_host", "krona_train", "nodes"))


class Operations(TorchDispatchMode):
    """Counts the operations that need new memory while one node executes, and acts at some of them,
    as an allocator does that has no more.

    Args:
        node: Its id.
        at: The number of the first operation to act at; ``None`` counts only.
        times: At how many in a row.
    """

    def __init__(self, node: str, at: int | None = None, act: Act = lambda: None, times: int = 1) -> None:
        super().__init__()
        self._node, self._at, self._act, self._times = node, at, act, times
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _allocates(func) and executing() == self._node:
            self.count += 1
            if self._at is not None and self._at < self.count <= self._at + self._times:
                self._act()
        return func(*args, **(kwargs or {}))


def _allocates(func: Any) -> bool:
    schema = func._schema
    return not schema.is_mutable and all(result.alias_info is None for result in schema.returns)


class Calls:
    """The same for the pack's own functions, for nodes that compute nothing: counts calls, and acts at one of them."""

    def __init__(self, node: str, at: int | None = None, act: Act = lambda: None) -> None:
        self._node, self._at, self._act = node, at, act
        self.count = 0

    def __enter__(self) -> Calls:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_OURS) and executing() == self._node:
            self.count += 1
            if self._at is not None and self.count == self._at + 1:
                self._act()


def executing() -> str | None:
    """The node that the host executes at the moment."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    return None if context is None else context.node_id


def interrupt() -> None:
    """What the host's cancel button does."""
    host_nodes().interrupt_processing()


def out_of_memory() -> None:
    """As an accelerator says it."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB (on purpose).")


def out_of_memory_on_the_cpu() -> None:
    """As torch says it there."""
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 20 bytes (on purpose)."
    )


def error() -> None:
    """Some other error of torch."""
    raise RuntimeError(
        "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0 (on purpose)"
    )
