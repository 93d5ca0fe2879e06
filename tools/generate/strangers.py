"""Writes web/adapter/strangers.mjs: the names of the methods that the pack does not read, as
krona_ops/formats/strangers.py has them.

    python3 tools/host.py run tools/generate/strangers.py

tests/web/test_recognise.py fails when the module is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PACK = Path(__file__).absolute().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from krona_ops.formats import strangers  # noqa: E402

FILE = PACK / "web" / "adapter" / "strangers.mjs"
HEAD = """// @ts-check
/** Made by tools/generate/strangers.py from krona_ops/formats/strangers.py, which says what each of these is. */
"""


def make() -> str:
    """The text of the module."""
    tables = {
        "SPECIAL": {part: method for part, (method, _) in strangers.SPECIAL.items()},
        "STARTS": [list(pair) for pair in strangers.STARTS],
        "BY_PART": {part: method for method, parts in strangers.BY_PART.items() for part in sorted(parts)},
        "READ": sorted(strangers.READ),
        "NO_PARTS": list(strangers.NO_PARTS),
        "NO_METHODS": sorted(strangers.NO_METHODS),
        "DEEPEST": strangers.DEEPEST,
    }
    types = {"SPECIAL": "Record<string, string>", "STARTS": "[string, string][]", "BY_PART": "Record<string, string>"}
    lines = []
    for name, table in tables.items():
        kind = types.get(name)
        text = _text(table)
        lines.append(f"export const {name} = {f'/** @type {{{kind}}} */ ({text})' if kind else text};")
    lines.append(f"export const QUANTISED = /{strangers.QUANTISED.pattern}/;")
    return HEAD + "\n".join(lines) + "\n"


def _text(table: object) -> str:
    """An entry per line."""
    if isinstance(table, dict):
        rows = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
    elif isinstance(table, list):
        rows = [json.dumps(value, ensure_ascii=False) for value in table]
    else:
        return json.dumps(table)
    ends = "{}" if isinstance(table, dict) else "[]"
    return "\n".join((ends[0], *(f"  {row}," for row in rows), ends[1]))


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
