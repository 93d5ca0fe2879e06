"""A person's browser in front of a real ComfyUI, in both ways of drawing nodes."""

import pytest
from editor import BESIDE_A_BROWSER, Editor
from graphs import lay_out_for_the_browser
from playwright.sync_api import sync_playwright

from tools import browser as installed
from tools.server import PACK, Server

ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run", "--mute-audio")
SEEN_BEFORE = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False, "Comfy.Queue.QPOV2": False}


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """ComfyUI with the pack, a tiny checkpoint and pictures to train on."""
    base = lay_out_for_the_browser(tmp_path_factory.mktemp("in the browser"))
    with Server(base, packs={"comfyui-krona": PACK}, cpu=True, env=BESIDE_A_BROWSER) as running:
        yield running


@pytest.fixture(scope="session")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(installed.install()), args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(params=["canvas", "vue"])
def mode(request):
    """Nodes drawn on a canvas, or as Vue components."""
    return request.param


@pytest.fixture
def settings():
    """ComfyUI's settings for a test; a parametrised test may override it."""
    return {}


@pytest.fixture
def editor(server, chromium, mode, settings):
    """A fresh page with an empty graph; afterwards, no error may stand in its console."""
    told = {
        **SEEN_BEFORE,
        "Comfy.VueNodes.Enabled": mode == "vue",
        "Comfy.ColorPalette": "dark",
        "Comfy.Locale": "en",
        **settings,
    }
    server.client.post_json("/settings", told)
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    opened = Editor(context.new_page(), server)
    try:
        opened.open()
        yield opened
    finally:
        errors = opened.errors()
        context.close()
        server.client.post_json("/queue", {"clear": True})
        server.client.post_json("/interrupt", {})
    assert errors == []
