"""Files of MV-Adapter and I2V-Adapter: whole projections of a second attention beside each self-attention of a UNet.

MV-Adapter (Huang et al. 2024, arXiv 2412.03632; code under Apache-2.0) keeps ``<attention>.processor.to_q_mv.weight``,
``to_k_mv``, ``to_v_mv``, ``to_out_mv.0.weight`` and ``.bias`` for the attention among the views, and the same with
``_ref`` for the one to a reference. I2V-Adapter (Guo et al. 2023, arXiv 2312.16693) keeps
``<attention>.to_q_ff.weight`` and ``to_out_ff.weight`` and ``.bias``; its keys and values are the base's own.
Attentions have the names of diffusers.

They become layers of branches (`krona_ops.names.branches`), each projection a `Replacement`. Saved by this pack they
have its own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import FormatError
from ..left_out import LeftOut, gathered
from ..names.branches import OUT_BIAS, PROJECTIONS, Mode, layer_name, published_as
from ..names.spellings import LayerName
from ..updates.adapter import Adapter
from ..updates.control import Replacement
from ..updates.delta import Delta
from . import parts, strangers
from .header import Header
from .kinds.layer import LayerError, StoredLayer, times, whole
from .scale import Resolved
from .scale_rules import ScaleRule

NAME = "attention branch"
_MODES: Mapping[str, Mode] = {"mv": "row", "ref": "reference", "ff": "first"}
"""By what stands behind a projection's name. MV-Adapter's files for texturing (``tg2mv``, ``ig2mv``) want ``row+col``,
and nothing in them says so: keys, shapes and metadata are those of the others."""
_PARTS: Mapping[Mode, tuple[str, ...]] = {
    "row": (*PROJECTIONS, OUT_BIAS),
    "reference": (*PROJECTIONS, OUT_BIAS),
    "first": ("to_q", "to_out", OUT_BIAS),
}
"""What there is at each attention."""
_KEY = re.compile(
    r"(?P<site>.+\.attn1)(?:\.processor)?\."
    r"(?:(?P<input>to_[qkv])_(?P<of>mv|ref|ff)\.weight|to_out_(?P<of_out>mv|ref|ff)(?:\.0)?\.(?P<what>weight|bias))"
)
_ENCODER = "adapter."
"""MV-Adapter saves its condition encoder, a T2I-Adapter, in the same file."""
ENCODER = LeftOut("MV-Adapter's condition encoder", "KronA View Condition takes it.", ())
_ROWS = (
    "MV-Adapter's files do not say how their views attend to one another: in rows (t2mv, i2mv), or in rows and columns "
    "(tg2mv, ig2mv, for texturing). It is read as rows; choose the mode row+col where it is for texturing."
)


@dataclass
class _Found:
    """The tensors of one branch at one attention."""

    keys: dict[str, str] = field(default_factory=dict)
    """By part."""
    twice: tuple[str, ...] = ()
    """Two tensors that are the same part."""


def sniff(header: Header) -> bool:
    """Whether a file holds whole projections of a branch, and no update of a layer."""
    return not parts.methods(header) and any(_place(key) is not None for key in header.shapes)


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The branches in a file's tensors, as layers of an adapter. A branch is read whole at an attention or not at all.

    Args:
        rule: Does not matter here: nothing in these files has a scale.

    Raises:
        FormatError: At no attention it can be read.
    """
    found, others = _sorted(header.shapes)
    packed = header.unreadable()
    layers: dict[LayerName, Delta] = {}
    unread: list[LeftOut] = []
    first: LayerError | None = None
    for (site, mode), of_site in found.items():
        try:
            layers.update(_read_site(site, mode, of_site, tensors, packed))
        except LayerError as error:
            first = first or error
            unread.append(LeftOut(f"{published_as(mode)} branch", error.reason, (site,)))
    if not layers:
        raise _nothing_readable(first, len(unread))
    encoder = [LeftOut(ENCODER.method, ENCODER.reason, (key,)) for key in others if key.startswith(_ENCODER)]
    foreign = strangers.unknown((key for key in others if not key.startswith(_ENCODER)), header.shapes)
    left_out = gathered([*unread, *encoder, *foreign.values()])
    notes = (_ROWS,) if any(mode == "row" for _, mode in found) else ()
    return Adapter(layers, header.metadata, (*notes, *map(str, left_out)), left_out)


def _place(key: str) -> tuple[str, Mode, str] | None:
    """The attention, the mode and the part of a tensor; ``None`` for one of another kind."""
    match = _KEY.fullmatch(key) if key.endswith((".weight", ".bias")) else None
    if match is None:
        return None
    mode = _MODES[match["of"] or match["of_out"]]
    part = match["input"] or (OUT_BIAS if match["what"] == "bias" else "to_out")
    return (match["site"], mode, part) if part in _PARTS[mode] else None


def _sorted(keys: Iterable[str]) -> tuple[dict[tuple[str, Mode], _Found], list[str]]:
    """The tensors by attention and mode, and the names of those that belong to no branch."""
    found: dict[tuple[str, Mode], _Found] = {}
    others = []
    for key in keys:
        place = _place(key)
        if place is None:
            others.append(key)
            continue
        site, mode, part = place
        of_site = found.setdefault((site, mode), _Found())
        if part in of_site.keys:
            of_site.twice = of_site.keys[part], key
        of_site.keys[part] = key
    return found, others


def _read_site(
    site: str, mode: Mode, found: _Found, tensors: Mapping[str, Tensor], packed: set[str]
) -> Iterator[tuple[LayerName, Delta]]:
    """The layers of one branch at one attention.

    Raises:
        LayerError: One of its tensors is missing, there twice, of numbers that PyTorch cannot hold, or of a shape that
            does not fit the others.
    """
    held = {part: tensors[key] for part, key in found.keys.items() if key in tensors}
    layer = StoredLayer(site, held, lambda sizes: Resolved(1.0, ""))
    if found.twice:
        raise layer.error(f"Two tensors are the same part of it: {' and '.join(found.twice)}.", found.twice, "one")
    for part, key in found.keys.items():
        if key in packed:
            raise layer.error(f"{part} holds numbers that PyTorch cannot hold one by one.", key, "real numbers")
    values = {part: whole(layer, part, (1, 1) if part == OUT_BIAS else (2, 2)).value for part in _PARTS[mode]}
    inner, wide = values["to_q"].shape
    wanted = {**dict.fromkeys(PROJECTIONS, (inner, wide)), "to_out": (wide, inner), OUT_BIAS: (wide,)}
    for part, value in values.items():
        if tuple(value.shape) != wanted[part]:
            raise layer.error(
                f"{part} is {times(tuple(value.shape))}, which does not fit its to_q of {inner} × {wide}.",
                tuple(value.shape),
                wanted[part],
            )
    for part, value in values.items():
        yield layer_name(site, mode, part), Replacement(value)


def _nothing_readable(first: LayerError | None, broken: int) -> FormatError:
    if first is None:
        return FormatError(
            "No tensor of a branch is in the file.",
            found="none",
            expected="tensors such as ….attn1.processor.to_q_mv.weight",
            remedy="Get the file again.",
        )
    if broken == 1:
        return first
    return FormatError(
        f"At none of the {broken} attentions that the file is for can its branch be read. {first}",
        found=first.found,
        expected=first.expected,
    )
