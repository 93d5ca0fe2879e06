"""A LoKr of q, k and v together under the name of one of them: the rows that are its own (ComfyUI's ``row_offset``).

ComfyUI after 0.30 divides a fused adapter into three entries. Where a cut falls inside a block of the Kronecker
product, each keeps the factors whole, and ``row_offset`` says where its rows begin. As q is as wide as the input and k
and v are equally wide, the number of rows follows; the host takes as many as its weight has, which is the same.
"""

from __future__ import annotations

from dataclasses import replace

from ...names.spellings import projection as kind_of
from ...updates.delta import Delta
from ...updates.rows import rows, thirds
from .layer import StoredLayer


def projection(delta: Delta, layer: StoredLayer) -> tuple[Delta, StoredLayer]:
    """The rows of one projection, and the layer with the same rows of its DoRA norm, where that has all of them.

    Raises:
        LayerError: No projection begins at this row.
    """
    parts = thirds(delta.shape)
    start = layer.number("row_offset")
    if start is None:  # only the header is read: the name says what the number would
        kind = kind_of(layer.name) or layer.name[-1:]
        start = dict(zip("qkv", (first for first, _ in parts), strict=False)).get(kind, -1)
    lengths: dict[float, int] = dict(parts)  # 64.0 is 64 here, and what is no whole number is no row
    length = lengths.get(start)
    if length is None:
        raise layer.error(
            f"Its row_offset is {start:g}, its update has {delta.shape[0]} rows and {delta.shape[1]} columns.",
            start,
            " or ".join(str(first) for first, _ in parts) or "an update of q, k and v together",
        )
    norms = {
        part: layer.parts[part][int(start) : int(start) + length]
        for part in ("dora_scale", "magnitude")
        if layer.has(part) and layer.parts[part].shape[:1] == delta.shape[:1]
    }
    return rows(delta, int(start), length), replace(layer, parts={**layer.parts, **norms})
