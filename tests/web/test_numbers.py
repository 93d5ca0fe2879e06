"""Numbers that are typed are the numbers that are trained with: every decimal survives typing, saving, exporting and importing."""

import pytest

GENERAL = (0.125, 0.0625, 0.35, 1.25, 3.75, 0.3333)
"""Values that people give strengths, guidance and shares."""
SMALL = {
    "learning_rate": (5e-6, 1.5e-5, 1e-7, 2.5e-8, 3.3e-4),
    "weight_decay": (1e-4, 1e-6, 0.0357),
    "ema": (0.9999, 0.99995, 0.999999),
    "noise_offset": (0.0357, 0.001),
    "huber_c": (0.001, 0.0001, 0.00025),
    "rate_text": (0.0625, 0.005),
    "rate_b": (2.625, 1e-3),
    "init_std": (1 / 64, 0.00078125, 1e-5),
    "error": (0.001, 0.00025),
    "strength": (0.03, 0.0625, -0.125),
    "lora_alpha": (0.001, 2.5),
}
"""Values of single inputs that the field uses, from papers and from other trainers' defaults."""

ON_THE_CANVAS = """([id, name, fromRight]) => {
    const node = app.graph.getNodeById(id), widget = node.widgets.find((w) => w.name === name);
    app.canvas.draw(true, true);  // a widget knows its place from then on
    return [node.pos[0] + node.size[0] - (fromRight ?? node.size[0] / 2), node.pos[1] + widget.y + 10];
}"""
SHOW_ALL = """(id) => {
    app.graph.getNodeById(id).showAdvanced = true;
    app.canvas.ds.scale = 0.5;
    app.canvas.ds.offset = [150, 60];
}"""


def number_inputs(editor):
    """``{node: {input: (options, values to try)}}`` of every number with decimals that any node of the pack has."""
    found = {}
    for kind, told in editor.server.client.get_json("/object_info").items():
        inputs = {**told["input"].get("required", {}), **told["input"].get("optional", {})} if kind.startswith("Krona") else {}
        for name, (type_, *rest) in inputs.items():
            if type_ == "FLOAT":
                options = rest[0]
                wanted = (*GENERAL, *SMALL.get(name, ()), options["min"], options["max"], options["default"])
                values = [value for value in dict.fromkeys(wanted) if options["min"] <= value <= options["max"]]
                found.setdefault(kind, {})[name] = (options, values)
    return found


def typed(editor, node, name, value):
    """Write a number as a person does; what the widget then holds."""
    text = f"{value:.12f}".rstrip("0") if 0 < abs(value) < 1e-4 else repr(value)
    page = editor.page
    if page.evaluate("!!LiteGraph.vueNodesMode"):
        box = page.locator(f"[data-node-id='{node}'] [data-testid='node-widget'] [aria-label='{name}'] input").first
        box.fill(text)
        box.press("Enter")
        return editor.value(node, name)
    page.mouse.dblclick(*editor.on_page(*page.evaluate(ON_THE_CANVAS, [node, name])))
    box = page.locator(".graphdialog input").first
    box.fill(text)
    box.press("Enter")
    page.wait_for_function("() => !document.querySelector('.graphdialog')")
    return editor.value(node, name)


def set_as_others_do(editor, node, name, values):
    """Values from a loaded graph, a primitive or another pack, one after the other: the widget's callback looks at them too. What they became."""
    return editor.page.evaluate(
        """([id, name, values]) => {
            const node = app.graph.getNodeById(id), widget = node.widgets.find((w) => w.name === name);
            return values.map((value) => {
                widget.value = value;
                widget.callback?.(value, app.canvas, node);
                return widget.value;
            });
        }""",
        [node, name, values],
    )


def through_a_file(editor, kind, node):
    """The values of the only node after an export in the format of the API, which is also what is run, and its import."""
    sent = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
    before = editor.nodes(kind)[0]["widgets"]
    told = sent[str(node)]["inputs"]
    assert {name: told[name] for name in told if name in before} == {name: before[name] for name in told if name in before}
    editor.page.evaluate("(sent) => app.loadApiJson(sent, 'imported.json')", sent)
    return editor.nodes(kind)[0]["widgets"]


def test_every_number_keeps_what_the_field_uses(editor):
    inputs = number_inputs(editor)
    assert {"KronaTrain", "KronaTrainSettings", "KronaTargets", "KronaScale", "KronaApply", "KronaDataset"} <= inputs.keys()
    lost = []
    for kind, numbers in inputs.items():
        # Not cleared: the editor keeps a widget's value by its node's number, and would count from 1 again.
        editor.page.evaluate("app.graph.nodes.slice().forEach((node) => app.graph.remove(node))")
        node = editor.add(kind, (60, 60))
        imported = through_a_file(editor, kind, node)
        for name, (options, _) in numbers.items():
            assert imported[name] == options["default"], f"the default of {kind}.{name}"
        node = editor.nodes(kind)[0]["id"]
        editor.page.evaluate(SHOW_ALL, node)
        kept = {}
        for name, (_, values) in numbers.items():
            smallest = min((value for value in values if value), key=abs)
            others = [value for value in values if value != smallest]
            for value, found in zip(others, set_as_others_do(editor, node, name, others), strict=True):
                if found != value:
                    lost.append(f"{kind}.{name}: {value} became {found}")
            if (found := typed(editor, node, name, smallest)) != smallest:
                lost.append(f"{kind}.{name}: typed {smallest}, kept {found}")
            kept[name] = smallest
        editor.load(editor.page.evaluate("app.graph.serialize()"))
        assert {name: editor.value(node, name) for name in kept} == kept, f"{kind} opened again"
        imported = through_a_file(editor, kind, node)
        assert {name: imported[name] for name in kept} == kept, f"{kind} imported"
    assert lost == []


def test_an_arrow_makes_a_comfortable_step(editor):
    for kind, name, step in (("KronaTrain", "learning_rate", 1e-5), ("KronaScale", "strength", 0.01)):
        node = editor.add(kind, (60, 60))
        before = editor.value(node, name)
        if editor.page.evaluate("!!LiteGraph.vueNodesMode"):
            place = editor.page.locator(f"[data-node-id='{node}'] [aria-label='{name}']").first
            place.get_by_test_id("increment").click()
        else:
            editor.page.mouse.click(*editor.on_page(*editor.page.evaluate(ON_THE_CANVAS, [node, name, 22])))
        assert editor.value(node, name) == pytest.approx(before + step, abs=1e-12)
        editor.page.evaluate("app.graph.clear()")


@pytest.mark.parametrize("mode", ["canvas"])
def test_no_decimals_are_shown_that_a_number_does_not_have(editor):
    node = editor.add("KronaTrain", (60, 60))
    for value, text in ((1, "1"), (0.0005, "0.0005"), (5e-6, "0.000005"), (2.5e-8, "2.5e-8")):
        set_as_others_do(editor, node, "learning_rate", [value])
        drawn = editor.page.evaluate(
            """(id) => {
                const node = app.graph.getNodeById(id), widget = node.widgets.find((w) => w.name === "learning_rate");
                const context = document.createElement("canvas").getContext("2d"), texts = [];
                context.fillText = (text) => texts.push(text);
                widget.drawWidget(context, { width: 400, showText: true });
                return texts;
            }""",
            node,
        )
        assert drawn[-1] == text
