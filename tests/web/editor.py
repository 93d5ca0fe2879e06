"""What a person does in ComfyUI's page: open it, drop files, press buttons, look; and what stands in its console."""

from __future__ import annotations

import base64
import mimetypes
import os
import re
import time
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Error, Page

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
FIRST_GRAPH = """() => app.graph.nodes.length > 0 && !!app.extensionManager.workflow?.activeWorkflow
    && app.isGraphReady !== false && !app.configuringGraph"""
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
    if (JSON.stringify(KronaLoad.input.required.file) !== JSON.stringify(known)) await app.refreshComboInNodes();  // as R does
}"""
"""What a person does who is done with one thing and begins another, in the same page: a new graph, everything else closed."""
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
        self.is_changed = False
        """Whether something is done to the page that lasts, so that the next test wants another one."""
        page.on("console", self._note)
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

    def open(self) -> None:
        """Load the page, with an empty graph."""
        self.page.goto(self.server.url)
        self.ready()
        self.page.wait_for_function(FIRST_GRAPH)
        self.page.evaluate("app.graph.clear()")
        self._view = self.page.evaluate("[app.canvas.ds.scale, [...app.canvas.ds.offset]]")

    def begin_anew(self) -> bool:
        """Put away what the last test has left in the page, as a person does; whether nothing of it is seen any more."""
        deadline = time.monotonic() + 60
        while not self.is_idle():  # the page would hear of the end of what was interrupted
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        self.page.context.clear_permissions()
        self.page.mouse.move(0, 0)
        self.page.set_viewport_size(VIEWPORT)
        self.page.keyboard.press("Escape")
        try:
            self.page.evaluate(AS_NEW, self._view)
            self.page.wait_for_function(IS_AS_NEW, timeout=5_000)
        except Error:  # another editor, or something that waits for an answer; a page of its own it is, then
            return False
        if self.errors():
            return False
        self._told.clear()
        return True

    def reload(self) -> None:
        """As a person does with F5."""
        self.page.reload()
        self.ready()

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

    def load(self, workflow: dict) -> None:
        """Open a saved graph, as dropping its file does."""
        self.page.evaluate("(workflow) => app.loadGraphData(workflow, true, true, null)", workflow)

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
