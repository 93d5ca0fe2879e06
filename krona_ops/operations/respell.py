"""An adapter under names that ComfyUI's own *Load LoRA* knows, and several adapters under one name per weight,
without a model at hand.

Where the names tell nothing, or several kinds of base model have them for different layers, it is an error that asks
for the model: a file with names that nothing loads is worse than none.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ..errors import FormatError
from ..names.branches import place_of
from ..names.core_names import FLAT, Base, Weight, bases, fitting
from ..names.families import guess
from ..names.spellings import LayerName, flat, spellings
from ..updates.adapter import Adapter
from ..updates.delta import Delta, Sum
from ..updates.embedded import embedded
from ..updates.joined import joined
from ..updates.rows import rows

UNDERSCORED = ("kohya", "kohya-lora")
"""Formats whose names are ``lora_unet_…``; the others keep dots where they can."""
HOW = (
    "Connect the model that it is for to Save KronA or Blend KronA, which then takes the model's own names; "
    "at a prompt, name its kind of base model with --base"
)
_TRUSTED = "diffusion_model."


def base_names() -> tuple[str, ...]:
    """What ``base`` may be: the host's names of the families, in the order of the tables."""
    return tuple(dict.fromkeys(name for base in bases() for name in base.names))


def respelled(adapter: Adapter, format: str = "lokr", *, base: str | None = None) -> Adapter:
    """The same updates under names that ComfyUI's own loader knows, each checked against the tables of `core_names`.

    A name that it knows already stays where the format allows it. Parts of a weight for which ComfyUI has no name of
    their own become updates of the whole weight, exactly. Layers of parallel branches are none of a model, and stay.

    Args:
        format: As for `krona_ops.encode`. PEFT's files get the paths of diffusers where
            ComfyUI knows them, else the model's own.
        base: One of `base_names`, where the names fit several kinds of base model.

    Raises:
        FormatError: A name is none of a layer that is known here,
            or it means different layers on the kinds of base model that it fits.
    """
    layers: dict[LayerName, list[Delta]] = {}
    branches = {name: delta for name, delta in adapter.layers.items() if place_of(name) is not None}
    if branches:
        own = replace(adapter, layers={name: d for name, d in adapter.layers.items() if name not in branches})
        return replace(adapter, layers={**(respelled(own, format, base=base).layers if own.layers else {}), **branches})
    for group in _groups([adapter], base):
        fused = _whole_where_unnamed(group, format)
        for name, delta in fused.items():
            layers.setdefault(LayerName(group.name(name, format)), []).append(delta)
    order = list(adapter.layers)
    merged = {name: deltas[0] if len(deltas) == 1 else joined(Sum(tuple(deltas))) for name, deltas in layers.items()}
    if set(merged) == set(order):
        merged = {name: merged[name] for name in order}
    return replace(adapter, layers=merged)


def unified(adapters: Sequence[Adapter], *, base: str | None = None) -> list[Adapter]:
    """The adapters with one name for each weight, the first that one of them has,
    so that they can be added layer by layer.

    Where one file holds a weight whole and another in parts, the parts become updates of the whole weight. Names that
    no kind of base model has are left alone. Adapters whose names agree already come back as they are.

    Raises:
        FormatError: The kinds of base model that the names fit do not agree on which names are one weight.
    """
    names = [set(adapter.layers) for adapter in adapters]
    if len(adapters) == 1 or all(own == names[0] for own in names):
        first = _groups(adapters[:1], base, strict=False)
        if all(len(set(group.weights.values())) == len(group.weights) for group in first):
            return list(adapters)
    chosen: dict[str, tuple[str, str, int]] = {}  # name -> (its new name, part, rows of the whole)
    for group in _groups(adapters, base, strict=False):
        chosen |= group.unified()
    return [_renamed(adapter, chosen) for adapter in adapters]


@dataclass(frozen=True)
class _Group:
    """The layers of a diffusion model, or of text encoders, and the kinds of base model that know most of them."""

    layers: Mapping[str, Delta]
    bases: tuple[Base, ...]

    @property
    def weights(self) -> Mapping[str, tuple[Weight | None, ...]]:
        """What each name means on each of the kinds."""
        return {
            name: tuple(base.means(name, delta.shape) for base in self.bases) for name, delta in self.layers.items()
        }

    def name(self, name: str, format: str) -> str:
        """The name that a file of this format has for the layer."""
        if not self.bases:
            return _native(name, format)
        shape = self.layers[name].shape if name in self.layers else ()
        meant = tuple(base.means(name, shape) for base in self.bases)
        if format == "peft":
            return self._module_path(name, meant)
        options = self._options(name, meant)
        for option in sorted(options, key=lambda option: _rank(option, name, format)):
            if all(base.loads(option) == weight for base, weight in zip(self.bases, meant, strict=True)):
                return option
        raise self._ambiguous(name)

    def _options(self, name: str, meant: tuple[Weight | None, ...]) -> dict[str, None]:
        options = {name: None}
        for base, weight in zip(self.bases, meant, strict=True):
            if weight is not None:
                options |= dict.fromkeys(base.spelled(weight))
            if base.residual:  # a UNet's blocks are counted otherwise in diffusers' words, so these are kept
                end = ".bias" if name.endswith(".bias") else ""
                flat_names = spellings(name.removesuffix(".bias")).names
                options |= {f"lora_unet_{spelled}{last}{end}": None for spelled in flat_names for last in ("", "_0")}
        return options

    def _module_path(self, name: str, meant: tuple[Weight | None, ...]) -> str:
        paths = {base.diffusers(name) for base in self.bases} - {None}
        if len(paths) == 1:
            return str(paths.pop())
        native = {weight.path for weight in meant if weight is not None and not weight.part}
        if "." in name and not name.startswith(FLAT):
            return name.removeprefix("base_model.model.").removeprefix(_TRUSTED)
        if len(native) == 1:
            return native.pop()
        raise self._ambiguous(name)

    def unified(self) -> dict[str, tuple[str, str, int]]:
        """The new name, the part and the rows of the whole weight, for each layer that does not keep its own."""
        plans = [self._plan(index) for index in range(len(self.bases))]
        if any(plan != plans[0] for plan in plans[1:]):
            raise self._ambiguous(next(n for n in self.layers if len({plan.get(n) for plan in plans}) > 1))
        return plans[0] if plans else {}

    def _plan(self, index: int) -> dict[str, tuple[str, str, int]]:
        by_path: dict[tuple[str, bool], dict[str, list[str]]] = {}
        for name, meant in self.weights.items():
            if (weight := meant[index]) is not None:
                by_path.setdefault((weight.path, weight.bias), {}).setdefault(weight.part, []).append(name)
        plan: dict[str, tuple[str, str, int]] = {}
        for (path, bias), parts in by_path.items():
            if len(parts) > 1 and ("" in parts or "swap" in parts or _overlap(parts)):
                whole = (parts.get("") or [next(iter(self.bases[index].spelled(Weight(path, "", bias))))])[0]
                for part, names in parts.items():
                    plan |= {n: (whole, part, _height(self.layers[n], part)) for n in names if (n, part) != (whole, "")}
            else:
                plan |= {name: (names[0], "", 0) for names in parts.values() for name in names[1:]}
        return plan

    def _ambiguous(self, name: str) -> FormatError:
        families = ", ".join(dict.fromkeys(family for base in self.bases for family in base.names))
        return FormatError(
            "Its name does not tell which layer it is: the adapter's names fit several kinds of base model, which ComfyUI names differently.",
            layer=name,
            found=families,
            expected="one kind of base model",
            remedy=f"{HOW}: {families}.",
        )


def _groups(adapters: Sequence[Adapter], base: str | None, strict: bool = True) -> list[_Group]:
    layers: dict[str, Delta] = {}
    for adapter in adapters:
        for name, delta in adapter.layers.items():
            layers.setdefault(name, delta)
    among = [b for b in bases() if base is None or base in b.names]
    if not among:
        raise FormatError(
            f'There is no kind of base model "{base}".',
            found=base,
            expected=", ".join(base_names()),
            remedy="Take one of these names.",
        )
    encoders = {n: d for n, d in layers.items() if spellings(n).owner == "text encoder"}
    rest = {n: d for n, d in layers.items() if n not in encoders}
    model = _known(rest, [b for b in among if b.kind == "model"], adapters)
    unsaid = {n: d for n, d in rest.items() if n not in model.layers and spellings(n).owner is None}
    clips = [b for b in bases() if b.kind == "text encoder"]
    clip = _known({**encoders, **unsaid}, [b for b in clips if base is None or base in b.names] or clips, adapters)
    unknown = {n: d for n, d in layers.items() if n not in model.layers and n not in clip.layers}
    groups = [group for group in (model, clip) if group.layers]
    if unknown and strict:
        own = all(name.startswith(_TRUSTED) for name in unknown) and len(unknown) > len(model.layers)
        if not own:
            raise _unknown(unknown, len(layers))
        groups.append(_Group(unknown, ()))
    return groups


def _known(layers: Mapping[str, Delta], among: Iterable[Base], adapters: Sequence[Adapter]) -> _Group:
    fit, count = fitting({name: delta.shape for name, delta in layers.items()}, among)
    if not count:
        return _Group({}, ())
    named = [b for b in fit if any(_says(adapter, b) for adapter in adapters)]
    likely = _guessed({name: delta.shape for name, delta in layers.items()}, fit)
    chosen = tuple(named or likely or fit)
    # One that a name means the same on is enough: families that differ in layers which this adapter has not are one
    # kind to it.
    return _Group({n: d for n, d in layers.items() if all(base.means(n, d.shape) for base in chosen)}, chosen)


def _says(adapter: Adapter, base: Base) -> bool:
    """Whether the file's metadata names the base model."""
    metadata = adapter.metadata
    version = metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture", "").partition("/")[0]
    spelled = "".join(filter(str.isalnum, version.lower()))
    return bool(spelled) and any(spelled.startswith(_plain(name)) for name in base.names)


def _guessed(shapes: Mapping[str, tuple[int, ...]], among: Sequence[Base]) -> list[Base]:
    """The kinds of base model that the layers look like, where they look like one family only."""
    looks = guess(shapes) if len(among) > 1 else None
    if looks is None or re.match("an? ", looks) or re.search(r"\bor (?:the\b|[A-Z])", looks):
        return []
    word = _plain(re.split(r"[ .\d]", looks)[0])
    return [base for base in among if any(_plain(name).startswith(word) for name in base.names)]


def _plain(family: str) -> str:
    return "".join(filter(str.isalnum, family.partition(" (")[0].lower()))


def _rank(option: str, name: str, format: str) -> tuple[bool, bool, bool, int]:
    """A key that sorts the best name first: one in the format's style, the file's own, one that ComfyUI makes of a path."""
    underscored = option.startswith(FLAT) and "." not in option.removesuffix(".bias")
    # A UNet's blocks are counted by its configuration in diffusers' words and by position in the host's, so words are
    # kept.
    keeps_words = spellings(name.removesuffix(".bias")).names[-1] in flat(option)
    if format in UNDERSCORED:
        common = next((n for n, prefix in enumerate(("lora_unet_", "lora_te")) if option.startswith(prefix)), 2)
        return not underscored, option != name or not name.startswith("lora_"), not keeps_words, common
    common = next(
        (n for n, p in enumerate(("diffusion_model.", "text_encoders.", "transformer.")) if option.startswith(p)), 3
    )
    return False, option != name, not keeps_words, common


def _native(name: str, format: str) -> str:
    """The file's name of a layer that no table knows: a model's own path, of a model newer than the tables."""
    if format in UNDERSCORED:
        return f"lora_unet_{name.removeprefix(_TRUSTED).replace('.', '_')}"
    return name.removeprefix(_TRUSTED) if format == "peft" else name


def _whole_where_unnamed(group: _Group, format: str) -> dict[str, Delta]:
    """The layers, those that are parts without a name of their own as one update of their whole weight."""
    if format == "peft" or not group.bases:
        return dict(group.layers)
    layers: dict[str, Delta] = {}
    wholes: dict[str, list[Delta]] = {}
    for name, delta in group.layers.items():
        meant = [base.means(name, delta.shape) for base in group.bases]
        parts = {(w.path, w.part, w.bias) for w in meant if w is not None}
        has_name = all(
            w is None or not w.part or base.loads(name) or any(base.spelled(w))
            for base, w in zip(group.bases, meant, strict=True)
        )
        if has_name or len(parts) != 1:
            layers[name] = delta
            continue
        path, part, bias = parts.pop()
        whole = next(iter(group.bases[0].spelled(Weight(path, "", bias))))
        wholes.setdefault(whole, []).append(_whole(delta, part, _height(delta, part)))
    for name, deltas in wholes.items():
        mine = [layers.pop(name)] if name in layers else []
        layers[name] = joined(Sum((*mine, *deltas))) if len(mine) + len(deltas) > 1 else deltas[0]
    return layers


def _renamed(adapter: Adapter, chosen: Mapping[str, tuple[str, str, int]]) -> Adapter:
    layers: dict[LayerName, list[Delta]] = {}
    for name, delta in adapter.layers.items():
        new, part, height = chosen.get(name, (name, "", 0))
        layers.setdefault(LayerName(new), []).append(_whole(delta, part, height) if part else delta)
    return replace(adapter, layers={n: d[0] if len(d) == 1 else joined(Sum(tuple(d))) for n, d in layers.items()})


def _height(delta: Delta, part: str) -> int:
    """Rows of the weight that an update is a part of."""
    if part in ("", "swap"):
        return delta.shape[0]
    return int(delta.shape[0] / Fraction(part.partition(":")[2]))


def _whole(delta: Delta, part: str, height: int) -> Delta:
    """An update of the whole weight, ``(height, in, *kernel)``."""
    if part == "swap":
        half = height // 2
        return Sum((embedded(rows(delta, 0, half), half, height), embedded(rows(delta, half, half), 0, height)))
    return embedded(delta, int(Fraction(part.partition(":")[0]) * height), height) if part else delta


def _overlap(parts: Iterable[str]) -> bool:
    """Whether two parts of one weight share rows."""
    spans = sorted(
        (Fraction(s), Fraction(s) + Fraction(length)) for s, _, length in (part.partition(":") for part in parts)
    )
    return any(end > start for (_, end), (start, _) in itertools.pairwise(spans))


def _unknown(unknown: Mapping[str, Delta], count: int) -> FormatError:
    names = list(unknown)
    return FormatError(
        f"No kind of base model that is known here has {'this layer' if len(names) == 1 else f'these {len(names)} of the {count} layers'} "
        f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}), so the file would hold names that nothing loads.",
        layer=names[0],
        found=names[0],
        expected="a layer that ComfyUI's Load LoRA knows by some name",
        remedy=f"{HOW}; leave such layers out with weights of 0; or add --keep-names to write the names as they are.",
    )
