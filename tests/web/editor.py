"""What a person does in ComfyUI's page: open it, drop files, press buttons, look; and what stands in its console."""

from __future__ import annotations

import base64
import mimetypes
import os
import re
import time
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Error, Page, Request

BESIDE_A_BROWSER = {"OMP_NUM_THREADS": "1"}
"""Threads of a parallel region wait for each other while spinning; with browsers drawing on all cores a step takes ten times as long."""
OF_THE_HOST = (
    # ComfyUI asks for files that a fresh install does not have, and for pages outside, which a test machine may not reach.
    re.compile(r"/(api/)?userdata\b|/user\.css|/(api/)?workflow_templates/|/templates/"),
    re.compile(r"^https?://(?!127\.0\.0\.1|localhost)"),
    re.compile(r"/(api/)?(settings|internal|experiment|assets|features)\b"),
)
"""Addresses whose failures are the host's own, by pattern; a message about any other address, or without one, counts."""

VIEWPORT = {"width": 1400, "height": 900}
HAS_GRAPH = "() => !!app.extensionManager.workflow?.activeWorkflow && app.isGraphReady !== false && !app.configuringGraph"
FIRST_GRAPH = f"() => app.graph.nodes.length > 0 && ({HAS_GRAPH})()"
"""A new user's first graph is there, which comes late in newer editors."""


AS_NEW = """async ([scale, offset]) => {
    const { command, toast, sidebarTab, workflow } = app.extensionManager;
    document.activeElement?.blur();
    await command.execute("Comfy.NewBlankWorkflow");
    for (const open of [...workflow.openWorkflows]) if (open !== workflow.activeWorkflow) await workflow.closeWorkflow(open);
    toast.removeAll?.();
    for (const button of document.querySelectorAll(".p-toast-close-button")) button.click();
    if (sidebarTab?.activeSidebarTabId) sidebarTab.activeSidebarTabId = null;
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = offset;
    app.canvas.deselectAll?.();
    app.graph.clear();
    app.graph.id = crypto.randomUUID();  // the editor keeps values of widgets by the ids of graph and node
    localStorage.clear();
    sessionStorage.clear();
    const { KronaLoad } = await (await app.api.fetchApi("/object_info/KronaLoad")).json();
    const known = LiteGraph.registered_node_types.KronaLoad.nodeData.input.required.file;
    if (JSON.stringify(KronaLoad.input.required.file) === JSON.stringify(known)) return;
    // As R does, which also tells of it, and that would have to leave the page again.
    await (app.reloadNodeDefs ?? app.refreshComboInNodes).call(app);
}"""
"""What a person does who is done with one thing and begins another, in the same page: a new graph, everything else closed."""
LEAVE_TRAININGS = """() => {
    if (document.querySelector(".krona-training")) app.extensionManager.command.execute("KronA.ShowTrainings");
    app.graph.clear();
}"""
HAS_LEFT_TRAININGS = """() => !document.querySelector(".krona-training, .krona-train-card") && app.ui.lastQueueSize === 0"""
"""Nothing shows a run, and the page has heard of the end of the last one: what the server tells comes in order."""
RECONNECT = """() => new Promise((done) => {
    app.api.addEventListener("reconnected", done, { once: true });
    app.api.socket.close();
})"""
IS_AS_NEW = """() => app.graph.nodes.length === 0 && app.extensionManager.workflow.openWorkflows.length === 1
    && !document.querySelector(".p-dialog, .p-toast-message, .p-popover, .p-contextmenu, .litecontextmenu, .graphdialog, dialog[open]")"""


class Editor:
    """One page with ComfyUI's editor.

    Args:
        page: Empty.
        server: The running ComfyUI.
    """

    def __init__(self, page: Page, server) -> None:
        self.page, self.server = page, server
        self._told: list[tuple[str, str]] = []
        self._forgiven: list[str] = []
        self._asking: set[Request] = set()
        self.is_changed = False
        """Whether something is done to the page that lasts, so that it has to be loaded anew for the next test."""
        page.on("console", self._note)
        page.on("request", lambda request: self._asking.add(request) if "/krona/" in request.url else None)
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda request: self._asking.discard(request))
        page.on("pageerror", lambda error: self._told.append(("", f"uncaught: {error}\n{error.stack or ''}")))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._told.append((message.location.get("url", ""), message.text))

    def errors(self) -> list[str]:
        """What the console says that is not the host's own."""
        told = [(url, text) for url, text in self._told if not any(address in url for address in self._forgiven)]
        return [f"{text} ({url})" for url, text in told if not any(known.search(url) for known in OF_THE_HOST)]

    def forgive_errors(self, address: str) -> None:
        """Of requests that a test makes fail on purpose, whenever the browser tells of them: it may do so after the page has shown the answer."""
        self._forgiven.append(address)
        self.is_changed = True

    def await_error(self, address: str) -> None:
        """Forgive one request that a test makes fail on purpose, once the browser has told of it: it may do so after the page has shown the answer."""
        deadline = time.monotonic() + 30
        while not (found := [told for told in self._told if address in told[0]]):
            assert time.monotonic() < deadline, f"no request to {address} has failed"
            self.page.wait_for_timeout(10)
        self._told.remove(found[0])

    def open(self) -> None:
        """Load the page, with an empty graph."""
        self.page.goto(self.server.url)
        self.ready()
        self.page.wait_for_function(FIRST_GRAPH)
        self.page.evaluate("app.graph.clear()")
        self._view = self.page.evaluate("[app.canvas.ds.scale, [...app.canvas.ds.offset]]")

    def open_anew(self) -> None:
        """Load the page as for the first time; in the same tab, where it takes less time than in another one."""
        self.page.unroute_all()
        self._be_as_new()
        self.page.goto("about:blank")  # where nothing of the page runs on; any address of the server would ask for an icon that it lacks
        self._told.clear()  # the browser tells in order: what comes from now on is of the new page
        self._forgiven.clear()
        self._asking.clear()
        self.is_changed = False
        self.page.context.clear_cookies()
        storage = self.page.context.new_cdp_session(self.page)
        storage.send("Storage.clearDataForOrigin", {"origin": self.server.url, "storageTypes": "all"})
        storage.send("Page.enable")
        storage.send("Page.addScriptToEvaluateOnNewDocument", {"source": "sessionStorage.clear()"})
        self.open()
        storage.detach()  # and the script is gone

    def _be_as_new(self) -> None:
        """The browser around the page."""
        self.page.context.clear_permissions()
        self.page.mouse.move(0, 0)
        self.page.set_viewport_size(VIEWPORT)
        network = self.page.context.new_cdp_session(self.page)
        network.send("Network.enable")
        network.send("Network.clearBrowserCache")
        for is_disabled in (True, False):  # which drops what is kept in memory
            network.send("Network.setCacheDisabled", {"cacheDisabled": is_disabled})
        network.detach()

    def begin_anew(self) -> bool:
        """Put away what the last test has left in the page, as a person does; whether nothing of it is seen any more."""
        deadline = time.monotonic() + 60
        while not self.is_idle():  # the page would hear of the end of what was interrupted
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        try:
            self._be_as_new()
            self.page.keyboard.press("Escape")
            self.page.evaluate(AS_NEW, self._view)
            self.page.wait_for_function(IS_AS_NEW, timeout=5_000)
        except Error:  # another editor, or something that waits for an answer; it is loaded anew, then
            return False
        if self.errors():
            return False
        self._told.clear()
        return True

    def leave_trainings(self) -> None:
        """Close the panel and the graph, and wait for what they have asked of the server: their runs may go then."""
        self.page.evaluate(LEAVE_TRAININGS)
        self.page.wait_for_function(HAS_LEFT_TRAININGS, timeout=10_000)
        deadline = time.monotonic() + 10
        while self._asking and time.monotonic() < deadline:
            self.page.wait_for_timeout(10)

    def reconnect(self) -> None:
        """Lose the connection to the server and find it again, after which the page asks for the runs, whatever it knew of them."""
        with self.page.expect_event("requestfinished", lambda request: request.url.endswith("/krona/runs"), timeout=10_000):
            self.page.evaluate(RECONNECT)

    def reload(self) -> None:
        """As a person does with F5."""
        self.page.reload()
        self.ready()
        self.page.wait_for_function(HAS_GRAPH)  # before that, where everything is slow, a key may not be heard

    def ready(self) -> None:
        """Wait until the pack's nodes are there and the editor can be used."""
        self.page.wait_for_function(
            "() => !!window.LiteGraph?.registered_node_types?.['KronaTrain'] && !!window.app?.canvas?.graph"
        )
        self.page.wait_for_function(
            "() => document.querySelector('#graph-canvas') && !document.querySelector('.p-blockui-mask, .p-progressspinner')"
        )

    def add(self, kind: str, position=(200, 200), **widgets) -> int:
        """A new node; its id."""
        return self.page.evaluate(
            """([kind, position, widgets]) => {
                const node = LiteGraph.createNode(kind);
                node.pos = position;
                app.graph.add(node);
                for (const [name, value] of Object.entries(widgets)) {
                    const widget = node.widgets.find((w) => w.name === name);
                    widget.value = value;
                    widget.callback?.(value, app.canvas, node);
                }
                return node.id;
            }""",
            [kind, list(position), widgets],
        )

    def connect(self, origin: int, output: int | str, target: int, entry: str) -> None:
        """A wire from a node's output (number or name) to another's input (name)."""
        self.page.evaluate(
            """([origin, output, target, entry]) => {
                const from = app.graph.getNodeById(origin), to = app.graph.getNodeById(target);
                const slot = typeof output === "number" ? output : from.findOutputSlot(output);
                if (!from.connect(slot, to, entry)) throw new Error(`no wire to ${entry}`);
            }""",
            [origin, output, target, entry],
        )

    def nodes(self, kind: str | None = None) -> list[dict]:
        """Nodes as ``id``, ``type``, ``pos`` and ``widgets`` (name to value)."""
        return self.page.evaluate(
            """(kind) => app.graph.nodes.filter((n) => !kind || n.type === kind).map((n) => ({
                id: n.id, type: n.type, pos: [n.pos[0], n.pos[1]], title: n.title,
                widgets: Object.fromEntries((n.widgets ?? []).map((w) => [w.name, w.value])),
            }))""",
            kind,
        )

    def wires(self) -> list[tuple]:
        """Wires as (type of origin, output's number, type of target, input's name)."""
        return [
            tuple(wire)
            for wire in self.page.evaluate(
                """() => [...app.graph.links.values()].map((l) => {
                    const from = app.graph.getNodeById(l.origin_id), to = app.graph.getNodeById(l.target_id);
                    return [from.type, l.origin_slot, to.type, to.inputs[l.target_slot].name];
                })"""
            )
        ]

    def on_page(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the graph is on the page."""
        return tuple(
            self.page.evaluate(
                """([x, y]) => {
                    const box = app.canvas.canvas.getBoundingClientRect(), view = app.canvas.ds;
                    return [box.left + (x + view.offset[0]) * view.scale, box.top + (y + view.offset[1]) * view.scale];
                }""",
                [x, y],
            )
        )

    def drop(self, files: list[Path | tuple[str, bytes]], x: float, y: float) -> None:
        """Drag files from the desktop and let them go at a point of the page: the events that a browser sends, real bytes in them."""
        payload = []
        for file in files:
            name, data = (file.name, file.read_bytes()) if isinstance(file, Path) else file
            payload.append([name, base64.b64encode(data).decode(), mimetypes.guess_type(name)[0] or ""])
        self.page.evaluate(
            """async ([payload, x, y]) => {
                const transfer = new DataTransfer();
                for (const [name, data, type] of payload) {
                    const bytes = await (await fetch("data:application/octet-stream;base64," + data)).arrayBuffer();
                    transfer.items.add(new File([bytes], name, { type }));
                }
                const target = document.elementFromPoint(x, y) ?? document.body;
                for (const kind of ["dragenter", "dragover", "drop"]) {
                    target.dispatchEvent(new DragEvent(kind, {
                        bubbles: true, cancelable: true, composed: true, dataTransfer: transfer, clientX: x, clientY: y,
                    }));
                }
            }""",
            [payload, x, y],
        )

    def wait_for(self, condition: str, argument=None):
        """Until a JavaScript function returns something true; what it returned."""
        return self.page.wait_for_function(condition, arg=argument).json_value()

    def value(self, node: int, widget: str):
        """Of a widget, in the graph that is open."""
        return self.page.evaluate(
            "([id, name]) => app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === name).value", [node, widget]
        )

    def know(self, file: str) -> None:
        """Have a file in the loaders' menus; they are fetched anew, as R does, where it is younger than they are."""
        knows = "(name) => LiteGraph.createNode('KronaLoad').widgets[0].options.values.includes(name)"
        if not self.page.evaluate(knows, file):
            self.page.evaluate("app.refreshComboInNodes()")
            self.wait_for(knows, file)

    def load(self, workflow: dict) -> None:
        """Open a saved graph, as dropping its file does."""
        self.page.evaluate("(workflow) => app.loadGraphData(workflow, true, true, null)", workflow)

    @contextmanager
    def setting(self, name: str, value):
        """While a setting has another value, in a page that is open: as in the dialog of settings."""
        change = "([name, value]) => app.extensionManager.setting.set(name, value)"
        before = self.page.evaluate("(name) => app.extensionManager.setting.get(name)", name)
        self.page.evaluate(change, [name, value])
        yield
        self.page.evaluate(change, [name, before])

    def look(self, name: str) -> None:
        """Keep a picture of the page in the folder that KRONA_SHOTS names, if it does."""
        if folder := os.environ.get("KRONA_SHOTS"):
            mode = "vue" if self.page.evaluate("!!LiteGraph.vueNodesMode") else "canvas"
            self.page.screenshot(path=Path(folder) / f"{name}-{mode}.png")

    def queue(self) -> None:
        """Press Run."""
        self.page.evaluate("app.queuePrompt(0)")

    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        queue = self.server.client.get_json("/queue")
        return not queue["queue_running"] and not queue["queue_pending"]
