"""From a file's tensors to an adapter, layer by layer, whatever methods they mix; and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import FormatError, ShapeError
from ..left_out import LeftOut, gathered
from ..names.branches import place_of
from ..names.families import whole_model
from ..names.spellings import LayerName
from ..updates.absolute import Absolute, require_base
from ..updates.adapter import Adapter
from ..updates.control import Enlarged, Replacement
from ..updates.delta import Delta, Dora, Kron, Matrix, Sum
from ..updates.embedded import is_of_parts
from ..updates.factor import Full
from ..updates.rows import Rows, thirds
from . import parts, scale, strangers
from .header import DTYPES, Header
from .kinds import cdka, dora, loha, lokr, lokr_sum, lora
from .kinds.layer import LayerError, StoredLayer, times, whole
from .kinds.projection import projection
from .scale import Resolved, Sizes
from .scale_rules import ScaleRule
from .trainer import Trainer, neutral

KINDS = (lokr, loha, lora, cdka, lokr_sum)
"""The ways to store an update of a weight; a new one is a module in `kinds` and its names in `parts`."""
BIAS = ".bias"
"""The update of a layer's bias is a layer of its own, under this name."""
Rename = Callable[[LayerName], str]
"""What a layer is called in the file; only the host knows the other dialects' names of its layers."""


@dataclass
class _Reasons:
    """Resolves the scales of a file's layers, and counts how often each reason decided one."""

    rule: ScaleRule
    trainer: Trainer
    counts: Counter[str] = field(default_factory=Counter)
    has_values: bool = True
    """Whether tensors have values; from the header alone no scale is known."""

    def resolve(self, sizes: Sizes) -> Resolved:
        if not self.has_values:
            return Resolved(1.0, "")
        resolved = scale.resolve(self.rule, sizes, self.trainer)
        # Branches are written by this pack alone, so that their scale is no question unless somebody makes it one.
        if self.rule != "auto" or place_of(sizes.name) is None:
            self.counts[resolved.reason] += 1
        return resolved

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{n} layer{'s' if n > 1 else ''}: {reason}." for reason, n in self.counts.most_common())


def read(tensors: Mapping[str, Tensor], header: Header, rule: ScaleRule = "auto") -> Adapter:
    """The adapter in a file's tensors; each layer in whatever method it is stored.

    What cannot be read is in `Adapter.left_out`, with its method and the reason:
    tensors of other methods, damaged layers.

    Raises:
        FormatError: Nothing can be read, or the file is a whole model;
            or the settings beside it are about another file.
    """
    keys = [*tensors, *(key for key in header.shapes if key not in tensors)]  # the latter: what torch cannot hold
    grouped = parts.group(keys, parts.split_all(header).get)
    foreign = strangers.unknown(grouped.strangers, header.shapes)
    trainer = Trainer.of(header)
    reasons = _Reasons(rule, trainer, has_values=not any(t.is_meta for t in tensors.values()))
    layers: dict[LayerName, Delta] = {}
    unread: list[LeftOut] = []
    first: LayerError | None = None
    broken = 0
    alike = _Alike()
    packed = header.unreadable()
    for name, held in grouped.layers.items():
        stranger = foreign.get(name)
        if stranger is not None and held.keys() <= parts.MODIFIERS:
            continue  # the alpha of a method that is not known is left out with it
        try:
            _require_readable(name, grouped, header.dtypes, packed, stranger)
            layer = StoredLayer(name, {part: tensors[key] for part, key in held.items()}, reasons.resolve)
            is_enlarged = name in grouped.enlarged
            updates = _updates(layer, is_enlarged) if reasons.has_values else alike.updates(layer, is_enlarged)
            for target, delta in updates:
                _put(layers, LayerName(target), delta)
        except LayerError as error:
            # The others are forgotten: each holds on to all that it was found in.
            first, broken = first or error, broken + 1
            method = parts.method_of(held)
            if stranger is not None and strangers.changes_the_rest(stranger.method):
                method = (
                    foreign.pop(name).method if stranger.method != strangers.QUANTISATION else f"quantised {method}"
                )
                foreign.pop(name, None)
            unread.append(LeftOut(method, error.reason, (name,)))
    if not layers or strangers.is_model(grouped.strangers, header.shapes, len(layers)):
        raise nothing_readable(grouped, header, first, broken, gathered([*unread, *foreign.values()]))
    left_out = gathered([*unread, *foreign.values()])
    notes = (*reasons.notes(), *trainer.notes, *_missing_biases(trainer, left_out), *map(str, left_out))
    return Adapter(layers, neutral(header.metadata, trainer), notes, left_out)


def _missing_biases(trainer: Trainer, left_out: tuple[LeftOut, ...]) -> Iterable[str]:
    """A note where PEFT's settings speak of trained biases that the file does not have; others are left out by name."""
    kinds = {config.bias for config in trainer.peft.values() if config.bias != "none"}
    if kinds and not any(entry.method in (strangers.BIASES, strangers.WEIGHTS) for entry in left_out):
        kind = " and ".join(sorted(kinds))
        yield f"PEFT trained biases of the base model too (bias='{kind}'); the file has none of them, so they stay as the base model has them."


class _Alike:
    """Layers of which only the header is known and that have the same parts are the same update:
    100,000 of them are read like ten."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], list[tuple[str, Delta]] | LayerError] = {}

    def updates(self, layer: StoredLayer, is_enlarged: bool) -> list[tuple[str, Delta]]:
        """As `_updates`; placeholders of one shape and type are one tensor
        (`krona_ops.formats.header.Header.placeholders`).

        Raises:
            LayerError: They cannot be read, the `reason` is the same for all of them;
                the layer that is named is the first.
        """
        if layer.has("row_offset"):  # then the name decides
            return _updates(layer, is_enlarged)
        kind = is_enlarged, tuple(layer.parts), tuple(map(id, layer.parts.values()))
        if kind not in self._known:
            try:
                self._known[kind] = [
                    (target.removeprefix(layer.name), delta) for target, delta in _updates(layer, is_enlarged)
                ]
            except LayerError as error:
                self._known[kind] = error
        updates = self._known[kind]
        if isinstance(updates, LayerError):
            updates.__traceback__ = None  # it would grow with every layer
            raise updates
        return [(f"{layer.name}{end}", delta) for end, delta in updates]


def _require_readable(
    name: str, grouped: parts.Grouped, dtypes: Mapping[str, str], packed: Set[str], stranger: LeftOut | None
) -> None:
    """Refuse a layer whose tensors cannot be read as an update.

    Args:
        packed: Tensors that hold several numbers in a byte, which PyTorch cannot take apart.

    Raises:
        LayerError: Two tensors are the same part, one is of a type that PyTorch does not have,
            or one says that the others mean something else.
    """
    if name in grouped.twice:
        raise LayerError(
            f"Two tensors are the same part of it: {' and '.join(grouped.twice[name])}.",
            layer=name,
            found=grouped.twice[name],
            expected="one",
            remedy="The file was put together from two; load them one after the other.",
        )
    for part, key in grouped.layers[name].items() if packed else ():
        if key in packed:
            raise LayerError(
                f"{part} is stored as {dtypes[key]}, numbers that PyTorch cannot hold one by one.",
                layer=name,
                found=dtypes[key],
                expected=" or ".join(DTYPES),
                remedy="Convert it to bf16 or float8 with the program that made it.",
            )
    if stranger is not None and strangers.changes_the_rest(stranger.method):
        raise LayerError(
            f"Its tensors mean nothing without {stranger.method}.",
            layer=name,
            found=stranger.method,
            expected="LoKr, LoHa or LoRA alone",
            remedy=stranger.reason,
        )


def unreadable(header: Header) -> tuple[LeftOut, ...]:
    """Everything in a file, or in a part of one, of which no layer can be read."""
    grouped = parts.group(header.shapes, parts.split_all(header).get)
    foreign = strangers.unknown(grouped.strangers, header.shapes)
    alone = [
        LeftOut(parts.method_of(held), "It is no update of a layer.", (name,))
        for name, held in grouped.layers.items()
        if name not in foreign
    ]
    return gathered([*alone, *foreign.values()])


def nothing_readable(
    grouped: parts.Grouped,
    header: Header,
    first: LayerError | None = None,
    broken: int = 0,
    left_out: tuple[LeftOut, ...] = (),
) -> FormatError:
    """The error for a file without a layer that can be read: a whole model, or which methods it holds.

    Args:
        first: What is wrong with the first of its layers.
        broken: How many have something wrong.
    """
    names = [*header.shapes]
    sample = (
        f"No known adapter format: it holds {', '.join(names[:3]) or 'no tensors'}{', …' if len(names) > 3 else ''}"
    )
    if strangers.is_model(grouped.strangers, header.shapes, 0):
        model = whole_model(header.shapes)
        return FormatError(
            f"{sample}. It is a whole model{f': {model}' if model else ''}.",
            found=model or "the weights of a model",
            expected="an adapter",
            remedy="Load it with Load Checkpoint or Load Diffusion Model.",
        )
    if first is not None and not grouped.strangers:
        if broken == 1:
            return first
        return FormatError(
            f"None of the file's {broken} layers can be read. {first}",
            found=first.found,
            expected=first.expected,
        )
    left_out = left_out or unreadable(header)
    if not left_out:
        return FormatError(f"{sample}.", found="no tensors", expected="an adapter", remedy="Get the file again.")
    methods = list(dict.fromkeys(entry.method for entry in left_out))
    return FormatError(
        f"{sample}. None of it can be read: {', '.join(f'{entry.method} ({len(entry.names)})' for entry in left_out)}.",
        found=methods,
        expected="LoKr, LoHa, LoRA, CDKA, DiffuseKronA or diff tensors",
        remedy=left_out[0].reason,
    )


def _put(layers: dict[LayerName, Delta], name: LayerName, delta: Delta) -> None:
    """Add an update; two of one weight are summed."""
    try:
        layers[name] = Sum((layers[name], delta)) if name in layers else delta
    except ShapeError as error:
        raise LayerError(f"Two updates of it differ in shape. {error}", layer=name, found=error.found) from error


def _updates(layer: StoredLayer, is_enlarged: bool) -> list[tuple[str, Delta]]:
    """The updates of a layer's weight and of its bias: all of them, or none.

    Raises:
        LayerError: One of them cannot be read.
    """
    try:
        updates = list(_read_layer(layer))
        if is_enlarged or layer.has("reshape_weight"):
            updates = [(name, Enlarged(delta) if name == layer.name else delta) for name, delta in updates]
        together: dict[LayerName, Delta] = {}
        for name, delta in updates:
            _put(together, LayerName(name), delta)
        return list(together.items())
    except ShapeError as error:
        raise layer.error(str(error), error.found, error.expected) from error


def _read_layer(layer: StoredLayer) -> Iterable[tuple[str, Delta]]:
    present = layer.parts.keys()
    if "set_weight" in present:  # ComfyUI's last word on a weight
        yield layer.name, Replacement(whole(layer, "set_weight", (1, 5)).value)
        return
    methods = [method for method in KINDS if method.PARTS & present]
    if len(methods) > 1:
        raise layer.error("It is stored in two methods at once.", sorted(present), "one method")
    if not methods and present <= parts.MODIFIERS:
        raise layer.error(
            f"It has {' and '.join(sorted(present))}, but no update.", sorted(present), "the tensors of an update too"
        )
    if methods:
        delta = methods[0].read(layer)
        if isinstance(delta, Matrix) and (bias := lora.bias(layer, delta.scale)):
            yield f"{layer.name}{BIAS}", bias
        if layer.has("row_offset"):
            delta, layer = projection(delta, layer)
        yield layer.name, dora.read(layer, delta)
    yield from _read_plain(layer)


def _read_plain(layer: StoredLayer) -> Iterable[tuple[str, Delta]]:
    """Updates that are stored as they are: core's and LyCORIS's ``diff``, the weights of norms, biases."""
    for part in ("diff", "w_norm"):
        if layer.has(part):
            yield layer.name, Matrix(whole(layer, part, (1, 5)))
    for part in ("diff_b", "b_norm"):
        if layer.has(part):
            yield f"{layer.name}{BIAS}", Matrix(whole(layer, part, (1, 1)))


def write(adapter: Adapter, rename: Rename = str, *, norms: bool = False) -> dict[str, Tensor]:
    """The tensors of an adapter with LyCORIS's part names:
    ``lokr_*``, ``hada_*``, ``lora_*``, ``diff``, ``dora_scale``.

    Args:
        rename: What a layer is called in the file.
        norms: Whether the weights of norms are called ``w_norm`` and ``b_norm``, as LyCORIS does, instead of ``diff``.

    Raises:
        FormatError: These tensors cannot hold a layer, or two layers would have one name.
    """
    require_base(adapter.layers, "saved")
    tensors: dict[str, Tensor] = {}
    for name, delta in adapter.layers.items():
        for key, tensor in _write_layer(adapter, name, delta, rename, norms).items():
            if key in tensors:
                raise FormatError(
                    f'Two layers would be called "{key.partition(".")[0]}" in the file.',
                    layer=name,
                    found=key,
                    expected="names that differ",
                    remedy="Save in a format that keeps the dots in names, such as lokr.",
                )
            tensors[key] = tensor.contiguous()
    return tensors


def _write_layer(adapter: Adapter, name: LayerName, delta: Delta, rename: Rename, norms: bool) -> dict[str, Tensor]:
    if isinstance(delta, Replacement):
        return {f"{rename(name)}.set_weight": delta.value} if delta.strength else {}
    if len(delta.shape) == 1 and place_of(name) is not None:
        return {rename(name): exactly(name, delta)}
    if len(delta.shape) == 1:
        weight = LayerName(name.removesuffix(BIAS))
        is_norm = norms and weight in adapter.layers and len(adapter.layers[weight].shape) == 1
        ends = {(True, True): "b_norm", (True, False): "w_norm", (False, True): "diff_b", (False, False): "diff"}
        end = ends[is_norm or (norms and not name.endswith(BIAS)), name.endswith(BIAS)]
        return {f"{rename(weight)}.{end}": exactly(name, delta)}
    return {f"{rename(name)}.{SPELLED.get(part, part)}": tensor for part, tensor in parts_of(name, delta).items()}


SPELLED = {"lora_up": "lora_up.weight", "lora_down": "lora_down.weight", "lora_mid": "lora_mid.weight"}


def parts_of(name: str, delta: Delta) -> dict[str, Tensor]:
    """The tensors that hold an update of a weight exactly, by LyCORIS's part names.

    Raises:
        FormatError: There are none.
    """
    if isinstance(delta, Dora):
        if delta.strength != 1.0 or isinstance(delta.delta, Dora | Sum):
            raise cannot_hold(
                name, f"a DoRA update at strength {delta.strength:g}", "Save it at strength 1 and scale on use."
            )
        return {**parts_of(name, delta.delta), **dora.write(delta)}
    if isinstance(delta, Enlarged):
        return {**parts_of(name, delta.delta), "reshape_weight": torch.tensor(delta.shape)}
    if (
        isinstance(delta, Rows)
        and isinstance(delta.whole, Kron)
        and delta.length == dict(thirds(delta.whole.shape)).get(delta.start)
    ):
        return {**parts_of(name, delta.whole), "row_offset": torch.tensor(delta.start)}
    if isinstance(delta, Kron) and delta.layout == "kron":
        return lokr.write(delta)
    if isinstance(delta, Matrix):
        return loha.write(delta) or lora.write(delta) or {"diff": exactly(name, delta)}
    raise cannot_hold(
        name, describe(delta), "Save in another format: as LoRA with a rank, or DiffuseKronA for that layout."
    )


def exactly(name: str, delta: Delta) -> Tensor:
    """A stored dense update with its scale in it.

    Raises:
        FormatError: It is not stored as one tensor.
    """
    if not isinstance(delta, Matrix) or not isinstance(delta.factor, Full):
        raise cannot_hold(name, describe(delta), "Compress or convert it first.")
    value = delta.factor.value
    return value if delta.scale == 1.0 else lokr.times_number(value, delta.scale)


OF_PARTS = (
    " of different rows: the model keeps in one weight what the adapter has as several layers, such as q, k and v"
)


def cannot_hold(name: str, found: str, remedy: str, what: str = "This format") -> FormatError:
    """The error of a writer whose format has no place for an update."""
    if found.startswith("a sum of"):
        remedy = (
            "Bring each layer into one product first (compress, or a blend with a form), or save it as a LoRA of some rank."
        )
    if found.endswith(OF_PARTS):
        remedy = (
            "Save it as a LoRA of some rank (16 to 64 are usual; its error is told), which has room for all of them. "
            "At a prompt --keep-names keeps the layers apart, for the nodes of this pack alone."
        )
    return FormatError(
        f"{what} cannot hold the update, which is {found}.",
        layer=name,
        found=found,
        expected="another update",
        remedy=remedy,
    )


def describe(delta: Delta) -> str:
    """What an update is, for a message."""
    if isinstance(delta, Kron):
        return f"a Kronecker product {times(delta.a.shape)} ⊗ {times(delta.b.shape)} in the {delta.layout} layout"
    if isinstance(delta, Sum):
        return f"a sum of {len(delta.terms)} updates{OF_PARTS if is_of_parts(delta) else ''}"
    if isinstance(delta, Dora):
        return f"{describe(delta.delta)} with a DoRA norm"
    if isinstance(delta, Enlarged):
        return f"{describe(delta.delta)} for a weight that it enlarges"
    if isinstance(delta, Absolute):
        return f"{times(delta.shape)} values as they end"
    if isinstance(delta, Replacement):
        return f"a replacement of the weight by {times(delta.shape)} numbers"
    if isinstance(delta, Rows):
        return f"rows of {describe(delta.whole)}"
    if isinstance(delta, Matrix):
        return f"a matrix stored as {type(delta.factor).__name__} of {times(delta.shape)}"
    return type(delta).__name__
