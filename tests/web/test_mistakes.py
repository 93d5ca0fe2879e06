"""A mistake in an input is told in words, on the page."""

import re


def test_one_mistake_is_one_sentence_that_names_the_input(editor):
    node = editor.add("KronaDataset", (100, 100), prompt="a sks robot", folder="nowhere")
    editor.connect(node, "preview", editor.add("PreviewImage", (700, 100)), "images")
    sentence = editor.page.get_by_text(re.compile("KronA Dataset, folder: .*There is no such folder"))
    editor.queue()
    sentence.first.wait_for()  # newer editors also tell it to those who cannot see
    editor.await_error("/prompt")
    told = editor.page.evaluate("app.extensionManager.lastNodeErrors")
    assert [error["extra_info"]["input_name"] for error in told[str(node)]["errors"]] == ["folder"]
    editor.look("mistake")
