"""Captions in one file for a whole folder: ``metadata.jsonl`` and ``metadata.csv``, as in diffusers' image folders."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from krona_ops.border import Border, Limits
from krona_ops.errors import KronaError
from krona_ops.shown import shown

from .captions import unusable

NAMES = ("metadata.jsonl", "metadata.csv")
FILE = "file_name"
"""The column with a picture's name."""
LONGEST_NAME = 255
"""Bytes of one name, on every usual system."""
MOST_BYTES = 200_000_000
"""Of the whole file."""
_BORDER = Border(limits=Limits(size=1_000_000, depth=16, values=10_000))
"""The limits of one line."""
TEXTS = ("text", "caption", "prompt")
"""Columns that may hold the caption, the first that is there counts; diffusers' is the first."""


@dataclass
class Described:
    """The captions of one such file, and its lines that are not used."""

    captions: dict[str, str] = field(default_factory=dict)
    """From a picture's name below the folder, with slashes, to its caption."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Lines or the whole file, and why they are not used."""


def read_described(path: Path) -> Described:
    """The captions of a file; lines that cannot be used are in `Described.refused`, and nothing is raised."""
    result = Described()
    try:
        for number, row in _rows(path):
            line = f"{path.name} line {number}"
            if not isinstance(row, Mapping):
                result.refused.append((line, f"not read: {row}"))
                continue
            name, text = row.get(FILE), next((text for key in TEXTS if isinstance(text := row.get(key), str)), None)
            if not isinstance(name, str) or not name.strip() or text is None:
                result.refused.append((line, f"it has no {FILE} with a text"))
            elif len(name.encode(errors="replace")) > LONGEST_NAME or not name.isprintable():
                result.refused.append((line, "it names a file that no system can have"))
            elif (inside := _inside(name)) is None:
                result.refused.append((line, "it names a file outside of the folder"))
            elif (reason := unusable(text)) is not None:
                result.refused.append((line, f"its caption {reason}"))
            else:
                result.captions[inside] = text.strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        result.refused.append((path.name, f"it cannot be read as UTF-8 text: {shown(str(error))}"))
    if result.refused and not result.captions:  # a file of this name for something else: one line about it is enough
        result.refused = [(path.name, result.refused[0][1])]
    return result


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    """The number of each line and its values by column; where it has none, a text that says why."""
    if path.stat().st_size > MOST_BYTES:
        yield 1, f"the file has more than {MOST_BYTES // 1_000_000} MB"
        return
    with path.open(encoding="utf-8-sig", newline="" if path.suffix.lower() == ".csv" else None) as file:
        if path.suffix.lower() == ".csv":
            rows = csv.DictReader(file)
            yield from ((rows.line_num, row) for row in rows)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = _BORDER.json(line)
                except KronaError:
                    row = None
                yield number, row if isinstance(row, dict) else "it is no JSON object"


def _inside(name: str) -> str | None:
    """A name below the folder in its shortest form, with slashes; ``None`` where it leads out of the folder."""
    place = PurePosixPath(name.strip().replace("\\", "/"))
    is_inside = not place.is_absolute() and ".." not in place.parts and ":" not in str(place) and bool(place.parts)
    return str(place) if is_inside else None
