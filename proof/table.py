"""The drivers, one line each."""

from __future__ import annotations

from .driver import Driver

DRIVERS: tuple[Driver, ...] = ()

PARTS = ("hostile", "kills", "disk", "load", "isolation", "attacks", "audit")


def of(parts: list[str] | None = None, names: list[str] | None = None) -> list[Driver]:
    """The drivers of some parts, or of some names, in the table's order.

    Raises:
        ValueError: There is no such part or driver.
    """
    known = {driver.name for driver in DRIVERS}
    for what, asked, there in (("part", parts, set(PARTS)), ("driver", names, known)):
        if unknown := set(asked or ()) - there:
            raise ValueError(f"there is no {what} {', '.join(sorted(unknown))}; there are {', '.join(sorted(there))}")
    return [d for d in DRIVERS if (not parts or d.part in parts) and (not names or d.name in names)]
