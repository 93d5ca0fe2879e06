"""The heat map of Inspect KronA: pointed at, clicked, walked through with the keyboard."""

from contextlib import suppress

import pytest
import torch
from playwright.sync_api import TimeoutError as NeverCame
from playwright.sync_api import expect

from krona_ops import Adapter, Full, Kron, parse_weights, save
from krona_ops.operations.strengths import apply_weights

BLOCKS = {"input_blocks.1": "input_blocks.1.1.transformer_blocks.0", "middle_block": "middle_block.1.transformer_blocks.0"}
ROLES = ("attn1.to_q", "attn1.to_v", "attn2.to_k")


@pytest.fixture(scope="module")
def adapter(server):
    """An adapter whose middle block moves ten times as far, as a file in the loaders' menu."""
    rng = torch.Generator().manual_seed(0)
    layers = {}
    for number, block in enumerate(BLOCKS.values()):
        for role in ROLES:
            a, b = torch.randn(4, 2, generator=rng), torch.randn(8, 4, generator=rng)
            layers[f"diffusion_model.{block}.{role}"] = Kron(Full(a), Full(b * 10.0**number))
    made = Adapter(layers)
    save(made, server.base / "models" / "krona" / "heat.safetensors")
    return made


@pytest.fixture
def looked(editor, adapter):
    """The adapter inspected and scaled in a graph that has run."""
    page = editor.page
    editor.know("heat.safetensors")
    load = editor.add("KronaLoad", (60, 120), file="heat.safetensors")
    look = editor.add("KronaInspect", (480, 60))
    scale = editor.add("KronaScale", (480, 620))
    editor.connect(load, "krona", look, "krona")
    editor.connect(load, "krona", scale, "krona")
    editor.queue()
    page.locator(".krona-heat table").wait_for()
    return editor


def rules(editor):
    return [node["widgets"]["rules"] for node in editor.nodes("KronaWeights")]


def expect_rules(editor, *wanted):
    """A dialog tells of its end in a task of its own, some time after the key that ended it."""
    of_nodes = "app.graph.nodes.filter((n) => n.type === 'KronaWeights').map((n) => n.widgets.find((w) => w.name === 'rules').value)"
    with suppress(NeverCame):
        editor.wait_for(f"(wanted) => JSON.stringify({of_nodes}) === JSON.stringify(wanted)", list(wanted))
    assert rules(editor) == list(wanted)


def test_hovering_names_the_layers_and_their_numbers(looked, adapter):
    page = looked.page
    row = page.get_by_role("row").filter(has=page.get_by_role("button", name="middle_block"))
    row.locator("td").first.hover()
    told = page.locator(".krona-heat-readout")
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    expect(told).to_contain_text(name)
    expect(told).to_contain_text("4×2 ⊗ 8×4")
    norm = adapter.layers[name].dense().norm().item()
    expect(told).to_contain_text(f"‖ΔW‖ {float(f'{norm:.3g}'):g}")


def test_a_click_sets_the_strength_of_the_block_in_a_new_weights_node_and_in_that_one_from_then_on(looked, adapter):
    page = looked.page
    assert looked.nodes("KronaWeights") == []
    page.get_by_role("button", name="middle_block").click()
    field = page.get_by_role("spinbutton", name="Strength of middle_block")
    expect(field).to_have_value("1")
    field.fill("0.25")
    page.get_by_role("dialog").get_by_role("button", name="Set").click()
    expect_rules(looked, "middle_block=0.25")
    assert ("KronaWeights", 0, "KronaScale", "weights") in looked.wires()
    expect(page.get_by_role("button", name="middle_block")).to_contain_text("×0.25")
    page.get_by_role("button", name="input_blocks.1").click()
    page.get_by_role("dialog").get_by_role("spinbutton").fill("0")
    page.keyboard.press("Enter")
    expect_rules(looked, "middle_block=0.25, input_blocks.1=0")
    weighted = apply_weights(adapter, parse_weights(rules(looked)[0]))
    assert set(weighted.layers) == {name for name in adapter.layers if "middle_block" in name}


def test_it_can_be_used_with_the_keyboard_alone(looked):
    page = looked.page
    page.get_by_role("button", name="input_blocks.1").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".krona-heat-readout")).to_contain_text("middle_block, all of it")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("spinbutton").fill("2")
    page.keyboard.press("Enter")
    expect_rules(looked, "middle_block=2")
    expect(page.get_by_role("button", name="middle_block")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("spinbutton").fill("3")
    page.keyboard.press("Escape")
    expect_rules(looked, "middle_block=2")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="As trained").press("Enter")
    expect_rules(looked, "")


def test_ctrl_z_takes_back_the_strength_and_then_the_node(looked):
    page = looked.page
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
    before = set(looked.wires())
    page.get_by_role("button", name="middle_block").click()
    page.get_by_role("dialog").get_by_role("spinbutton").fill("0.5")
    page.keyboard.press("Enter")
    expect_rules(looked, "middle_block=0.5")
    page.keyboard.press("Control+z")
    expect_rules(looked, "")
    page.keyboard.press("Control+z")
    expect_rules(looked)
    assert set(looked.wires()) == before


def test_the_map_adds_nothing_to_what_is_queued(looked):
    prompt = looked.page.evaluate("app.graphToPrompt()")
    [inputs] = [node["inputs"] for node in prompt["output"].values() if node["class_type"] == "KronaInspect"]
    assert set(inputs) == {"krona", "measure", "table_by"}
