"""ComfyUI in Chinese and in Japanese: the pack's nodes, settings and commands speak the same language."""

import pytest

from tools.generate.locales import LANGUAGES, english, read


@pytest.fixture(params=LANGUAGES)
def language(request):
    return request.param


@pytest.fixture
def settings(language):
    return {"Comfy.Locale": language, "LiteGraph.Node.TooltipDelay": 1}


def test_every_node_input_and_output_is_named_in_the_user_s_language(editor, mode, language):
    nodes = read(language)["nodeDefs"]
    found = editor.page.evaluate(
        """(kinds) => Object.fromEntries(kinds.map((kind) => {
            const node = LiteGraph.createNode(kind);
            app.graph.add(node);
            const label = (slot) => slot.label ?? slot.localized_name ?? slot.name;
            return [kind, {
                title: node.title,
                inputs: Object.fromEntries(node.inputs.map((slot) => [slot.name, label(slot)])),
                widgets: Object.fromEntries((node.widgets ?? []).map((w) => [w.name, w.label])),
                outputs: node.outputs.map(label),
            }];
        }))""",
        list(nodes),
    )
    for kind, table in nodes.items():
        shown = found[kind]
        assert shown["title"] == table["display_name"]
        assert shown["outputs"] == [table["outputs"][key]["name"] for key in sorted(table["outputs"], key=int)]
        for name, label in shown["inputs"].items():
            assert label == table["inputs"][name.replace(".", "_")]["name"], f"{kind}.{name}"
        named = {name: label for name, label in shown["widgets"].items() if name in table["inputs"]}
        assert named == {name: table["inputs"][name]["name"] for name in named}
        assert named or kind in ("KronaScale", "KronaWorldLoader")  # which have nothing to set


def test_a_tooltip_is_in_the_user_s_language(editor, mode, language):
    node = editor.add("KronaSchedule", (100, 100))
    table = read(language)["nodeDefs"]["KronaSchedule"]["inputs"]["curve"]
    editor.page.evaluate(
        "() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [100, 100]; app.canvas.setDirty(true, true); }"
    )
    if mode == "vue":
        editor.page.locator(f"[data-node-id='{node}']").get_by_text(table["name"], exact=True).hover()
    else:
        y = editor.page.wait_for_function(
            "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'curve').last_y", arg=node
        ).json_value()
        x, y = editor.on_page(160, 100 + y + 10)
        editor.page.mouse.move(x - 3, y)
        editor.page.mouse.move(x, y)
    editor.page.get_by_text(table["tooltip"], exact=True).wait_for()


@pytest.mark.parametrize("mode", ["canvas"], indirect=True)
@pytest.mark.parametrize("language", ["zh"], indirect=True)
def test_every_setting_and_command_of_the_pack_has_its_words(editor):
    registered = editor.page.evaluate(
        """() => {
            const ours = app.extensions.filter((e) => e.name.startsWith("KronA"));
            const text = (value) => (typeof value === "function" ? value() : value);
            return {
                settings: Object.fromEntries(ours.flatMap((e) => e.settings ?? []).map(
                    (s) => [s.id.replaceAll(".", "_"), { name: s.name, ...(s.tooltip ? { tooltip: s.tooltip } : {}) }])),
                commands: ours.flatMap((e) => e.commands ?? []).map((c) => c.id.replaceAll(".", "_")),
            };
        }"""
    )
    told = english({})
    assert registered["settings"] == told["settings"]
    assert sorted(registered["commands"]) == sorted(told["commands"])
