"""Whether the ``adapter_config.json`` beside a file is about it: in a folder of many files it may be another one's.

PEFT saves each adapter into a folder of its own, but files are renamed and gathered in one folder, where one of the
settings' files remains. So they are believed only where kind, target modules,
ranks and norms of the file are those that they speak of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import FormatError
from ..shown import shown
from . import parts
from .header import SIDECAR, Header
from .patterns import matches_whole
from .peft_config import METHOD_OF, PEFT_PREFIX, PeftConfig, kind_of

Layers = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Shapes by the path of a layer inside the model, and part."""
LONGEST = 1_000
"""Characters of a target that are compared; no layer's name has more."""
_DOWN = ("lora_down", "lora_embedding_a", "lokr_w2_b", "lokr_w1_b", "hada_w1_b")
"""Parts whose first axis is the rank."""


def settings_beside(header: Header) -> tuple[PeftConfig | None, str]:
    """The settings beside a file, if they are about it, and what the user is told:
    that they were used, or why they were not.

    Nothing is told where there are none.
    """
    if not header.config:
        return None, ""
    config = PeftConfig.parse(header.config)
    reason = "they say no rank and alpha" if config is None else _contradiction(header, config)
    if config is None or reason:
        return None, f"There are PEFT settings beside the file ({SIDECAR}), which were not used: {reason}."
    targets = header.config.get("target_modules")
    is_compared = _Targets(targets).has("") is not None
    compared = "kind, target modules and ranks" if is_compared else "kind and ranks"
    doubt = f"; their target_modules, '{shown(targets)}', could not be compared" if targets and not is_compared else ""
    return config, f"The PEFT settings beside the file ({SIDECAR}) were used: {compared} are those of the file{doubt}."


def _contradiction(header: Header, config: PeftConfig) -> str:
    """Why settings are not about a file; empty where nothing speaks against it."""
    names = parts.updates(header.shapes)  # what else is in the file says nothing about who made it
    if not all(name.startswith(PEFT_PREFIX) for name in names):
        return "the file's layers are not named as PEFT names them"
    if any(f"{name}.alpha" in header.shapes for name in names):
        return "the file has an alpha for each layer, which PEFT never saves"
    methods = parts.methods(header)
    if config.kind in METHOD_OF and methods and methods != {METHOD_OF[config.kind]}:
        return f"they are about {config.kind}, and the file holds {' and '.join(sorted(methods))} tensors"
    if config.kind not in METHOD_OF and methods:
        return f"they are about {config.kind or 'another kind'}, which is not what the file holds"
    layers = _layers(header)
    return _other_layers(header, layers) or _other_ranks(layers, config) or _other_norms(layers, header.config)


def _layers(header: Header) -> Layers:
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    updates = set(parts.updates(header.shapes))
    for key, shape in header.shapes.items():
        if (split := parts.split(key)) and split[0] in updates:
            layers.setdefault(split[0].removeprefix(PEFT_PREFIX), {})[split[1]] = shape
    return layers


def _other_layers(header: Header, layers: Layers) -> str:
    """Why the settings' target modules are not this file's; empty where they may be.

    PEFT adapts what a target is the name of, or the end of the name (`tuners_utils.check_target_module_exists`).
    """
    targets, excluded = header.config.get("target_modules"), header.config.get("exclude_modules")
    indices = _indices(header.config.get("layers_to_transform"))
    wanted, unwanted = _Targets(targets), _Targets(excluded)
    for path in layers:
        if wanted.has(path) is False or unwanted.has(path):
            return f"{path} is none of their target_modules"
        if indices and not indices & {int(part) for part in path.split(".")[:-1] if part.isdecimal()}:
            return f"{path} is none of their layers_to_transform"
    if header.has_own_config or not isinstance(targets, list):
        return ""
    # Among many files a target without a layer means another file's settings; beside its only file it is one that the
    # model lacks.
    ends = {end for path in layers for end in _ends(path)}
    missing = next((target for target in targets if shown(target, LONGEST) not in ends), None)
    return f"the file has no layer {shown(missing)}, which they speak of" if missing is not None else ""


class _Targets:
    """The target modules of PEFT's settings, to look up each layer of a file in."""

    def __init__(self, targets: object) -> None:
        self._pattern = targets if isinstance(targets, str) else None
        self._names = {shown(name, LONGEST) for name in targets} if isinstance(targets, list) else None

    def has(self, path: str) -> bool | None:
        """Whether a layer is one of them; ``None`` where only the model or an expression would tell."""
        if self._pattern is not None:
            return None if self._pattern == "all-linear" else matches_whole(self._pattern, path)
        return any(end in self._names for end in _ends(path)) if self._names else None


def _ends(path: str) -> Iterator[str]:
    """A path, and what is behind each of its dots."""
    while path:
        yield path
        path = path.partition(".")[2]


def _indices(value: object) -> set[int]:
    return {
        n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int) and not isinstance(n, bool)
    }


def _other_ranks(layers: Layers, config: PeftConfig) -> str:
    for path, shapes in layers.items():
        try:
            allowed = {config.rank_of(path)}
        except FormatError:  # an expression: any of the ranks that they name
            allowed = {config.r, *config.rank_pattern.values()}
        rank = next((shapes[part][0] for part in _DOWN if shapes.get(part)), None)
        least = _least_rank(shapes)
        if rank is not None and rank not in allowed:
            return f"{path} has rank {rank}, they say {min(allowed):g}"
        if least is not None and max(allowed) < least:
            return f"{path} is whole, which a rank of {max(allowed):g} is too small for"
    return ""


def _least_rank(shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """The least rank that a layer's settings have: PEFT keeps ``lokr_w2`` whole from half its larger side on."""
    whole = shapes.get("lokr_w2")
    return max(whole[:2]) / 2 if whole else None


def _other_norms(layers: Layers, values: Mapping[str, object]) -> str:
    has_norms = any("magnitude" in shapes for shapes in layers.values())
    if kind_of(values) == "LORA" and "use_dora" in values and bool(values["use_dora"]) != has_norms:
        return f"they are of a LoRA {'with' if values['use_dora'] else 'without'} DoRA norms, the file has {'some' if has_norms else 'none'}"
    return ""
