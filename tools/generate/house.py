"""Draws the pictures of docs/architecture.md from the rules that tests/test_house.py holds: who may take from whom.

    python3 tools/host.py run tools/generate/house.py

An arrow that others imply is left out: where a room may take from a second one that may take from a third, the arrow
from the first to the third is not drawn. tests/tools/test_architecture.py fails when a picture is out of date.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parents[2]
RULES = PACK / "tests" / "test_house.py"
FOLDER = PACK / "docs" / "images"

Arrows = Mapping[str, Iterable[str]]
"""What each box takes from."""
Edge = tuple[str, str]
Sets = dict[str, set[str]]

WIDTH, HEIGHT, GAP, STEP, MARGIN, LANE = 136, 40, 14, 74, 20, 18
"""Pixels: of a box, between two, from one row to the next, around all, and for an arrow that passes a row."""
SWEEPS = 24
OUTSIDE = {"comfy", "ComfyUI's server", "torch"}
"""Boxes that are not the pack's."""
WORDS = {
    "web": "the page", "nodes": "thin V3 nodes", "krona_train": "the trainer",
    "krona_host": "ComfyUI, no server", "krona_ops": "mathematics, files", "comfy": "its models",
    "ComfyUI's server": "aiohttp, comfy_api", "torch": "and safetensors", "proof": "attacks, kills",
    "benchmarks": "one per claim", "tools": "host, demo, generate", "tests": "mirror the packages",
    "adapters": "what moves", "backbone": "what is trained on", "batches": "pictures to batches",
    "config": "every setting", "data": "files to pixels", "drawing": "pictures for people",
    "evaluation": "judges", "loop": "fit, one page", "monitor": "looks, previews",
    "objectives": "what is minimised", "packages": "others' libraries", "processes": "many as one",
    "randomness": "draws by number", "run": "a training as folder", "session": "a whole training",
    "settings": "groups, YAML", "step": "one step", "comfyui": "the host, for it",
    "__init__": "the public names", "__main__": "the command line", "updates": "ΔW as values",
    "names": "what layers are called", "targets": "which layers", "nearest": "nearest of a form",
    "formats": "one file each", "operations": "blend, compress", "live": "beside layers",
    "files": "load and save", "atomic": "whole or not at all", "locks": "die with owners",
    "checksum": "as written?", "border": "strangers' values", "bounds": "what may be set",
    "shown": "values in messages", "errors": "one family", "left_out": "what was not read",
    "room": "how large it may be", "model": "what is loaded", "patching": "updates in it",
    "types": "of the host's objects",
}  # fmt: skip
"""A few words below a name; a box without any has only its name."""


def rules() -> tuple[dict[str, Sets], Sets, Sets, Sets]:
    """``ROOMS``, ``MAY_IMPORT``, ``ALSO`` and ``AROUND`` of the test, loaded as a file: nothing imports the tests."""
    specification = importlib.util.spec_from_file_location("rules_of_the_house", RULES)
    assert specification is not None and specification.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.ROOMS, module.MAY_IMPORT, module.ALSO, module.AROUND


def packages() -> tuple[Arrows, list[Edge]]:
    """The packages, what they stand on and what is around them; and the arrows to draw: inside the pack all of them."""
    _, may_import, also, around = rules()
    taken = {package: set(modules) for package, modules in may_import.items()}
    for place, modules in also.items():
        taken[place.split("/")[0]] |= modules
    outside = {
        "comfy": {"comfy"},
        "ComfyUI's server": {"server", "aiohttp"},
        "torch": {"torch", "safetensors"},
    }
    arrows: dict[str, set[str]] = {"web": {"nodes"}, "comfy": {"torch"}, "ComfyUI's server": {"comfy"}}
    for package, modules in taken.items():
        arrows[package] = modules.intersection(may_import) - {package}
        arrows[package] |= {box for box, names in outside.items() if modules & names}
    arrows |= {folder: modules - {folder} for folder, modules in around.items()} | {"tests": set(around)}
    inside = {(package, other) for package in may_import for other in arrows[package] if other in may_import}
    return arrows, sorted(inside.union(essential(arrows)))


def essential(arrows: Arrows) -> list[Edge]:
    """The arrows that no longer way implies (the transitive reduction of a graph without circles)."""
    below: dict[str, set[str]] = {}

    def reach(box: str) -> set[str]:
        if box not in below:
            direct = set(arrows.get(box, ()))
            below[box] = direct.union(*(reach(other) for other in direct))
        return below[box]

    boxes = sorted({*arrows, *(other for others in arrows.values() for other in others)})
    return [
        (box, other)
        for box in boxes
        for other in sorted(arrows.get(box, ()))
        if not any(other in reach(between) for between in arrows[box] if between != other)
    ]


def levels(edges: Sequence[Edge], boxes: Iterable[str]) -> dict[str, int]:
    """For each box its row, 0 the lowest: one above the highest that it takes from."""
    rows = dict.fromkeys(boxes, 0)
    for _ in rows:
        for box, other in edges:
            rows[box] = max(rows[box], rows[other] + 1)
    return rows


def with_lanes(edges: Sequence[Edge], rows: dict[str, int]) -> tuple[list[Edge], dict[Edge, list[str]]]:
    """Arrows of one row each, and the way of every arrow: where it passes rows, it has a lane in them."""
    short: list[Edge] = []
    ways: dict[Edge, list[str]] = {}
    for box, other in edges:
        way = [box]
        for row in range(rows[box] - 1, rows[other], -1):
            way.append(f"{box}|{other}|{row}")
            rows[way[-1]] = row
        way.append(other)
        ways[box, other] = way
        short += pairwise(way)
    return short, ways


def ordered(rows: Mapping[str, int], edges: Sequence[Edge]) -> list[list[str]]:
    """The boxes of each row from left to right, so that few arrows cross: each goes to the middle of its neighbours."""
    table = [sorted(box for box in rows if rows[box] == row) for row in range(max(rows.values()) + 1)]
    beside: dict[str, list[str]] = {box: [] for box in rows}
    for box, other in edges:
        beside[box].append(other)
        beside[other].append(box)
    best, fewest = [list(row) for row in table], _crossings(table, edges)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for number in range(1, len(table)) if down else range(len(table) - 2, -1, -1):
            near = table[number - 1 if down else number + 1]
            place = {box: (index + 0.5) / len(near) for index, box in enumerate(near)}
            own = {box: (index + 0.5) / len(table[number]) for index, box in enumerate(table[number])}

            def middle(
                box: str, place: Mapping[str, float] = place, own: Mapping[str, float] = own
            ) -> tuple[float, str]:
                at = [place[other] for other in beside[box] if other in place]
                return (sum(at) / len(at) if at else own[box]), box

            table[number] = sorted(table[number], key=middle)
        if (crossing := _crossings(table, edges)) < fewest:
            best, fewest = [list(row) for row in table], crossing
    return best


def _crossings(table: Sequence[Sequence[str]], edges: Sequence[Edge]) -> int:
    place = {box: (row, index) for row, boxes in enumerate(table) for index, box in enumerate(boxes)}
    by_row: dict[int, list[tuple[int, int]]] = {}
    for box, other in edges:
        by_row.setdefault(place[box][0], []).append((place[box][1], place[other][1]))
    return sum(
        (a - c) * (b - d) < 0 for pairs in by_row.values() for i, (a, b) in enumerate(pairs) for c, d in pairs[i + 1 :]
    )


def draw(arrows: Arrows, title: str, edges: Sequence[Edge] = ()) -> str:
    """The picture, as SVG.

    Args:
        arrows: What each box takes from.
        title: What a reader hears who does not see it.
        edges: The arrows that are drawn; without any, those that no others imply.
    """
    edges = edges or essential(arrows)
    # A package's own file that takes nothing is no part of the picture.
    boxes = sorted({*(box for box in arrows if box != "__init__" or arrows[box]), *(other for _, other in edges)})
    rows = levels(edges, boxes)
    short, ways = with_lanes(edges, rows)
    table = ordered(rows, short)

    def width_of(box: str) -> int:
        return LANE if "|" in box else WIDTH

    spans = [sum(map(width_of, row)) + GAP * (len(row) - 1) for row in table]
    wide, high = max(spans) + 2 * MARGIN, STEP * (len(table) - 1) + HEIGHT + 2 * MARGIN
    left: dict[str, int] = {}
    top = {box: MARGIN + STEP * (len(table) - 1 - rows[box]) for box in rows}
    for row, span in zip(table, spans, strict=True):
        spare = wide - 2 * MARGIN - span
        between = spare // len(row)
        at = MARGIN + between // 2
        for box in row:
            left[box] = at
            at += width_of(box) + GAP + between
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        'role="img" font-family="system-ui, sans-serif" text-anchor="middle">',
        f"<title>{escape(title)}</title>",
        "<!-- made by tools/generate/house.py from tests/test_house.py -->",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#64748b"/></marker></defs>',
        f'<rect width="{wide}" height="{high}" rx="8" fill="#ffffff"/>',
    ]
    for way in ways.values():
        lines.append(_arrow([(left[box] + width_of(box) // 2, top[box]) for box in way]))
    for box in boxes:
        lines.append(_box(box, left[box], top[box]))
    return "\n".join((*lines, "</svg>", ""))


def _arrow(points: Sequence[tuple[int, int]]) -> str:
    """From the lower edge of the first box through the lanes to the upper edge of the last."""
    (x, y), *lanes, (end_x, end_y) = points
    path = [f"M{x} {y + HEIGHT}"]
    y += HEIGHT
    for lane_x, lane_y in lanes:
        half = (lane_y - y) // 2
        path.append(f"C{x} {y + half} {lane_x} {lane_y - half} {lane_x} {lane_y}V{lane_y + HEIGHT}")
        x, y = lane_x, lane_y + HEIGHT
    half = (end_y - y) // 2
    path.append(f"C{x} {y + half} {end_x} {end_y - half} {end_x} {end_y}")
    return f'<path d="{"".join(path)}" fill="none" stroke="#64748b" stroke-width="1.3" marker-end="url(#tip)"/>'


def _box(name: str, x: int, y: int) -> str:
    fill, edge = ("#f1f5f9", "#94a3b8") if name in OUTSIDE else ("#e0ecff", "#3b6fd4")
    middle, words = x + WIDTH // 2, WORDS.get(name, "")
    title_y = y + (17 if words else 25)
    lines = [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}" stroke="{edge}"/>',
        f'<text x="{middle}" y="{title_y}" font-size="13" font-weight="600" fill="#0f172a">{escape(name)}</text>',
    ]
    if words:
        lines.append(f'<text x="{middle}" y="{y + 31}" font-size="10.5" fill="#475569">{escape(words)}</text>')
    return "".join(lines)


def pictures() -> dict[str, str]:
    """Each picture's file name and text."""
    rooms = rules()[0]
    arrows, edges = packages()
    drawn = {"house.svg": draw(arrows, "Packages of the pack, and what each may take from", edges)}
    for package in sorted(rooms):
        drawn[f"rooms-{package}.svg"] = draw(rooms[package], f"Rooms of {package}, and what each may take from")
    return drawn


def main() -> None:
    """Write all pictures anew."""
    for name, text in pictures().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"wrote {(FOLDER / name).relative_to(PACK)}")


if __name__ == "__main__":
    main()
