"""Reading pictures, as the host shows it: how far it is, and stopped when the user cancels."""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.model_management
import comfy.utils

from .text import tell

SECONDS_BETWEEN = 0.25
"""Between two messages to the browser; an interrupt is looked for before each picture."""


def tell_reading(node_id: str | None, doing: str) -> Callable[[int, int, str], None]:
    """A function that shows on a node which picture is being read; it raises when the user cancels.

    Args:
        doing: What is done with the pictures, such as ``reading``.
    """
    bar = comfy.utils.ProgressBar(1)
    shown_at = 0.0

    def show(done: int, total: int, what: str) -> None:
        nonlocal shown_at
        comfy.model_management.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if now - shown_at < SECONDS_BETWEEN and done < total:
            return
        shown_at = now
        bar.update_absolute(done, max(1, total))
        tell(f"{doing} {done + 1} of {total}: {what}" if what else "", node_id)

    return show


def summary(pictures: int, class_pictures: int, notices: list[str], groups: int = 0) -> str:
    """A data set in words: its pictures and groups, then what of the folder is not used.

    Sentences, because the page may show them in one paragraph.
    """
    of_class = f", {class_pictures} class pictures" if class_pictures else ""
    together = f" in {groups} group{'s' if groups != 1 else ''}" if groups else ""
    count = f"{pictures} picture{'s' if pictures != 1 else ''}{together}{of_class}"
    return "\n".join(f"{sentence}." for sentence in (count, *notices))
