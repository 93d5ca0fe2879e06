"""A person's browser in front of a real ComfyUI, in both ways of drawing nodes."""

import json
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from editor import BESIDE_A_BROWSER, VIEWPORT, Editor
from graphs import lay_out_for_the_browser
from playwright.sync_api import sync_playwright

from tools.comfyui import browser as installed
from tools.comfyui.server import PACK, Server

ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run", "--mute-audio")
HERE = Path(__file__).parent
FAILED = pytest.StashKey[bool]()
SEEN_BEFORE = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False, "Comfy.Queue.QPOV2": False}


OPEN = ExitStack()
"""What stays open from one test of this folder to the next: a server, a browser and its page; each is made once,
and not once for each file."""


def pytest_unconfigure():
    OPEN.close()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem):
    """Before a test of another folder: while Playwright lives, none can run a loop of its own; and memory is of use."""
    if nextitem is not None and not nextitem.path.is_relative_to(HERE):
        for made in (_server, _chromium, _pages):
            made.cache_clear()
        OPEN.close()


@cache
def _server(folder: Path) -> Server:
    base = lay_out_for_the_browser(Path(tempfile.mkdtemp(prefix="in the browser", dir=folder)))
    return OPEN.enter_context(Server(base, packs={"comfyui-krona": PACK}, cpu=True, env=BESIDE_A_BROWSER))


@cache
def _chromium():
    playwright = OPEN.enter_context(sync_playwright())
    browser = playwright.chromium.launch(executable_path=str(installed.install()), args=list(ARGUMENTS))
    OPEN.callback(browser.close)
    return browser


@cache
def _pages() -> dict[str, Editor]:
    return {}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """ComfyUI with the pack, a tiny checkpoint and pictures to train on."""
    return _server(tmp_path_factory.getbasetemp())


@pytest.fixture
def chromium():
    """A browser."""
    return _chromium()


@pytest.fixture(params=["canvas", "vue"])
def mode(request):
    """Nodes drawn on a canvas, or as Vue components."""
    return request.param


@pytest.fixture
def settings():
    """ComfyUI's settings for a test; a parametrised test may override it."""
    return {}


def pytest_collection_modifyitems(items):
    """Tests that want the same page one after the other: all that is drawn on a canvas, by files, then all in Vue."""
    files = list(dict.fromkeys(item.path for item in items))
    ours = [n for n, item in enumerate(items) if item.path.is_relative_to(HERE)]
    ordered = sorted((items[n] for n in ours), key=lambda item: (part_of(item), files.index(item.path), page_of(item)))
    for n, item in zip(ours, ordered, strict=True):
        items[n] = item


def part_of(item) -> str:
    """What a worker takes as a whole is a part of a file, its tests in one way of drawing nodes: `scope_of` says so too.

    The newest editor has a server of its own, so its file comes last, and whole.
    """
    drawn = item.callspec.params.get("mode", "") if hasattr(item, "callspec") else ""
    return "z" if item.path.stem == "test_newest_editor" else drawn


def page_of(item) -> str:
    """What the parameters of a test say of its page."""
    told = item.callspec.params if hasattr(item, "callspec") else {}
    return repr([(name, told[name]) for name in ("settings", "language", "mode") if name in told])


@pytest.fixture
def kept():
    """The page that the last test has left, by how it is set up: loading one takes longer than most tests.

    Never more than one, for each draws on, whether somebody looks at it or not.
    """
    return _pages()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Say in the test what became of it, for its fixtures."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def editor(request, server, chromium, kept, mode, settings):
    """A page with an empty graph; afterwards, no error may stand in its console.

    It is one that another test has had, unless that one failed; loaded anew where it is set up otherwise, or something was done to it that lasts.
    """
    told = {
        **SEEN_BEFORE,
        "Comfy.VueNodes.Enabled": mode == "vue",
        "Comfy.ColorPalette": "dark",
        "Comfy.Locale": "en",
        "KronA.Uploads.LargestFile": 4096,
        **settings,
    }
    server.client.post_json("/settings", told)
    folders = [server.base / "models" / name for name in ("krona", "loras")]
    before = {path for folder in folders for path in folder.rglob("*")}
    wanted = json.dumps([server.url, told])
    before_this, opened = kept.popitem() if kept else ("", None)
    if opened is not None and opened.server is not server:  # the newest editor has one of its own
        opened.page.context.close()
        opened = None
    if opened is None:
        opened = Editor(chromium.new_context(viewport=VIEWPORT, reduced_motion="reduce").new_page(), server)
        opened.open()
    elif before_this != wanted or opened.is_changed or not opened.begin_anew():
        opened.open_anew()
    try:
        yield opened
    finally:
        errors = opened.errors()
        if errors or request.node.stash.get(FAILED, False) or opened.page.is_closed():
            opened.page.context.close()
        else:
            kept[wanted] = opened
        server.client.post_json("/queue", {"clear": True})
        server.client.post_json("/interrupt", {})
        for path in {path for folder in folders for path in folder.rglob("*")} - before:
            if path.is_file():
                path.unlink(missing_ok=True)
    assert errors == []
