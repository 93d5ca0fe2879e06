"""The kind that all nodes of the pack are: what their errors say is fit for whoever is at the other end of the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from comfy_api.latest import io

from krona_ops.errors import KronaError

from .server.public import without_folders


class Node(io.ComfyNode):
    """A node whose errors name no folder of this computer: the host shows them to everybody who asks it for its history."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        execute = vars(cls).get("execute")
        if isinstance(execute, classmethod) and not hasattr(
            execute.__func__, "__wrapped__"
        ):  # the host copies classes as they are
            cls.execute = classmethod(_fit_for_others(execute.__func__))


def _fit_for_others(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    @wraps(execute)
    def wrapped(*args: Any, **kwargs: Any) -> io.NodeOutput:
        try:
            return execute(*args, **kwargs)
        except KronaError as error:
            error.args = (without_folders(str(error)),)
            raise

    return wrapped
