"""Pages for people name files, commands and sections that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HISTORY = {"docs/LOG.md", "CHANGELOG.md"}
"""What was true when it was written; of these only the links are looked at."""
FOLDERS = "krona_ops|krona_host|krona_train|nodes|web|tools|tests|benchmarks|proof|samples|docs|example_workflows|locales"
PAGES = sorted(
    str(page.relative_to(ROOT))
    for folder in ("", "docs/", "docs/architecture/", "samples/", "web/docs/")
    for page in ROOT.glob(f"{folder}*.md")
)
CURRENT = [page for page in PAGES if page not in HISTORY]


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def files():
    """The names of all files of code."""
    return {path.name for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".mjs")}


def paths(text):
    """Paths below the pack's folders that a text names: files, folders, modules without their ending, and patterns with stars."""
    return [path.rstrip(".") for path in re.findall(rf"(?<![\w/.-])(?:\.\./)*((?:{FOLDERS})(?:/[\w.*-]+)+/?)", text)]


def missing(text):
    return [path for path in paths(text) if not any(ROOT.glob(path)) and not (ROOT / f"{path}.py").exists()]


def unknown_modules(text, known):
    """Files of code that a text names without a folder and that are nowhere."""
    return [name for name in re.findall(r"`(\w+\.(?:py|mjs))`", text) if name not in known]


def unknown_targets(text, makefile):
    """Targets of ``make`` that a text names as commands and the Makefile has not."""
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = re.findall(r"(?:^|`)make (?:-C \S+ )?([a-z][a-z-]*)", text, re.MULTILINE)
    return [target for target in commands if target not in known]


def anchors(text):
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(page, text):
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", CURRENT)
def test_every_file_that_a_page_names_is_there(page):
    assert missing(text_of(page)) == []
    assert unknown_modules(text_of(page), files()) == []


@pytest.mark.parametrize("page", CURRENT)
def test_every_command_of_make_that_a_page_names_is_one(page):
    assert unknown_targets(text_of(page), text_of("Makefile")) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    assert dead_links(page, text_of(page)) == []


def test_what_is_not_there_is_found():
    text = "see `krona_ops/linalg.py`, krona_train/loop, tools/host.py, docs/*.md, docs/*.xls. `nowhere.py` and `loop.py`, `make fly` or\nmake test\n[a](b.md) [c](#d)"
    assert missing(text) == ["krona_ops/linalg.py", "docs/*.xls"]
    assert unknown_modules(text, files()) == ["nowhere.py"]
    assert unknown_targets(text, "test: setup\n") == ["fly"]
    assert dead_links("README.md", text) == ["b.md", "#d"]
