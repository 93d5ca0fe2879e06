"""The base class of all nodes: errors without this computer's folders."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from comfy_api.latest import io

from krona_ops.errors import KronaError

from .server.public import without_folders


class Node(io.ComfyNode):
    """A node whose errors name no folder of this computer: the host shows them to all who ask for its history."""

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        execute = vars(cls).get("execute")
        # The host copies classes as they are: a copy's method is wrapped already.
        if isinstance(execute, classmethod) and not hasattr(execute.__func__, "__wrapped__"):
            cls.execute = classmethod(_fit_for_others(execute.__func__))


def _fit_for_others(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    @wraps(execute)
    def wrapped(*args: object, **kwargs: object) -> io.NodeOutput:
        try:
            return execute(*args, **kwargs)
        except KronaError as error:
            error.args = (without_folders(str(error)),)
            raise

    return wrapped
