"""Loader nodes show what they hold, find files, and send new ones."""

import json
import re

import pytest
import torch
from adapters import adapter_file, branch_file, mv_adapter_file
from playwright.sync_api import expect
from safetensors.torch import load_file, save_file

from tools.comfyui.server import PACK

NAMES = ("quokka-final", "quokka draft", "portrait of a cat")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def files(server):
    """Three adapters in the loaders' menu."""
    folder = server.base / "models" / "krona"
    folder.mkdir(parents=True, exist_ok=True)
    made = [
        adapter_file(
            folder / f"{name}.safetensors",
            seed,
            title=title,
            base_model="sd_v1",
            trigger=trigger,
            thumbnail=PNG if seed == 0 else None,
        )
        for seed, (name, title, trigger) in enumerate(
            zip(
                NAMES,
                ("The robot", "<b>robot</b>", ""),
                ("a photo of sks robot", "<img src=x onerror=alert(1)>", ""),
                strict=True,
            )
        )
    ]
    yield [path.name for path in made]
    for path in made:
        path.unlink()


@pytest.fixture
def opened(editor, files):
    """The editor, with these files in its menus."""
    editor.know(files[0])
    return editor


def holds(editor, node: int, file: str) -> None:
    """Wait until a node's file is this one."""
    editor.wait_for(
        "([id, file]) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'file').value === file", [node, file]
    )


def test_a_loader_shows_what_its_file_holds(opened, files):
    opened.add("KronaLoadApply", (300, 150), file=files[0])
    card = opened.page.locator(".krona-loader")
    expect(card.locator(".krona-title")).to_have_text("The robot")
    expect(card.locator(".krona-kind")).to_contain_text("LoKr")
    expect(card.locator(".krona-numbers")).to_have_text(re.compile(r"^8×4 ⊗ 40×80 · 4 layers · 0\.\d+ MB$"))
    expect(card.get_by_role("img", name="Picture of The robot")).to_be_visible()
    assert opened.wait_for("() => document.querySelector('.krona-picture').naturalWidth") == 1
    opened.look("card")


def test_a_loader_says_what_of_its_file_is_not_read(editor, server):
    path = server.base / "models" / "krona" / "mixed.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = load_file(adapter_file(path))
    strange = {f"diffusion_model.x{n}.oft_blocks": torch.ones(2, 3, 3) for n in range(3)}
    save_file(
        {**tensors, **strange, "emb_params": torch.ones(2, 8), "<img src=x onerror=alert(1)>.mystery": torch.ones(2)}, path
    )
    try:
        editor.know(path.name)
        editor.add("KronaLoad", (300, 150), file=path.name)
        line = editor.page.locator(".krona-loader .krona-left-out")
        expect(line).to_contain_text("Not read: ")
        for told in ("OFT (3)", "an embedding (1)", 'tensors called "mystery" (1)'):
            expect(line).to_contain_text(told)
        details = line.get_attribute("title")
        assert "ComfyUI's own Load LoRA applies them" in details
        assert "diffusion_model.x2" in details
        editor.look("left out")
    finally:
        path.unlink()


def test_a_loader_says_that_its_file_is_a_parallel_branch(editor, server):
    path = server.base / "models" / "krona" / "branch.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    branch_file(path, mode="row+col")
    try:
        editor.know(path.name)
        editor.add("KronaBranchApply", (300, 150), file=path.name)
        expect(editor.page.locator(".krona-loader .krona-kind")).to_have_text(
            "a Stable Diffusion UNet · parallel branch (row+col × 1) · LoKr"
        )
        editor.look("branch")
    finally:
        path.unlink()


def test_a_loader_says_whose_branches_are_in_its_file(editor, server):
    path = server.base / "models" / "krona" / "mvadapter_i2mv_sd21.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    mv_adapter_file(path)
    try:
        editor.know(path.name)
        editor.add("KronaLoad", (300, 150), file=path.name)
        shown = editor.page.locator(".krona-loader .krona-kind")
        expect(shown).to_contain_text("parallel branch (reference × 3, row × 3) · MV-Adapter")
        expect(editor.page.locator(".krona-loader")).to_contain_text("Not read: MV-Adapter's condition encoder (34)")
    finally:
        path.unlink()


def test_a_node_that_does_without_a_file_says_so(editor):
    editor.add("KronaBranchApply", (300, 150))
    expect(editor.page.locator(".krona-loader .krona-note")).to_have_text("No file is chosen.")


def test_a_node_says_that_a_wire_takes_the_place_of_its_file(editor, files):
    """As in the examples of the small world, where no file is chosen and none is missing."""
    node = editor.add("KronaBranchApply", (500, 150), file=files[0])
    source = editor.add("KronaLoad", (50, 150), file=files[0])
    note, facts = (editor.page.locator(f".krona-loader .krona-{part}") for part in ("note", "facts"))
    expect(facts).to_have_count(2)
    editor.connect(source, 0, node, "krona")
    expect(note).to_have_text("The adapter comes from the wire.")
    expect(facts).to_have_count(1)
    editor.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            node.disconnectInput(node.findInputSlot("krona"));
        }""",
        node,
    )
    expect(facts).to_have_count(2)


def test_trigger_words_are_copied_by_a_click(opened, files):
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.add("KronaLoad", (300, 150), file=files[0])
    opened.page.get_by_role("button", name="Copy “a photo of sks robot”").click()
    expect(
        opened.page.locator(".p-toast-message").filter(has_text="“a photo of sks robot” is in the clipboard.")
    ).to_be_visible()
    assert opened.page.evaluate("navigator.clipboard.readText()") == "a photo of sks robot"


def test_what_a_file_says_is_text_and_never_html(opened, files):
    opened.add("KronaLoad", (300, 150), file=files[1])
    expect(opened.page.locator(".krona-title")).to_have_text("<b>robot</b>")
    expect(opened.page.locator(".krona-trigger")).to_have_text("<img src=x onerror=alert(1)>")
    assert opened.page.locator(".krona-loader b, .krona-loader img").count() == 0


def test_the_card_follows_the_file_however_it_is_changed(opened, files):
    node = opened.add("KronaLoad", (300, 150), file=files[0])
    title = opened.page.locator(".krona-title")
    expect(title).to_have_text("The robot")
    opened.page.evaluate("([id, file]) => { app.graph.getNodeById(id).widgets[0].value = file; }", [node, files[2]])
    expect(title).to_have_text("portrait of a cat")  # without a title, the file's name
    opened.page.evaluate(
        "([id, file]) => { const n = app.graph.getNodeById(id), saved = n.serialize(); saved.widgets_values[0] = file; n.configure(saved); }",
        [node, files[1]],
    )
    expect(title).to_have_text("<b>robot</b>")


def test_the_last_choice_is_shown_whichever_answer_comes_first(opened, files):
    held, late = [], "**/krona/adapter?name=quokka-final*"
    opened.page.route(late, lambda route: held.append(route))
    node = opened.add("KronaLoad", (300, 150), file=files[2])
    title = opened.page.locator(".krona-title")
    expect(title).to_have_text("portrait of a cat")
    change = "([id, file]) => { app.graph.getNodeById(id).widgets[0].value = file; }"
    opened.page.evaluate(change, [node, files[0]])
    expect(opened.page.locator(".krona-note").filter(has_text="Reading…")).to_be_visible()
    opened.page.evaluate(change, [node, files[1]])
    expect(title).to_have_text("<b>robot</b>")
    with opened.page.expect_response(late):
        held[0].continue_()
    expect(title).to_have_text("<b>robot</b>")
    opened.page.unroute(late)


def test_an_error_is_told_on_the_node(opened, files):
    opened.add("KronaLoad", (300, 150), file="gone.safetensors")
    expect(opened.page.locator(".krona-loader").get_by_role("alert")).to_contain_text('no adapter "gone.safetensors"')
    opened.look("error")
    opened.await_error("krona/adapter")


def test_a_file_is_found_and_chosen_with_the_keyboard_alone(opened, files):
    node = opened.add("KronaLoad", (300, 150), file=files[2])
    search = opened.page.get_by_role("combobox", name="Search adapters by parts of their names")
    search.focus()
    opened.page.keyboard.type("QUO")
    options = opened.page.get_by_role("listbox").get_by_role("option")
    expect(options.filter(has_text=re.compile(r"^quokka[ -]\w+\.safetensors$"))).to_have_count(2)
    expect(search).to_have_attribute("aria-expanded", "true")
    opened.look("search")
    opened.page.keyboard.type(" raf")
    expect(options).to_have_text(["quokka draft.safetensors"])
    expect(options.first).to_have_attribute("aria-selected", "true")
    opened.page.keyboard.press("Enter")
    holds(opened, node, "quokka draft.safetensors")
    expect(opened.page.get_by_role("listbox")).to_have_count(0)
    expect(opened.page.locator(".krona-title")).to_have_text("<b>robot</b>")
    opened.page.keyboard.press("ArrowDown")  # opens again, at the chosen file
    expect(opened.page.get_by_role("option", selected=True)).to_have_text("quokka draft.safetensors")
    opened.page.keyboard.press("ArrowDown")
    chosen = opened.page.get_by_role("option", selected=True)
    expect(chosen).not_to_have_text("quokka draft.safetensors")
    opened.page.keyboard.press("Escape")
    expect(opened.page.get_by_role("listbox")).to_have_count(0)
    assert opened.value(node, "file") == "quokka draft.safetensors"
    opened.page.keyboard.type("zzz")
    expect(opened.page.get_by_role("listbox")).to_contain_text("No adapter has all of these parts")
    opened.page.keyboard.press("Enter")
    assert opened.value(node, "file") == "quokka draft.safetensors"


def test_a_file_is_found_and_chosen_with_the_mouse(opened, files):
    node = opened.add("KronaLoad", (300, 150), file=files[2])
    opened.page.locator(".krona-search").click()
    opened.page.get_by_role("option", name="quokka-final.safetensors").click()
    holds(opened, node, "quokka-final.safetensors")


def test_the_upload_button_sends_a_file_and_holds_it(opened, files, tmp_path):
    node = opened.add("KronaLoad", (300, 150), file=files[0])
    with opened.page.expect_file_chooser() as chooser:
        opened.page.locator(".krona-loader").get_by_role("button", name="Upload…").click()
    chooser.value.set_files([adapter_file(tmp_path / "from the button.safetensors", 9)])
    try:
        holds(opened, node, "from the button.safetensors")
        expect(opened.page.locator(".krona-title")).to_have_text("from the button")
    finally:
        (opened.server.base / "models" / "krona" / "from the button.safetensors").unlink(missing_ok=True)


def test_after_a_run_the_nodes_say_how_many_layers_fit(opened, files):
    page = opened.page
    source = opened.add("CheckpointLoaderSimple", (40, 100), ckpt_name="tiny-full.safetensors")
    load = opened.add("KronaLoadApply", (360, 100), file=files[0])
    apply = opened.add("KronaApply", (760, 100))
    sampler = opened.add("KSampler", (1100, 100), steps=1)
    prompt = opened.add("CLIPTextEncode", (40, 420))
    latent = opened.add("EmptyLatentImage", (40, 620), width=64, height=64)
    look = opened.add(
        "PreviewLatent" if page.evaluate("'PreviewLatent' in LiteGraph.registered_node_types") else "SaveLatent", (1100, 500)
    )
    opened.connect(source, "MODEL", load, "model")
    opened.connect(load, "model", apply, "model")
    opened.connect(load, "krona", apply, "krona")
    opened.connect(apply, "model", sampler, "model")
    opened.connect(source, "CLIP", prompt, "clip")
    opened.connect(prompt, 0, sampler, "positive")
    opened.connect(prompt, 0, sampler, "negative")
    opened.connect(latent, 0, sampler, "latent_image")
    opened.connect(sampler, 0, look, "samples")
    expect(page.get_by_text("Run it to see how many layers fit the model.")).to_have_count(2)
    opened.queue()
    lines = page.locator(".krona-coverage")
    expect(lines).to_have_count(2, timeout=60_000)
    assert re.fullmatch(r"\d of 4 layers fit this model", lines.first.inner_text())
    assert lines.first.get_attribute("title")
    opened.look("coverage")
    page.evaluate("([id, file]) => { app.graph.getNodeById(id).widgets[0].value = file; }", [load, files[2]])
    expect(lines).to_have_count(1)  # what was said about another file is gone


@pytest.mark.parametrize("mode", ["vue"], indirect=True)  # menus are the same however nodes are drawn
def test_a_graph_that_names_what_another_has_just_saved_opens_without_an_error(opened, files, server):
    load = opened.add("KronaLoad", (100, 150), file=files[0])
    save = opened.add("KronaSave", (600, 150), filename_prefix="krona/fresh")
    opened.connect(load, "krona", save, "krona")
    opened.queue()
    known = "LiteGraph.createNode('KronaLoad').widgets[0].options.values"
    name = opened.wait_for(f"() => {known}.find((name) => name.startsWith('fresh_'))")
    try:
        graph = opened.page.evaluate("app.graph.serialize()")
        graph["nodes"] = [node for node in graph["nodes"] if node["type"] == "KronaLoad"]
        graph["links"] = graph["nodes"][0]["outputs"][0]["links"] = []
        graph["nodes"][0]["widgets_values"][0] = name
        opened.load(graph)
        expect(opened.page.locator(".krona-loader .krona-title")).to_have_text("The robot")
        opened.page.wait_for_timeout(1000)  # the editor looks for what is missing after it has shown the graph
        expect(opened.page.get_by_text("Resolve them before running")).to_have_count(0)
        expect(opened.page.get_by_text("Error", exact=True)).to_have_count(0)
    finally:
        (server.base / "output" / "krona" / name).unlink()


def test_nothing_of_the_card_is_saved_or_sent(opened, files):
    node = opened.add("KronaLoadApply", (300, 150), file=files[0], strength_model=0.5)
    saved = opened.page.evaluate("(id) => app.graph.getNodeById(id).serialize()", node)
    assert saved["widgets_values"] == [files[0], 0.5, 1, "auto", "(none)"]
    own = {"file", "strength_model", "strength_clip", "scale", "other_file"}
    assert {entry["name"] for entry in saved["inputs"]} == {"model", "clip", *own}
    prompt = opened.page.evaluate("app.graphToPrompt().then((told) => told.output)")
    assert set(prompt[str(node)]["inputs"]) == own


def test_a_graph_that_was_saved_without_the_card_still_fits(opened, files):
    workflow = json.loads((PACK / "example_workflows" / "KronA 2 - load and apply.json").read_text())
    (before,) = [node for node in workflow["nodes"] if node["type"] == "KronaLoadApply"]
    before["widgets_values"][0], before["size"] = files[0], [270, 190]  # as it was before there was a card
    opened.load(workflow)
    opened.wait_for("() => app.graph.nodes.some((n) => n.type === 'KronaLoadApply')")
    after = opened.page.evaluate("app.graph.nodes.find((n) => n.type === 'KronaLoadApply').serialize()")
    assert after["widgets_values"] == before["widgets_values"]
    opened.page.evaluate(SHOW)
    expect(opened.page.locator(".krona-title")).to_have_text("The robot")
    opened.wait_for(FITS)
    opened.look("old")


SHOW = """() => {
    const node = app.graph.nodes.find((n) => n.type === "KronaLoadApply"), view = app.canvas.ds;
    view.scale = 1;
    view.offset = [200 - node.pos[0], 200 - node.pos[1]];
    app.canvas.setDirty(true, true);
}"""
FITS = """() => {
    const node = app.graph.nodes.find((n) => n.type === "KronaLoadApply"), top = app.canvas.canvas.getBoundingClientRect().top;
    const card = document.querySelector(".krona-loader").getBoundingClientRect();
    const bottom = top + node.pos[1] + node.size[1] + app.canvas.ds.offset[1];
    return card.height >= 60 && card.bottom <= bottom + 1 && card.top > top + node.pos[1] + app.canvas.ds.offset[1];
}"""


@pytest.mark.parametrize("mode", ["canvas"])  # the card has the same elements however its node is drawn
@pytest.mark.parametrize("settings", [{"Comfy.ColorPalette": "light"}, {"Comfy.Locale": "zh"}])
def test_in_light_colours_and_another_language(opened, files, settings):
    opened.add("KronaLoadApply", (300, 150), file=files[0])
    expect(opened.page.locator(".krona-title")).to_be_visible()
    if "Comfy.Locale" in settings:
        expect(opened.page.get_by_role("button", name="上传…")).to_be_visible()
    opened.look(f"card-{next(iter(settings.values()))}")
