"""Trainings: what there is of them, and what those that run can be asked."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from aiohttp import web

from krona_ops.border import Border
from krona_ops.errors import AdapterFileError
from krona_ops.shown import shown
from krona_train.run import layout
from krona_train.run.layout import RESULT
from krona_train.run.overview import Glance, glance_at
from krona_train.run.reading import own, own_file, rows_of, run_named, settings_of, standing_of
from krona_train.run.requests import Ask, ask

from .. import live, paths
from ..public import public_row
from .answers import Refused, answering, as_json, encoded, picture, text_of
from .aside import aside
from .origin import require_a_page_of_ours

MOST_ROWS = 10_000
MOST_CHARACTERS_OF_ROWS = 16_000_000
"""Of one answer; a usual row has 200."""
MOST_BYTES_OF_PICTURE = 64_000_000
MOST_BYTES_OF_REQUEST = 1_000
SECONDS_FOR_A_REQUEST = 10.0
ASKS = {"save": Ask.SAVE, "finish": Ask.FINISH}
HOW_TO_ASK = 'Send {"ask": "save"} or {"ask": "finish"}.'
_texts: dict[str, tuple[Glance, str]] = {}
"""Of each run that does not train now: the look at it, and its entry of the overview as JSON."""


@answering
async def overview(request: web.Request) -> web.Response:
    """``GET /krona/runs``"""
    return as_json(await aside(_overview))


def _overview() -> bytes:
    global _texts
    before, entries = _texts, {}
    for glance in sorted(paths.run_list().look(), key=lambda glance: glance.modified, reverse=True):
        if glance.is_run and _can_be_asked_for(glance.name):
            entry = before.get(glance.name)
            if entry is None or entry[0] is not glance or live.is_training(glance.name):
                entry = glance, text_of(_facts(glance))
            entries[glance.name] = entry
    _texts = {name: entry for name, entry in entries.items() if not live.is_training(name)}
    return f'{{"runs":[{",".join(text for _, text in entries.values())}]}}'.encode()


def _can_be_asked_for(name: str) -> bool:
    """Whether a request can name the run: names with bytes that are no Unicode cannot be part of a URL."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@answering
async def one(request: web.Request) -> web.Response:
    """``GET /krona/runs/<id>?from=``"""
    text = request.query.get("from", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Refused(
            400,
            f'from is "{shown(text)}", no number of a row.',
            remedy="Ask from 0, or from the next of the last answer.",
        )
    return as_json(await aside(_one, request.match_info["id"], int(text)))


def _one(run: str, start: int) -> bytes:
    folder = _folder(run)
    rows = rows_of(folder)
    glance = glance_at(folder)
    at = standing_of(rows, has_result=glance.result == RESULT)
    first = min(start, len(rows))
    texts = [text_of(public_row(row)) for row in rows[first : first + MOST_ROWS]]
    fits = sum(total <= MOST_CHARACTERS_OF_ROWS for total in accumulate(map(len, texts)))
    texts = texts[: max(1, fits)]
    facts = {**_facts(replace(glance, standing=at)), "settings": settings_of(folder)}
    rest = {"next": first + len(texts), "total": len(rows)}
    return b'%s,"rows":[%s],%s' % (encoded(facts)[:-1], ",".join(texts).encode(), encoded(rest)[1:])


@answering
async def preview(request: web.Request) -> web.Response:
    """``GET /krona/runs/<id>/previews/<step>/<number>``"""

    def find(run: str, step: int, number: int) -> bytes | None:
        pictures = own(_folder(run), layout.PREVIEWS)
        file = own_file(pictures, layout.picture_names(step, number)[-1]) if pictures is not None and number else None
        return file.read_bytes() if file is not None and file.stat().st_size <= MOST_BYTES_OF_PICTURE else None

    asked = request.match_info
    data = await aside(find, asked["id"], int(asked["step"]), int(asked["number"]))
    return picture(data, "There is no such preview.")


@answering
async def request(request: web.Request) -> web.Response:
    """``POST /krona/runs/<id>/requests``"""
    require_a_page_of_ours(request)
    wish = await _wish(request)
    folder = await aside(_folder, request.match_info["id"])
    if not live.is_training(folder.name):
        raise Refused(
            409,
            f'"{shown(folder.name)}" does not train in this server now.',
            remedy="Only a training that runs can be asked for something.",
        )
    await aside(ask, folder, ASKS[wish])
    return as_json(encoded({"run": folder.name, "ask": wish}), status=202)


async def _wish(request: web.Request) -> str:
    if request.content_type != "application/json":
        raise Refused(415, f"The request is {shown(request.content_type)}.", remedy="Send it as application/json.")
    if request.content_length is None or request.content_length > MOST_BYTES_OF_REQUEST:
        raise Refused(400, "The request has no length, or is too long.", remedy=HOW_TO_ASK)
    try:
        data = await asyncio.wait_for(request.read(), SECONDS_FOR_A_REQUEST)
        body = Border().json(data) if data else None
    except asyncio.TimeoutError as error:
        late = f"The request was not whole after {SECONDS_FOR_A_REQUEST:.0f} s."
        raise Refused(408, late, remedy="Send it again.") from error
    except (AdapterFileError, web.RequestPayloadError, ConnectionError):
        body = None
    wish = body.get("ask") if isinstance(body, dict) else None
    if not isinstance(wish, str) or wish not in ASKS:
        raise Refused(400, "A training cannot be asked for that.", remedy=HOW_TO_ASK)
    return wish


def _folder(run: str) -> Path:
    """The folder of the run that is asked for, found by its name among all that there are."""
    folder = run_named(paths.runs_folder(), run)
    if folder is None:
        raise Refused(404, f'There is no run "{shown(run)}".', remedy="GET /krona/runs lists those that there are.")
    return folder


def _facts(glance: Glance) -> dict[str, object]:
    run, at = glance.name, glance.standing
    return {
        "id": run,
        "state": "training" if live.is_training(run) else at.end,
        "node": live.node_of(run),
        "step": at.step,
        "steps": at.steps,
        "loss": at.loss,
        "validation": at.validation,
        "modified": glance.modified,
        "adapter": os.path.join(run, glance.result) if glance.result else None,
    }
