"""Answers of every route: values as JSON, pictures as what they are, and errors as JSON with a fitting status."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps

from aiohttp import web

from krona_ops.errors import KronaError
from krona_ops.formats.metadata import picture_type
from krona_ops.shown import printable, shown

from ..public import without_folders

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
UNREADABLE = 422
"""The status of an error of the pack's own that has none: the request was right, the file that it is about is not."""


class Refused(KronaError):  # noqa: N818 (it reads as what happened)
    """A request that is refused, with the status of the answer.

    Args:
        status: HTTP's.
    """

    def __init__(self, status: int, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


def answering(handler: Handler) -> Handler:
    """The handler with every error answered as JSON."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as error:
            return _error(error.status, type(error).__name__, str(error))
        except KronaError as error:
            return _error(UNREADABLE, type(error).__name__, without_folders(str(error)))
        except web.HTTPException as error:
            return _error(error.status, type(error).__name__, error.reason)
        except OSError as error:  # what was there a moment ago is gone, or may not be read
            reason = error.strerror or type(error).__name__
            message = f"A file cannot be read: {reason}. Look whether it is still there, and try again."
            return _error(UNREADABLE, "Unreadable", message)
        except Exception as error:  # noqa: BLE001 (it is logged below, without the signs that a terminal obeys)
            log.error(
                "KronA: %s %s is not answered.\n%s",
                request.method,
                shown(request.path, 200),
                printable(traceback.format_exc(), keep="\n"),
            )
            kind = type(error).__name__
            message = f"What this is about cannot be read ({kind}). The server's log says more; please report it."
            return _error(UNREADABLE, "Unreadable", message)

    return answer


def _error(status: int, kind: str, message: str) -> web.Response:
    return web.json_response({"error": {"type": kind, "message": message or kind}}, status=status)


def text_of(value: object) -> str:
    """A value as JSON; what a browser cannot read is written as escapes."""
    return json.dumps(value, separators=(",", ":"))


def encoded(value: Mapping[str, object]) -> bytes:
    """A mapping as JSON, its lists item by item: Python lets no other thread run while it writes one value."""
    return f"{{{','.join(f'{text_of(key)}:{_item(item)}' for key, item in value.items())}}}".encode()


def _item(value: object) -> str:
    return f"[{','.join(map(text_of, value))}]" if isinstance(value, list) else text_of(value)


def as_json(body: bytes, status: int = 200) -> web.Response:
    """An answer of JSON, as `encoded` makes it."""
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


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
