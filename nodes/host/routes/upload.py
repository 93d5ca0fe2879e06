"""An adapter from the browser: the request is checked first, then the file while it comes."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web
from server import PromptServer

from .. import paths
from .answers import Refused, answering
from .storage import Incoming, checked_name, is_full, remove_stale

SETTING = "KronA.Uploads.LargestFile"
MEGABYTE = 1_000_000
LARGEST = 4096.0
"""Megabytes, where the user has not set them."""
AT_ONCE = 8
SECONDS_WITHOUT_A_BYTE = 60.0
ROOM_TO_SPARE = 64 * MEGABYTE
_on_their_way: dict[object, int] = {}
"""Bytes of each upload that goes on."""


@answering
async def receive(request: web.Request) -> web.Response:
    """``POST /krona/adapters?name=``"""
    size = await _announced(request)
    name = checked_name(request.query.get("name", ""))
    with _a_place(size):
        try:
            folder = await asyncio.to_thread(_prepared_folder)
            found, is_new = await _store(request, folder, name, size)
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise Refused(400, "The connection broke before the file was whole.", remedy="Upload it again.") from error
            status = 507 if is_full(error) else 500
            raise Refused(
                status, f"The file cannot be written: {error.strerror or error}.", remedy="Nothing was kept."
            ) from error
    return web.json_response({"name": found, "is_new": is_new})


async def _announced(request: web.Request) -> int:
    """How long the body says that it is.

    Raises:
        Refused: It does not say, or is of another kind or too long.
    """
    if request.content_type != "application/octet-stream":
        raise Refused(415, f"The body is {request.content_type}.", remedy="Send the file itself, as application/octet-stream.")
    if request.content_length is None:
        raise Refused(400, "The length of the file is not known.", remedy="Send it with a Content-Length.")
    largest = await asyncio.to_thread(_largest, request)
    if request.content_length > largest * MEGABYTE:
        raise Refused(
            413,
            f"The file has {request.content_length / MEGABYTE:,.0f} MB, more than the {largest:,.0f} MB that are allowed.",
            remedy='Raise "KronA: Largest file to upload" in the settings, or copy the file into models/krona yourself.',
        )
    return request.content_length


def _largest(request: web.Request) -> float:
    told = PromptServer.instance.user_manager.settings.get_settings(request).get(SETTING)
    is_number = isinstance(told, int | float) and not isinstance(told, bool) and math.isfinite(told) and told > 0
    return float(told) if is_number else LARGEST


@contextmanager
def _a_place(size: int) -> Iterator[None]:
    """
    Raises:
        Refused: Too many uploads go on.
    """
    if len(_on_their_way) >= AT_ONCE:
        raise Refused(429, f"{AT_ONCE} uploads go on already.", remedy="Try again when one of them has ended.")
    ticket = object()
    _on_their_way[ticket] = size
    try:
        yield
    finally:
        del _on_their_way[ticket]


def _prepared_folder() -> Path:
    folder = paths.upload_folder()
    remove_stale(folder)
    needed, free = sum(_on_their_way.values()) + ROOM_TO_SPARE, shutil.disk_usage(folder).free
    if free < needed:
        raise Refused(
            507,
            f"There are {free / MEGABYTE:,.0f} MB left on the disk, {needed / MEGABYTE:,.0f} MB are needed.",
            remedy="Free some space.",
        )
    return folder


async def _store(request: web.Request, folder: Path, name: str, size: int) -> tuple[str, bool]:
    """Write what comes; nothing of it stays if it is refused, or if the connection breaks."""
    incoming = await asyncio.to_thread(Incoming, folder, name, size)
    try:
        while data := await _next(request):
            await asyncio.to_thread(incoming.write, data)
        return await asyncio.to_thread(incoming.place)
    finally:
        await asyncio.to_thread(incoming.discard)


async def _next(request: web.Request) -> bytes:
    """What has come since; nothing at the end.

    Raises:
        Refused: Nothing came for a minute, or the connection broke.
    """
    try:
        return await asyncio.wait_for(request.content.readany(), SECONDS_WITHOUT_A_BYTE)
    except asyncio.TimeoutError as error:
        raise Refused(408, f"Nothing came for {SECONDS_WITHOUT_A_BYTE:.0f} s.", remedy="Upload it again.") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise Refused(400, "The connection broke before the file was whole.", remedy="Upload it again.") from error
