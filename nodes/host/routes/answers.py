"""Answers of every route: values as JSON, pictures as what they are, and errors as JSON with a fitting status."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps

from aiohttp import web

from krona_ops.errors import KronaError
from krona_ops.metadata import picture_type

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
UNREADABLE = 422
"""The status of an error of the pack's own that has none: the request was fine, what it is about is not."""


class Refused(KronaError):  # noqa: N818 (it reads as what happened)
    """A request that is not answered as it wishes.

    Args:
        status: HTTP's.
    """

    def __init__(self, status: int, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


def answering(handler: Handler) -> Handler:
    """The handler, with every error as JSON."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as error:
            return _error(error.status, error)
        except KronaError as error:
            return _error(UNREADABLE, error)
        except web.HTTPException as error:
            return _error(error.status, error)
        except Exception as error:
            log.exception("KronA: %s %s", request.method, request.path)
            return _error(500, error)

    return answer


def _error(status: int, error: Exception) -> web.Response:
    told = {"type": type(error).__name__, "message": str(error) or type(error).__name__}
    return web.json_response({"error": told}, status=status)


def picture(data: bytes | None, missing: str) -> web.Response:
    """A picture; nothing else is ever sent as one.

    Raises:
        Refused: There is none, or it is no picture that browsers show.
    """
    kind = picture_type(data) if data is not None else None
    if data is None or kind is None:
        raise Refused(404, missing, remedy="Nothing needs to be done; one that is saved later will be found here.")
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return web.Response(body=data, content_type=kind, headers=headers)
