"""What hostile files are made of."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

WORDS = (
    "",
    " ",
    "x",
    "true",
    "NaN",
    "../../x",
    "/etc/passwd",
    "a" * 300,
    "\x1b]0;owned\x07",
    "\ud800",
    "\u202e",
    "\0",
    "é",
    "con",
    "%s{0}",
    "$(id)",
    "0" * 30,
)
_NUMBERS = (
    "0",
    "-1",
    "1",
    "3.5",
    "1e999",
    "-1e999",
    "1e-400",
    "NaN",
    "Infinity",
    "9" * 30,
    "9" * 400,
    "-" + "9" * 5000,
    str(2**63),
    str(2**31),
    "1e18",
)


def json_token(rng: Random) -> str:
    """Any JSON value, or nearly one."""
    kind = rng.randrange(9)
    if kind < 2:
        return rng.choice(_NUMBERS)
    if kind < 4:
        return json.dumps(rng.choice(WORDS))
    if kind == 4:
        return rng.choice(("null", "true", "false"))
    if kind == 5:
        return "[" + ",".join(json_token(rng) for _ in range(rng.randrange(4))) + "]"
    if kind == 6:
        return (
            "{" + ",".join(f"{json.dumps(rng.choice(WORDS))}:{json_token(rng)}" for _ in range(rng.randrange(4))) + "}"
        )
    if kind == 7:
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        depth = rng.choice((3, 20, 40, 400, 990, 3000))
        return opening * depth + "1" + closing * depth
    return rng.choice(("[" * 2000, "{", '"', "", "undefined", "0x10", "'x'", "[1,]", "[" + "1," * 5000 + "1]"))


def json_with_a_hole(value: Any, rng: Random) -> str:
    """The value as JSON, with one place of it replaced, doubled or taken out."""
    places = list(_places(value))
    text = json.dumps(value)
    if not places or rng.random() < 0.1:
        return json_token(rng)
    mark = "\ue000hole\ue000"
    path = rng.choice(places)
    holed = json.loads(text)
    inside = holed
    for step in path[:-1]:
        inside = inside[step]
    if rng.random() < 0.2:
        del inside[path[-1]]
        return json.dumps(holed)
    inside[path[-1]] = mark
    return json.dumps(holed).replace(json.dumps(mark), json_token(rng))


def _places(value: Any, path: tuple = ()) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def mutated(data: bytes, rng: Random) -> bytes:
    """Some bytes changed, taken out, put in or doubled; or the end cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not out:
            break
        at, length = rng.randrange(len(out)), rng.choice((1, 1, 2, 4, 8, 64))
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = rng.randbytes(length)
        elif kind == 3:
            out[at:at] = out[at : at + length] * rng.choice((1, 3, 100))
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            out[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"9", b"[", b'"')) * length
        else:
            out[at : at + 4] = struct.pack(rng.choice((">I", "<I")), rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)))
    return bytes(out)


def safetensors(raw: bytes, change: Callable[[dict], str | None]) -> bytes:
    """The file with another header.

    Args:
        change: Changes the parsed header in place, or gives its text.
    """
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    text = change(header)
    made = (json.dumps(header) if text is None else text).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(made)) + made + raw[8 + length :]
