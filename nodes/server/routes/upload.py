"""An adapter from the browser: the request is checked first, then the file while it comes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from aiohttp import web
from server import PromptServer

from krona_ops.shown import shown

from .. import paths
from .answers import Refused, answering, as_json, encoded
from .aside import aside, aside_for_uploads
from .origin import require_a_page_of_ours
from .pace import Place, Places
from .storage import Incoming, checked_name, is_full, remove_stale

SETTING = "KronA.Uploads.LargestFile"
KIND = "application/octet-stream"
"""The only type of a body that is taken. A page of another site cannot send it without asking first."""
MEGABYTE = 1_000_000
LARGEST = 4096.0
"""Megabytes, where the user has not set them."""
AT_ONCE = 8
MOST_MEGABYTES = 1e12
"""What a setting can say; more is nonsense."""
ROOM_TO_SPARE = 64 * MEGABYTE
_places = Places(AT_ONCE)


@answering
async def receive(request: web.Request) -> web.Response:
    """``POST /krona/adapters?name=``"""
    require_a_page_of_ours(request)
    size = await _announced(request)
    name = checked_name(request.query.get("name", ""))
    with _places.one(size) as place:
        try:
            folder = await aside_for_uploads(AT_ONCE, _prepared_folder)
            stored, is_new = await _store(request, place, folder, name, size)
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise _broken() from error
            status = 507 if is_full(error) else 422
            reason = error.strerror or type(error).__name__
            raise Refused(status, f"The file cannot be written: {reason}.", remedy="Nothing was kept.") from error
    return as_json(encoded({"name": stored, "is_new": is_new}))


async def _announced(request: web.Request) -> int:
    """How many bytes the body says that it has.

    Raises:
        Refused: It does not say, or is of another kind or too long.
    """
    # As it was sent: aiohttp takes a missing or unreadable type for this very one.
    content_type = request.headers.get("Content-Type", "")
    if content_type.partition(";")[0].strip().lower() != KIND:
        raise Refused(
            415, f"The body is {shown(content_type) or 'of no type'}.", remedy=f"Send the file itself, as {KIND}."
        )
    if request.content_length is None:
        raise Refused(400, "The length of the file is not known.", remedy="Send it with a Content-Length.")
    largest = await aside(_largest, request)
    if request.content_length > largest * MEGABYTE:
        raise Refused(
            413,
            f"The file has {request.content_length / MEGABYTE:,.0f} MB, more than the {largest:,.0f} MB that are "
            "allowed.",
            remedy='Raise "KronA: Largest file to upload" in the settings, or copy the file into models/krona '
            "yourself.",
        )
    return request.content_length


def _largest(request: web.Request) -> float:
    settings = PromptServer.instance.user_manager.settings.get_settings(request)
    limit = settings.get(SETTING) if isinstance(settings, dict) else None
    if isinstance(limit, int | float) and not isinstance(limit, bool) and 0 < limit < math.inf:
        return float(min(limit, MOST_MEGABYTES))
    return LARGEST


def sweep() -> None:
    """Remove what uploads have left that a crash has ended; where there is no folder for them yet, none is made."""
    remove_stale(paths.upload_place())


def _prepared_folder() -> Path:
    folder = paths.upload_folder()
    remove_stale(folder)
    needed, free = _places.announced() + ROOM_TO_SPARE, shutil.disk_usage(folder).free
    if free < needed:
        raise Refused(
            507,
            f"There are {free / MEGABYTE:,.0f} MB left on the disk, {needed / MEGABYTE:,.0f} MB are needed.",
            remedy="Free some space.",
        )
    return folder


async def _store(request: web.Request, place: Place, folder: Path, name: str, size: int) -> tuple[str, bool]:
    """Write what comes; nothing of it stays if it is refused, or if the connection breaks."""
    incoming = await aside_for_uploads(AT_ONCE, Incoming, folder, name, size)
    try:
        while data := await _next(request, place):
            await aside_for_uploads(AT_ONCE, incoming.write, data)
        return await aside_for_uploads(AT_ONCE, incoming.place)
    finally:
        await aside_for_uploads(AT_ONCE, incoming.discard)


async def _next(request: web.Request, place: Place) -> bytes:
    """What has come since; nothing at the end.

    Raises:
        Refused: It comes too slowly, or the connection broke.
    """
    try:
        return await place.next(request.content.readany)
    except (web.RequestPayloadError, ConnectionError) as error:
        raise _broken() from error


def _broken() -> Refused:
    return Refused(400, "The connection broke before the file was whole.", remedy="Upload it again.")
