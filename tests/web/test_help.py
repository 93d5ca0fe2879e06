"""The help page of each node, as the editor shows it beside the graph."""

import re

import editor as host
import pytest
from PIL import Image

from tools.comfyui.server import PACK

DOCS = PACK / "web" / "docs"
PAGES = {path.stem: path for path in DOCS.glob("*.md")}
LOOKED_FOR_FIRST = re.compile(r"/docs/\w+/\w+\.md$")
"""The editor asks for a page in the user's language before the one in English; that most have none is no failure."""


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setattr(host, "OF_THE_HOST", (*host.OF_THE_HOST, LOOKED_FOR_FIRST))
    return {"Comfy.RightSidePanel.IsOpen": False}


def show_help(editor, kind):
    """Select a node alone and press the button with the i."""
    editor.page.evaluate("app.graph.clear()")
    node = editor.add(kind, (100, 300))
    editor.page.evaluate(
        """(id) => {
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [100, 0];
            app.canvas.deselectAll();
            app.canvas.selectNode(app.graph.getNodeById(id));
            app.canvas.setDirty(true, true);
        }""",
        node,
    )
    page = editor.page.locator(".node-help-content")
    if not page.is_visible():
        editor.page.get_by_test_id("info-button").click()
    return page


@pytest.mark.parametrize("mode", ["canvas"], indirect=True)
def test_the_help_of_every_node_opens_with_its_heading_and_its_picture(editor):
    assert len(PAGES) == 28
    for kind, path in PAGES.items():
        page = show_help(editor, kind)
        title = re.match(r"# (.+)", path.read_text(encoding="utf-8"))[1]
        page.get_by_role("heading", level=1, name=title, exact=True).wait_for()
        picture = page.locator("img").first
        picture.wait_for()
        editor.page.wait_for_function("(image) => image.complete", arg=picture.element_handle())
        width, address = picture.evaluate("(image) => [image.naturalWidth, image.src]")
        assert width > 300, f"{kind}: {address}"
        assert address.endswith(f"/docs/images/{kind}.jpg")


def test_the_page_of_a_node_has_the_node_s_name():
    for kind, path in PAGES.items():
        declared = f'node_id="{kind}",'
        [source] = [
            p.read_text(encoding="utf-8") for p in (PACK / "nodes").glob("*.py") if declared in p.read_text(encoding="utf-8")
        ]
        name = re.search(rf'{declared}\s+display_name="([^"]+)"', source)[1]
        assert path.read_text(encoding="utf-8").startswith(f"# {name}\n")


def test_every_page_has_its_own_picture_and_no_picture_is_left_over():
    shown = {kind: re.findall(r"!\[[^\]]+\]\(([^)]+)\)", path.read_text(encoding="utf-8")) for kind, path in PAGES.items()}
    assert shown == {kind: [f"images/{kind}.jpg"] for kind in PAGES}
    assert {path.name for path in (DOCS / "images").iterdir()} == {f"{kind}.jpg" for kind in PAGES}


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_a_picture_is_small_and_fits_the_panel(kind):
    path = DOCS / "images" / f"{kind}.jpg"
    assert path.stat().st_size < 60_000
    with Image.open(path) as picture:
        assert 300 < picture.width <= 1200
        assert picture.height < 1200
