"""What a reader found in a file and could not use, as a value:
it goes with the adapter, and is told wherever the file is looked at."""

from __future__ import annotations

from dataclasses import dataclass

from .shown import shown

SHOWN = 3
"""So many names are told; all of them are kept."""


@dataclass(frozen=True)
class LeftOut:
    """Tensors that are in no layer of the adapter, all of one method and for one reason."""

    method: str
    """What they are: ``OFT``, ``an embedding``, ``LoKr`` (a damaged layer), …"""
    reason: str
    """Why they were left out, or who can use them; a sentence."""
    names: tuple[str, ...]
    """Of the layers; of a tensor that belongs to none, its own name."""

    def __str__(self) -> str:
        """The method, how many tensors, some of their names and the reason, on one line.

        >>> print(LeftOut("OFT", "ComfyUI's own Load LoRA applies them.", ("a", "b")))
        Left out: OFT (2: a, b). ComfyUI's own Load LoRA applies them.
        """
        some = f"{', '.join(map(shown, self.names[:SHOWN]))}{', …' if len(self.names) > SHOWN else ''}"
        return f"Left out: {shown(self.method)} ({len(self.names)}: {some}). {self.reason}"


def gathered(unread: list[LeftOut]) -> tuple[LeftOut, ...]:
    """Those of one method and one reason as one, in the order in which they were found."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    for entry in unread:
        names.setdefault((entry.method, entry.reason), {}).update(dict.fromkeys(entry.names))
    return tuple(LeftOut(method, reason, tuple(layers)) for (method, reason), layers in names.items())
