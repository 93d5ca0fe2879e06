"""What an adapter's file says about itself, and its picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from krona_ops.formats.header import read_header
from krona_ops.formats.inspection import inspect_header
from krona_ops.formats.metadata import description_of, picture_type, thumbnail_in, title_of, trigger_words
from krona_ops.formats.pair import half_told
from krona_ops.names.families import base_of
from krona_ops.shown import shown
from krona_ops.updates.gates import is_gate
from krona_train.run.reading import own_file

from .. import paths
from .answers import Refused, answering, as_json, encoded, picture
from .aside import aside

MOST_BYTES_OF_PICTURE = 16_000_000
"""Of a picture beside the file."""
MOST_BYTES_INSIDE = 4_000_000
"""Of a picture in the file's header: Python decodes it in one piece, and does nothing else meanwhile."""
MOST_TENSORS = 10_000
"""The largest adapters that are known have a few thousand."""
MOST_CHARACTERS = 4_000
"""Of a text that the file says about itself: a card has no room for more, and Python writes it in one piece."""
BESIDE = [f"{middle}{suffix}" for middle in (".preview", "") for suffix in (".png", ".jpg", ".jpeg", ".webp", ".gif")]
"""How a picture beside a file is called, after the file's own name."""


@answering
async def describe(request: web.Request) -> web.Response:
    """``GET /krona/adapter?name=``"""

    def find(name: str) -> bytes:
        return encoded(_facts(_listed(name)))

    return as_json(await aside(find, request.query.get("name", "")))


@answering
async def thumbnail(request: web.Request) -> web.Response:
    """``GET /krona/adapter/thumbnail?name=``"""

    def find(name: str) -> bytes | None:
        path = paths.adapter_path(_listed(name))
        return _thumbnail(path, read_header(path).metadata)

    return picture(await aside(find, request.query.get("name", "")), "This adapter has no picture.")


def require_few_tensors(number: int) -> None:
    """Refuse a file of more tensors than a route looks at.

    So many values make the whole process stand still while Python collects garbage.

    Raises:
        Refused: There are more.
    """
    if number > MOST_TENSORS:
        raise Refused(
            422,
            f"The file has {number:,} tensors; files with more than {MOST_TENSORS:,} are not looked at in the browser.",
            remedy="Put it into models/krona yourself and load it, or look at it with python -m krona_ops inspect.",
        )


def _listed(name: str) -> str:
    if name not in paths.adapter_files():
        raise Refused(
            404,
            f'There is no adapter "{shown(name)}".',
            remedy="Press R in the browser to refresh the list, and choose again.",
        )
    return name


def _facts(name: str) -> dict[str, object]:
    path = paths.adapter_path(name)
    require_few_tensors(len(read_header(path).shapes))
    contents = inspect_header(path)
    methods = Counter(layer.method for layer in contents.layers if not is_gate(layer.name))
    factors = Counter(layer.factors for layer in contents.layers if layer.factors)
    half, levels = half_told(contents.layers)
    ranks = Counter(layer.rank for layer in contents.layers if layer.rank)
    return {
        "name": name,
        "title": _beginning(title_of(contents.metadata)) or path.stem,
        "base": base_of(contents.metadata, {layer.name: layer.shape for layer in contents.layers}),
        "format": contents.format,
        "method": ", ".join(method for method, _ in methods.most_common()),
        "branches": [{"mode": mode, "places": count} for mode, count in contents.branches.items()],
        "half": half or "",
        "levels": levels,
        "layers": len(contents.layers),
        "parameters": contents.parameters,
        "factors": [{"a": list(a), "b": list(b), "layers": count} for (a, b), count in factors.most_common()],
        "rank": ranks.most_common(1)[0][0] if ranks else None,
        "left_out": [
            {"method": part.method, "reason": part.reason, "names": list(part.names)} for part in contents.left_out
        ],
        "bytes": contents.bytes,
        "modified": path.stat().st_mtime,
        "trigger": list(map(_beginning, trigger_words(contents.metadata))),
        "description": _beginning(description_of(contents.metadata)),
        "has_thumbnail": _thumbnail(path, contents.metadata) is not None,
        "has_workflow": bool(contents.metadata.get("workflow")),
    }


def _beginning(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def _thumbnail(path: Path, metadata: Mapping[str, str]) -> bytes | None:
    """The picture in the file, or the one beside it."""
    inside = thumbnail_in(metadata, MOST_BYTES_INSIDE)
    if inside is not None:
        return inside
    for ending in BESIDE:
        beside = own_file(path.parent, f"{path.stem}{ending}")
        if beside is not None and beside.stat().st_size <= MOST_BYTES_OF_PICTURE:
            data = beside.read_bytes()
            if picture_type(data) is not None:
                return data
    return None
