"""Writes the tables of files in docs/architecture: each file with the first sentence that it says of itself.

    python3 tools/host.py run tools/generate/file_tables.py

A page has a pair of comments for each folder, `<!-- files of FOLDER -->` and `<!-- end of files -->`; what is between
them is made. Rooms of a package say which others they may take from, as tests/test_house.py holds it.
tests/tools/test_architecture.py fails when a page is out of date.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from tools.generate.house import rules  # noqa: E402

PAGES = PACK / "docs" / "architecture"
END = "<!-- end of files -->"
_MADE = re.compile(r"<!-- files of (\S+) -->\n.*?<!-- end of files -->", re.DOTALL)
_SUFFIXES = (".py", ".mjs", ".js")


def make(text: str) -> str:
    """A page with the tables in it made anew."""
    return _MADE.sub(lambda found: f"<!-- files of {found[1]} -->\n\n{_section(found[1])}\n\n{END}", text)


def folders(text: str) -> list[str]:
    """The folders whose tables a page has."""
    return [found[1] for found in _MADE.finditer(text)]


def summary(path: Path) -> str:
    """The first sentence of what a file says of itself.

    Args:
        path: Of a Python file or of a JavaScript module, whose first block comment counts.

    Raises:
        ValueError: It says nothing.
    """
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(source)) or ""
    else:
        comment = re.search(r"/\*\*(.*?)\*/", source.partition("\nexport")[0], re.DOTALL)
        text = re.sub(r"^\s*\* ?", "", comment[1], flags=re.MULTILINE) if comment else ""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    if not paragraph:
        raise ValueError(f"{path} does not say what it is: write a sentence at its top")
    return re.split(r"(?<=[.?!]) (?=[A-Z`])", paragraph)[0].replace("``", "`").replace("|", "\\|")


def _section(folder: str) -> str:
    rooms = rules()[0]
    package, _, room = folder.partition("/")
    lines = []
    if room in rooms.get(package, {}):
        others = sorted(rooms[package][room])
        names = ", ".join(f"`{other}`" for other in others) or "no other room"
        lines.append(textwrap.fill(f"May take from {names}.", 116) + "\n")
    lines += ["| file | what it is |", "| --- | --- |", *_rows(PACK / folder)]
    return "\n".join(lines)


def _rows(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        inside = path / "__init__.py"
        if inside.exists() or (path.suffix in _SUFFIXES and path.name != inside.name):
            named, says = (f"{path.name}/", inside) if inside.exists() else (path.name, path)
            shown = named.replace("__", r"\_\_")  # two of them would make bold what is between
            yield f"| [{shown}]({os.path.relpath(path, PAGES).replace(os.sep, '/')}) | {summary(says)} |"


def main() -> None:
    """Write all pages anew."""
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if folders(text):
            page.write_text(make(text), encoding="utf-8")
            print(f"wrote {page.relative_to(PACK)}")


if __name__ == "__main__":
    main()
