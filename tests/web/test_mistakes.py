"""A mistake in an input is told in words, on the page, once."""

import re


def test_one_mistake_is_one_sentence_that_names_the_input(editor):
    editor.forgive_errors("/prompt")
    node = editor.add("KronaDataset", (100, 100), prompt="a sks robot", folder="nowhere")
    editor.connect(node, "preview", editor.add("PreviewImage", (700, 100)), "images")
    sentence = editor.page.locator(".p-toast-message").filter(
        has_text=re.compile("KronA Dataset, folder: .*There is no such folder")
    )
    for _ in range(2):  # again after it was closed, too
        editor.queue()
        sentence.wait_for()
        told = editor.page.evaluate("app.extensionManager.lastNodeErrors")
        assert [error["extra_info"]["input_name"] for error in told[str(node)]["errors"]] == ["folder"]
        assert sentence.count() == 1
        editor.look("mistake")
        sentence.locator(".p-toast-close-button").click()
        sentence.wait_for(state="detached")
