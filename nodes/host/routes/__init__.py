"""What the pack's pages ask the server for, below ``/krona/``; docs/api.md describes it."""

from __future__ import annotations

from server import PromptServer

from . import adapters, runs, upload


def register() -> None:
    """Add the routes; called before the host adds its own."""
    routes = PromptServer.instance.routes
    routes.get("/krona/adapter")(adapters.describe)
    routes.get("/krona/adapter/thumbnail")(adapters.thumbnail)
    routes.post("/krona/adapters")(upload.receive)
    routes.get("/krona/runs")(runs.overview)
    routes.get("/krona/runs/{id:[^/]+}")(runs.one)
    routes.get(r"/krona/runs/{id:[^/]+}/previews/{step:\d{1,9}}/{number:\d{1,4}}")(runs.preview)
    routes.post("/krona/runs/{id:[^/]+}/requests")(runs.request)
