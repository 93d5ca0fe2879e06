"""A text on a node, in the browser."""

from __future__ import annotations

from server import PromptServer


def tell(text: str, node_id: str | None) -> None:
    """Show a text on a node in the browser."""
    if node_id is not None and text:
        PromptServer.instance.send_progress_text(text, node_id)
