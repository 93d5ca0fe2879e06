"""What is said of errors: whether a message is fit for a user, and a foreign exception in short."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

LONGEST = 4000
"""Characters of a message: a stranger's value is never in it whole."""
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What must reach no terminal: escape codes and lone surrogates."""


def unfit(message: str) -> str | None:
    """What is wrong with a message to a user."""
    if len(message) > LONGEST:
        return f"a message of {len(message)} characters: {message[:80]!r}…"
    if match := _RAW.search(message):
        return f"{match[0]!r} in a message: {message[max(0, match.start() - 40) : match.end() + 10]!r}"
    return None


def in_short(error: BaseException) -> str:
    """A foreign exception, and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {str(error)[:200]!r}{where}"
