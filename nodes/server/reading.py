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
    """Show on a node which picture is being read, in its bar and in words; it raises when the user cancels.

    Args:
        doing: What is done with them, such as ``reading``.
    """
    bar = comfy.utils.ProgressBar(1)
    told = 0.0

    def show(done: int, total: int, what: str) -> None:
        nonlocal told
        comfy.model_management.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if now - told < SECONDS_BETWEEN and done < total:
            return
        told = now
        bar.update_absolute(done, max(1, total))
        tell(f"{doing} {done + 1} of {total}: {what}" if what else "", node_id)

    return show


def summary(pictures: int, class_pictures: int, notices: list[str]) -> str:
    """What a data set is, in words: its pictures, and then what is not used of the folder; sentences, for the page may show them in one paragraph."""
    of_class = f", {class_pictures} class pictures" if class_pictures else ""
    return "\n".join(f"{said}." for said in (f"{pictures} picture{'s' if pictures != 1 else ''}{of_class}", *notices))
