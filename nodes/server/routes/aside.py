"""Work of the routes beside the server's loop, so that everybody else is answered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
WORKERS = 2
"""Each thread that computes may keep the loop waiting for one switch between threads, which is 5 ms in Python."""


@cache
def _threads(kind: str, workers: int) -> ThreadPoolExecutor:
    """Threads of our own: the host's are for what the host does."""
    return ThreadPoolExecutor(workers, thread_name_prefix=f"krona-{kind}")


async def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a function that reads files or computes, called in a thread."""
    return await asyncio.get_running_loop().run_in_executor(_threads("routes", WORKERS), partial(work, *args, **kwargs))


async def aside_for_uploads(workers: int, work: Callable[..., T], *args: object) -> T:
    """As `aside`, in threads that no other route waits for: uploads wait for disks, and for one another."""
    return await asyncio.get_running_loop().run_in_executor(_threads("uploads", workers), partial(work, *args))
