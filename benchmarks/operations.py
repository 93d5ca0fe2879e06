"""How many operations a device is given: what counts where Python cannot give them as fast as they are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

NOTHING = ("aten::empty", "aten::new_empty", "aten::_unsafe_view")
"""Operations that compute nothing."""


class Operations(TorchDispatchMode):
    """Counts what a device would compute: no views, no memory without numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)
        self.count += not is_view and not func._schema.name.startswith(NOTHING)
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], object]) -> int:
    """How many of them some work gives to the device."""
    with Operations() as seen:
        work()
    return seen.count
