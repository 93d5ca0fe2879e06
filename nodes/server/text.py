"""A text on a node, in the browser."""

from __future__ import annotations

from server import PromptServer

from .public import without_folders


def tell(text: str, node_id: str | None) -> None:
    """Show a text on a node in the browser: in every page that is open, so it names no folder of this computer."""
    if node_id is not None and text:
        PromptServer.instance.send_progress_text(without_folders(text), node_id)
