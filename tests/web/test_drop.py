"""Adapter files dropped on the canvas: recognised, sent, and turned into nodes and wires."""

import re
import struct
import time
import zlib

import pytest
import torch
from adapters import WORKFLOW, adapter_file, branch_file, mv_adapter_file, resadapter_files
from playwright.sync_api import expect
from safetensors.torch import save_file

from krona_ops import Adapter, Full, Kron, save

POINT = (700, 420)


@pytest.fixture
def held(server):
    """The adapters on the server's disk; what a test adds is taken away after it."""
    folder = server.base / "models" / "krona"
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())

    def names() -> set[str]:
        return {path.name for path in set(folder.iterdir()) - before}

    yield names
    for path in set(folder.iterdir()) - before:
        path.unlink()


def told(editor, text: str):
    """A message in the corner of the page."""
    return editor.page.locator(".p-toast-message").filter(has_text=re.compile(text))


def wait_for_node(editor, kind: str, file: str | None = None, count: int = 1) -> None:
    """Until there are so many nodes, and one has the file."""
    editor.wait_for(
        """([kind, file, count]) => {
            const nodes = app.canvas.graph.nodes.filter((n) => n.type === kind);
            return nodes.length === count && (!file || nodes.some((n) => n.widgets.find((w) => w.name === "file").value === file));
        }""",
        [kind, file, count],
    )


def text_to_image(editor) -> tuple[int, int]:
    """A checkpoint loader wired to a sampler, with prompts; their ids."""
    loader = editor.add("CheckpointLoaderSimple", (60, 160), ckpt_name="tiny-full.safetensors")
    sampler = editor.add("KSampler", (1000, 160))
    prompt = editor.add("CLIPTextEncode", (560, 620))
    editor.connect(loader, "MODEL", sampler, "model")
    editor.connect(loader, "CLIP", prompt, "clip")
    editor.connect(prompt, 0, sampler, "positive")
    return loader, sampler


def middle_of_wire(editor, kind: str = "MODEL") -> tuple[float, float]:
    """On the page, once it has been drawn."""
    found = editor.wait_for(
        """(kind) => {
            for (const wire of app.canvas.renderedPaths) {
                if (wire.type === kind && wire._pos?.[0]) return [wire._pos[0], wire._pos[1]];
            }
            return null;
        }""",
        kind,
    )
    return editor.on_page(*found)


def until(condition, seconds: float = 20.0) -> None:
    """Wait for something outside of the page."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def checkpoint(path, **metadata):
    """What a model's file looks like from outside."""
    save_file(
        {f"model.diffusion_model.input_blocks.{n}.0.weight": torch.zeros(4, 3) for n in range(9)},
        path,
        metadata=metadata or None,
    )
    return path


def png() -> bytes:
    """A picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x40\x50\x60")) + chunk(b"IEND", b"")
    )


def test_an_adapter_becomes_a_node_under_the_pointer(editor, tmp_path, held):
    file = adapter_file(tmp_path / "robot.safetensors")
    editor.drop([file], *POINT)
    wait_for_node(editor, "KronaLoadApply", "robot.safetensors")
    assert (editor.server.base / "models" / "krona" / "robot.safetensors").read_bytes() == file.read_bytes()
    under = editor.page.evaluate(
        """([x, y]) => {
            const [gx, gy] = app.canvas.convertEventToCanvasOffset({ clientX: x, clientY: y });
            return app.graph.getNodeOnPos(gx, gy)?.type;
        }""",
        list(POINT),
    )
    assert under == "KronaLoadApply"
    assert editor.page.locator(".krona-uploads").count() == 0
    editor.look("dropped")


def test_dropped_on_a_wire_it_goes_in_between_and_ctrl_z_takes_all_of_it_back(editor, tmp_path, held):
    text_to_image(editor)
    editor.page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
    before = set(editor.wires())
    editor.drop([adapter_file(tmp_path / "between.safetensors")], *middle_of_wire(editor))
    wait_for_node(editor, "KronaLoadApply", "between.safetensors")
    assert set(editor.wires()) == before - {("CheckpointLoaderSimple", 0, "KSampler", "model")} | {
        ("CheckpointLoaderSimple", 0, "KronaLoadApply", "model"),
        ("KronaLoadApply", 0, "KSampler", "model"),
    }
    editor.look("wire")
    editor.page.keyboard.press("Control+z")
    wait_for_node(editor, "KronaLoadApply", count=0)
    assert set(editor.wires()) == before


def test_the_text_encoder_goes_through_the_node_where_the_adapter_has_layers_for_it(editor, tmp_path, held):
    text_to_image(editor)
    editor.drop([adapter_file(tmp_path / "words.safetensors", text_encoder=True)], *middle_of_wire(editor))
    wait_for_node(editor, "KronaLoadApply")
    assert set(editor.wires()) == {
        ("CheckpointLoaderSimple", 0, "KronaLoadApply", "model"),
        ("CheckpointLoaderSimple", 1, "KronaLoadApply", "clip"),
        ("KronaLoadApply", 0, "KSampler", "model"),
        ("KronaLoadApply", 1, "CLIPTextEncode", "clip"),
        ("CLIPTextEncode", 0, "KSampler", "positive"),
    }


def test_a_parallel_branch_gets_the_node_that_applies_it(editor, tmp_path, held):
    """Alone with its file, and several as one, blended."""
    text_to_image(editor)
    editor.drop([branch_file(tmp_path / "one.safetensors")], *middle_of_wire(editor))
    wait_for_node(editor, "KronaBranchApply", "one.safetensors")
    assert ("KronaBranchApply", 0, "KSampler", "model") in editor.wires()
    assert ("CheckpointLoaderSimple", 0, "KronaBranchApply", "model") in editor.wires()
    editor.drop([branch_file(tmp_path / f"{n}.safetensors", n) for n in (1, 2)], *POINT)
    wait_for_node(editor, "KronaBranchApply", count=2)
    assert ("KronaBlend", 0, "KronaBranchApply", "krona") in editor.wires()


def test_a_file_of_mv_adapter_gets_it_too(editor, tmp_path, held):
    text_to_image(editor)
    editor.drop([mv_adapter_file(tmp_path / "mvadapter_i2mv_sd21.safetensors")], *middle_of_wire(editor))
    wait_for_node(editor, "KronaBranchApply", "mvadapter_i2mv_sd21.safetensors")
    assert ("KronaBranchApply", 0, "KSampler", "model") in editor.wires()


def test_several_files_of_mv_adapter_go_one_after_the_other(editor, tmp_path, held):
    """They are the branches that they are: no mean is taken of their matrices."""
    text_to_image(editor)
    files = [mv_adapter_file(tmp_path / f"part {n}.safetensors", n) for n in (1, 2)]
    editor.drop([*files, branch_file(tmp_path / "own.safetensors")], *middle_of_wire(editor))
    wait_for_node(editor, "KronaBranchApply", "own.safetensors", count=3)
    editor.wait_for("() => app.graph.nodes.every((n) => n.type !== 'KronaBranchApply' || n.outputs[0].links?.length)")
    chain = editor.page.evaluate(
        """() => {
            const files = [];
            let node = app.graph.nodes.find((one) => one.type === "KSampler");
            for (;;) {
                const link = node.inputs.find((input) => input.name === "model")?.link;
                if (link == null) return [...files, node.type];
                node = app.graph.getNodeById(app.graph.getLink(link).origin_id);
                if (node.type === "KronaBranchApply") files.unshift(node.widgets.find((w) => w.name === "file").value);
            }
        }"""
    )
    assert chain == ["part 1.safetensors", "part 2.safetensors", "own.safetensors", "CheckpointLoaderSimple"]
    assert not any(node["type"] == "KronaBlend" for node in editor.page.evaluate(BOXES))
    editor.look("branches in a row")
    editor.page.keyboard.press("Control+z")
    wait_for_node(editor, "KronaBranchApply", count=0)


def files_of(editor, kind: str) -> list[tuple[str, str]]:
    """The two files of each node of a kind."""
    return [
        tuple(pair)
        for pair in editor.page.evaluate(
            """(kind) => app.graph.nodes.filter((n) => n.type === kind).map(
                (n) => ["file", "other_file"].map((name) => n.widgets.find((w) => w.name === name).value))""",
            kind,
        )
    ]


def test_two_files_of_one_adapter_become_one_node(editor, tmp_path, held):
    """In either order, between the wires, with none of them twice."""
    text_to_image(editor)
    lora, norms = resadapter_files(tmp_path)
    editor.drop([norms, lora], *middle_of_wire(editor))
    wait_for_node(editor, "KronaLoadApply", norms.name)
    assert files_of(editor, "KronaLoadApply") == [(norms.name, lora.name)]
    assert ("KronaLoadApply", 0, "KSampler", "model") in editor.wires()
    assert not editor.nodes("KronaBlend")


def test_the_second_file_finds_the_node_that_has_the_first(editor, tmp_path, held):
    lora, norms = resadapter_files(tmp_path)
    editor.drop([lora], *POINT)
    wait_for_node(editor, "KronaLoadApply", lora.name)
    editor.drop([norms], 200, 650)
    expect(told(editor, f"{norms.name} is the second file of one adapter")).to_be_visible()
    assert files_of(editor, "KronaLoadApply") == [(lora.name, norms.name)]
    another = adapter_file(tmp_path / "another.safetensors")
    x, y = editor.page.evaluate(
        """() => { const [n] = app.graph.nodes.filter((n) => n.type === "KronaLoadApply"); return [n.pos[0] + 60, n.pos[1] + 60]; }"""
    )
    editor.drop([another], *editor.on_page(x, y))  # on the node: another adapter takes the place of both
    wait_for_node(editor, "KronaLoadApply", another.name)
    assert files_of(editor, "KronaLoadApply") == [(another.name, "(none)")]


def test_a_second_file_for_another_model_gets_a_node_of_its_own(editor, tmp_path, held):
    lora, _ = resadapter_files(tmp_path)
    (tmp_path / "four").mkdir()
    _, norms = resadapter_files(tmp_path / "four", (12, 20, 28, 28))
    editor.drop([lora], *POINT)
    wait_for_node(editor, "KronaLoadApply", lora.name)
    editor.drop([norms], 200, 650)
    wait_for_node(editor, "KronaLoadApply", norms.name, count=2)
    assert {other for _, other in files_of(editor, "KronaLoadApply")} == {"(none)"}


def test_a_pair_among_other_files_is_applied_in_a_row(editor, tmp_path, held):
    """A blend could not have it: its values become changes on a model."""
    text_to_image(editor)
    lora, norms = resadapter_files(tmp_path)
    editor.drop([lora, adapter_file(tmp_path / "style.safetensors"), norms], *middle_of_wire(editor))
    wait_for_node(editor, "KronaLoadApply", "style.safetensors", count=2)
    assert sorted(files_of(editor, "KronaLoadApply")) == [(lora.name, norms.name), ("style.safetensors", "(none)")]
    assert ("KronaLoadApply", 0, "KronaLoadApply", "model") in editor.wires()
    assert not editor.nodes("KronaBlend")


def test_it_hits_the_wire_also_where_the_canvas_is_moved_and_zoomed(editor, tmp_path, held):
    text_to_image(editor)
    editor.page.evaluate("app.canvas.ds.scale = 0.6; app.canvas.ds.offset = [-80, 130]; app.canvas.setDirty(true, true)")
    editor.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    x, y = middle_of_wire(editor)
    editor.drop([adapter_file(tmp_path / "zoomed.safetensors")], x, y + 4)
    wait_for_node(editor, "KronaLoadApply")
    assert ("KronaLoadApply", 0, "KSampler", "model") in editor.wires()


def test_dropped_on_a_loader_it_replaces_its_file(editor, tmp_path, held):
    node = editor.add("KronaLoad", (300, 200))
    x, y = editor.on_page(360, 260)
    editor.drop([adapter_file(tmp_path / "another.safetensors", workflow=True)], x, y)
    wait_for_node(editor, "KronaLoad", "another.safetensors")
    assert len(editor.nodes()) == 1
    expect(editor.page.locator(".krona-title")).to_have_text("another")
    assert editor.value(node, "file") == "another.safetensors"


def test_several_become_one_blend_in_the_wire(editor, tmp_path, held):
    text_to_image(editor)
    files = [adapter_file(tmp_path / f"part {n}.safetensors", n) for n in range(3)]
    editor.drop(files, *middle_of_wire(editor))
    wait_for_node(editor, "KronaLoad", "part 2.safetensors", count=3)
    editor.wait_for("() => app.graph.nodes.some((n) => n.type === 'KronaApply' && n.outputs[0].links?.length)")
    wires = editor.wires()
    assert {("KronaLoad", 0, "KronaBlend", f"adapters.krona{n}") for n in range(3)} < set(wires)
    assert {("KronaBlend", 0, "KronaApply", "krona"), ("KronaApply", 0, "KSampler", "model")} < set(wires)
    assert ("CheckpointLoaderSimple", 0, "KronaApply", "model") in wires
    boxes = [n["box"] for n in editor.page.evaluate(BOXES)]
    for one in boxes:
        for other in boxes:
            apart = (
                one[0] + one[2] <= other[0]
                or other[0] + other[2] <= one[0]
                or one[1] + one[3] <= other[1]
                or other[1] + other[3] <= one[1]
            )
            assert one == other or apart
    editor.look("blend")
    editor.page.keyboard.press("Control+z")
    wait_for_node(editor, "KronaLoad", count=0)
    wait_for_node(editor, "KronaBlend", count=0)


BOXES = """app.graph.nodes.map((n) => ({ type: n.type, box: [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30] }))"""


def test_the_same_content_is_stored_once_and_another_gets_a_free_name(editor, tmp_path, held):
    (tmp_path / "copy").mkdir()
    (tmp_path / "other").mkdir()
    first = adapter_file(tmp_path / "twin.safetensors", 1)
    editor.drop([first], 500, 200)
    wait_for_node(editor, "KronaLoadApply", "twin.safetensors")
    same = tmp_path / "copy" / "renamed.safetensors"
    same.write_bytes(first.read_bytes())
    editor.drop([same], 500, 600)
    wait_for_node(editor, "KronaLoadApply", "twin.safetensors", count=2)
    expect(told(editor, "is there already as twin.safetensors")).to_be_visible()
    assert held() == {"twin.safetensors"}
    editor.drop([adapter_file(tmp_path / "other" / "twin.safetensors", 2)], 1000, 300)
    wait_for_node(editor, "KronaLoadApply", count=3)
    (new,) = held() - {"twin.safetensors"}
    assert new in {node["widgets"]["file"] for node in editor.nodes()}
    assert (editor.server.base / "models" / "krona" / "twin.safetensors").read_bytes() == first.read_bytes()


def test_a_file_with_a_workflow_asks_and_can_be_loaded(editor, tmp_path, held):
    editor.drop([adapter_file(tmp_path / "trained.safetensors", workflow=True)], *POINT)
    dialog = editor.page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_contain_text("trained.safetensors")
    assert held() == set()  # nothing is sent before the answer
    editor.look("question")
    editor.page.keyboard.press("Enter")  # the first button has the focus
    wait_for_node(editor, "KronaLoadApply", "trained.safetensors")


def test_the_workflow_of_a_file_can_be_opened(editor, tmp_path, held):
    editor.drop([adapter_file(tmp_path / "trained.safetensors", workflow=True)], *POINT)
    editor.page.get_by_role("button", name="Open the workflow").click()
    wait_for_node(editor, "Note")
    assert held() == set()


def test_escape_answers_no(editor, tmp_path, held):
    editor.drop([adapter_file(tmp_path / "trained.safetensors", workflow=True)], *POINT)
    editor.page.get_by_role("dialog").wait_for()
    editor.page.keyboard.press("Escape")
    editor.page.get_by_role("dialog").wait_for(state="detached")
    assert (held(), editor.nodes()) == (set(), [])


def test_what_is_no_adapter_is_left_to_comfyui(editor, tmp_path, held):
    save_file({"latent_tensor": torch.zeros(1, 4, 8, 8)}, tmp_path / "latent.safetensors")
    editor.drop([tmp_path / "latent.safetensors"], *POINT)
    expect(told(editor, "Unable to find workflow in latent.safetensors")).to_be_visible()
    editor.drop([("robot.json", WORKFLOW.encode())], *POINT)
    wait_for_node(editor, "Note")
    editor.drop([("pixel.png", png())], *POINT)
    wait_for_node(editor, "LoadImage")
    editor.forgive_errors("filename=undefined")  # ComfyUI's: a picture that it shows before it has sent it
    editor.page.evaluate("app.graph.clear()")
    editor.drop([checkpoint(tmp_path / "model.safetensors", workflow=WORKFLOW)], *POINT)
    wait_for_node(editor, "Note")
    assert held() == set()


def test_other_files_of_the_same_drop_are_left_to_comfyui(editor, tmp_path, held):
    editor.drop([("pixel.png", png()), adapter_file(tmp_path / "robot.safetensors")], *POINT)
    wait_for_node(editor, "KronaLoadApply", "robot.safetensors")
    wait_for_node(editor, "LoadImage")


def test_models_pickles_and_damaged_files_are_refused_in_words(editor, tmp_path, held):
    good = adapter_file(tmp_path / "whole.safetensors").read_bytes()
    sent = []

    def note(request):
        if "krona/adapters" in request.url:
            sent.append(request.url)

    editor.page.on("request", note)
    editor.drop(
        [
            checkpoint(tmp_path / "model.safetensors"),
            ("old.ckpt", b"\x80\x02}q\x00."),
            ("robot.pt", b"PK"),
            ("cut.safetensors", good[:-4]),
        ],
        *POINT,
    )
    expect(told(editor, "model.safetensors is a whole model")).to_be_visible()
    expect(told(editor, r"old.ckpt is not loaded: .ckpt files can run code")).to_be_visible()
    expect(told(editor, r"robot.pt is not loaded")).to_be_visible()
    expect(told(editor, "cut.safetensors is incomplete or damaged")).to_be_visible()
    editor.look("refused")
    assert (sent, held(), editor.nodes()) == ([], set(), [])
    editor.page.remove_listener("request", note)


def test_what_the_server_refuses_is_told_in_its_words(editor, tmp_path, held):
    # A factor is missing, which the browser does not look at.
    save_file({"a.lokr_w1": torch.zeros(3, 5)}, tmp_path / "half.safetensors")
    editor.drop([tmp_path / "half.safetensors"], *POINT)
    expect(told(editor, "half.safetensors: .*lokr_w2")).to_be_visible()
    assert (held(), editor.nodes()) == (set(), [])
    assert editor.page.locator(".krona-uploads").count() == 0
    editor.await_error("krona/adapters")  # the browser writes every 415 into its console


def test_a_file_beyond_the_limit_is_not_even_sent(editor, tmp_path, held):
    with editor.setting("KronA.Uploads.LargestFile", 1):
        editor.drop([large(tmp_path / "large.safetensors")], *POINT)
        expect(told(editor, "large.safetensors has 3.2 MB, more than the 1 MB")).to_be_visible()
    assert (held(), editor.nodes()) == (set(), [])


def large(path):
    """3.2 MB."""
    return save(Adapter({"diffusion_model.x": Kron(Full(torch.ones(1, 1)), Full(torch.ones(800, 1000)))}), path)


def test_an_upload_can_be_watched_and_cancelled(editor, tmp_path, held):
    network = editor.page.context.new_cdp_session(editor.page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 300_000}
    network.send("Network.emulateNetworkConditions", slow)
    editor.drop([large(tmp_path / "slow.safetensors")], *POINT)
    bar = editor.page.get_by_role("progressbar", name="slow.safetensors")
    editor.wait_for(
        "() => { const bar = document.querySelector('.krona-uploads progress'); return bar?.value > 0 && bar.value < bar.max; }"
    )
    expect(editor.page.locator(".krona-upload-state")).to_contain_text("of 3.2 MB")
    editor.look("upload")
    editor.page.get_by_role("button", name="Cancel the upload of slow.safetensors").click()
    bar.wait_for(state="detached")
    until(lambda: held() == set())
    network.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    network.detach()
    assert editor.nodes() == []


def test_inside_a_subgraph_the_node_goes_into_the_subgraph(editor, tmp_path, held):
    _, sampler = text_to_image(editor)
    editor.page.evaluate(
        """(id) => {
            const { subgraph } = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)]));
            app.canvas.setGraph(subgraph);
        }""",
        sampler,
    )
    editor.drop([adapter_file(tmp_path / "inside.safetensors")], *middle_of_wire(editor))
    wait_for_node(editor, "KronaLoadApply", "inside.safetensors")
    wired = editor.page.evaluate(
        """() => {
            const graph = app.canvas.graph, node = graph.nodes.find((n) => n.type === "KronaLoadApply");
            const inward = graph.getLink(node.inputs.find((i) => i.name === "model").link);
            const outward = graph.getLink(node.outputs[0].links[0]);
            return [inward.origin_id === graph.inputNode.id, graph.getNodeById(outward.target_id).type, app.graph.nodes.some((n) => n.type === "KronaLoadApply")];
        }"""
    )
    assert wired == [True, "KSampler", False]


def test_files_can_be_added_without_a_mouse(editor, tmp_path, held):
    with editor.page.expect_file_chooser() as chooser:
        editor.page.evaluate("app.extensionManager.command.execute('KronA.AddFiles')")
    assert chooser.value.is_multiple()
    chooser.value.set_files([adapter_file(tmp_path / "picked.safetensors")])
    wait_for_node(editor, "KronaLoadApply", "picked.safetensors")


@pytest.mark.parametrize("mode", ["canvas"])  # the question lies over the page, however nodes are drawn
@pytest.mark.parametrize("settings", [{"Comfy.ColorPalette": "light"}, {"Comfy.Locale": "ja"}])
def test_the_question_can_be_read_in_light_colours_and_other_languages(editor, tmp_path, held, settings):
    editor.drop([adapter_file(tmp_path / "trained.safetensors", workflow=True)], *POINT)
    editor.page.get_by_role("dialog").wait_for()
    editor.look(f"question-{next(iter(settings.values()))}")
    if "Comfy.Locale" in settings:
        expect(editor.page.get_by_role("button", name="アダプターを読み込む")).to_be_visible()
    for part in (".krona-question h3", ".krona-question p", ".krona-question button"):
        assert editor.page.evaluate(CONTRAST, part) > 4.5
    editor.page.keyboard.press("Escape")


CONTRAST = """(selector) => {
    const channels = (css) => css.match(/[\\d.]+/g).map(Number);
    const light = (rgb) => {
        const [r, g, b] = rgb.slice(0, 3).map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let ground = document.querySelector(selector);
    const ink = light(channels(getComputedStyle(ground).color));
    const isClear = (node) => (channels(getComputedStyle(node).backgroundColor)[3] ?? 1) === 0;
    while (isClear(ground)) ground = ground.parentElement;
    const paper = light(channels(getComputedStyle(ground).backgroundColor));
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
}"""
