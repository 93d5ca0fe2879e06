"""Serve the pack's web folder where the host cannot: below a folder name that a URL has to quote.

The host registers ``/extensions/<folder>`` as a static route; aiohttp quotes that prefix but compares it with the
unquoted path of a request, so nothing below "my pack" is ever found. A route with the name as a pattern is compared
unquoted.
"""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path

from aiohttp import web
from server import PromptServer

PACK = Path(__file__).absolute().parents[2]
WEB = PACK / "web"


def serve_web_folder() -> None:
    """Add the route if the pack's folder name needs it; called before the host adds its own."""
    if urllib.parse.quote(PACK.name) == PACK.name:
        return
    name = "".join(f"[{c}]" if c.isspace() else re.escape(c) for c in PACK.name)
    PromptServer.instance.routes.get(f"/extensions/{{pack:{name}}}/{{path:.+}}")(_send)


async def _send(request: web.Request) -> web.StreamResponse:
    root = WEB.resolve()
    file = (root / request.match_info["path"]).resolve()
    if not file.is_relative_to(root) or not file.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(file)
