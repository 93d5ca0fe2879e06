"""What people type or paste: paths in quotes, names that no folder can have."""

from __future__ import annotations

import re

_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}
_DEVICE_NAMES = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)


def typed_path(text: str) -> str:
    """A path without the blanks around it, and without the quotes that Windows' "Copy as path" adds."""
    text = text.strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


def safe_name(text: str) -> str:
    """A user's text as one file or folder name that every system accepts; may be empty."""
    name = re.sub(r"[^\w\- .]+", "-", text).strip(" .-")[:80].strip(" .-")
    return f"{name}-" if _DEVICE_NAMES.match(name) else name
