"""What every driver asks of what it calls: success, or a refusal in words of the pack's own."""

from __future__ import annotations

from collections.abc import Callable

from krona_ops.errors import KronaError

from .words import in_short, unfit

PARTS = ("found", "expected")
"""What each refusal has as values of its own, beside its message with what to do."""


def foreign(call: Callable[[], object]) -> str | None:
    """What is wrong with how a call ends; ``None`` where it succeeds,
    or refuses by one of the pack's errors in a fit message."""
    try:
        call()
    except KronaError as error:
        return unfit(f"{error}")
    except Exception as error:  # whatever it is, it is not ours
        return in_short(error)
    return None


def unexplained(call: Callable[[], object]) -> str | None:
    """As `foreign`; and a refusal has what was found and what was expected."""

    def explained() -> None:
        try:
            call()
        except KronaError as error:
            lacking = [part for part in PARTS if getattr(error, part) is None]
            if lacking:
                raise AssertionError(f"no {', '.join(lacking)} in {error!r}") from error
            raise

    return foreign(explained)
