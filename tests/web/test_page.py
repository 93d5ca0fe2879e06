"""The page opens with the pack in it."""


def test_the_page_opens_with_every_node_and_the_panel(editor):
    kinds = editor.page.evaluate("Object.keys(LiteGraph.registered_node_types).filter((name) => name.startsWith('Krona'))")
    assert len(kinds) == 28
