"""Trainings: what there is of them, and what those that run can be asked."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from aiohttp import web

from krona_train.metrics import METRICS, picture_names
from krona_train.requests import Ask, ask
from krona_train.runs import SETTINGS, Standing, own, own_file, rows_of, run_folders, settings_of, standing, standing_of

from .. import live, paths
from .answers import Refused, answering, picture

MOST_ROWS = 10_000
MOST_BYTES_OF_PICTURE = 64_000_000
MOST_BYTES_OF_REQUEST = 1_000
ASKS = {"save": Ask.SAVE, "finish": Ask.FINISH}


@answering
async def overview(request: web.Request) -> web.Response:
    """``GET /krona/runs``"""

    def find() -> list[dict[str, Any]]:
        listed = set(paths.adapter_files())
        found = [_facts(folder, standing(folder), listed) for folder in run_folders(paths.runs_folder())]
        return sorted(found, key=lambda run: run["modified"], reverse=True)

    return web.json_response({"runs": await asyncio.to_thread(find)})


@answering
async def one(request: web.Request) -> web.Response:
    """``GET /krona/runs/<id>?from=``"""
    text = request.query.get("from", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Refused(400, f'from is "{text}", no number of a row.', remedy="Ask from 0, or from the next of the last answer.")

    def find() -> dict[str, Any]:
        folder = _folder(request)
        rows = rows_of(folder)
        at = standing_of(rows, has_result=own_file(folder, "adapter.safetensors") is not None)
        first = min(int(text), len(rows))
        part = rows[first : first + MOST_ROWS]
        told = _facts(folder, at, set(paths.adapter_files()))
        return {**told, "settings": settings_of(folder), "rows": part, "next": first + len(part), "total": len(rows)}

    return web.json_response(await asyncio.to_thread(find))


@answering
async def preview(request: web.Request) -> web.Response:
    """``GET /krona/runs/<id>/previews/<step>/<number>``"""

    def find() -> bytes | None:
        pictures = own(_folder(request), "previews")
        step, number = int(request.match_info["step"]), int(request.match_info["number"])
        file = own_file(pictures, picture_names(step, number)[-1]) if pictures is not None and number else None
        return file.read_bytes() if file is not None and file.stat().st_size <= MOST_BYTES_OF_PICTURE else None

    return picture(await asyncio.to_thread(find), "There is no such preview.")


@answering
async def request(request: web.Request) -> web.Response:
    """``POST /krona/runs/<id>/requests``"""
    wish = await _wish(request)
    folder = await asyncio.to_thread(_folder, request)
    if not live.is_training(folder.name):
        raise Refused(
            409,
            f'"{folder.name}" does not train in this server now.',
            remedy="Only a training that runs can be asked for something.",
        )
    await asyncio.to_thread(ask, folder, ASKS[wish])
    return web.json_response({"run": folder.name, "ask": wish}, status=202)


async def _wish(request: web.Request) -> str:
    if request.content_type != "application/json":
        raise Refused(415, f"The request is {request.content_type}.", remedy="Send it as application/json.")
    if request.content_length is None or request.content_length > MOST_BYTES_OF_REQUEST:
        raise Refused(400, "The request has no length, or is too long.", remedy='Send {"ask": "save"} or {"ask": "finish"}.')
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        body = None
    wish = body.get("ask") if isinstance(body, dict) else None
    if not isinstance(wish, str) or wish not in ASKS:
        raise Refused(400, "A training cannot be asked for that.", remedy='Send {"ask": "save"} or {"ask": "finish"}.')
    return wish


def _folder(request: web.Request) -> Path:
    """The folder of the run that is asked for, found by its name among all that there are."""
    run = request.match_info["id"]
    found = next((folder for folder in run_folders(paths.runs_folder()) if folder.name == run), None)
    if found is None:
        raise Refused(404, f'There is no run "{run}".', remedy="GET /krona/runs lists those that there are.")
    return found


def _facts(folder: Path, at: Standing, listed: set[str]) -> dict[str, Any]:
    run = folder.name
    return {
        "id": run,
        "state": "training" if live.is_training(run) else at.end,
        "node": live.node_of(run),
        "step": at.step,
        "steps": at.steps,
        "loss": at.loss,
        "validation": at.validation,
        "modified": _modified(folder),
        "adapter": _result(folder, listed),
    }


def _modified(folder: Path) -> float:
    file = own_file(folder, METRICS) or own_file(folder, SETTINGS)
    try:
        return file.stat().st_mtime if file is not None else 0.0
    except OSError:
        return 0.0


def _result(folder: Path, listed: set[str]) -> str | None:
    """The name of the adapter in the loader's menu: the result, or what a training that was stopped has left."""
    stopped = sorted((path.name for path in folder.glob("adapter-stopped-at-*.safetensors")), reverse=True)
    names = (os.path.join(folder.name, file) for file in ("adapter.safetensors", *stopped) if own_file(folder, file))
    return next((name for name in names if name in listed), None)
