"""What the pack's pages ask the server for, below ``/krona/``; docs/api.md describes it."""

from __future__ import annotations

import asyncio

from server import PromptServer

from . import adapters, runs, upload
from .storage import SECONDS_UNTIL_STALE


def register() -> None:
    """Add the routes, in the server's loop and before the host adds its own."""
    routes = PromptServer.instance.routes
    routes.get("/krona/adapter")(adapters.describe)
    routes.get("/krona/adapter/thumbnail")(adapters.thumbnail)
    routes.post("/krona/adapters")(upload.receive)
    routes.get("/krona/runs")(runs.overview)
    routes.get("/krona/runs/{id:[^/]+}")(runs.one)
    routes.get(r"/krona/runs/{id:[^/]+}/previews/{step:\d{1,9}}/{number:\d{1,4}}")(runs.preview)
    routes.post("/krona/runs/{id:[^/]+}/requests")(runs.request)
    _sweep_soon(asyncio.get_running_loop())


def _sweep_soon(loop: asyncio.AbstractEventLoop) -> None:
    """Remove what uploads of an earlier start have left: what is old now, and in a minute what is too young to tell."""
    loop.run_in_executor(None, upload.sweep)
    loop.call_later(SECONDS_UNTIL_STALE + 1.0, lambda: loop.run_in_executor(None, upload.sweep))
