"""Strengths by name: which parts of an adapter act, and how strongly.

The text form is a list of ``selector=strength``, separated by commas or lines; of several that match a layer the last
one counts, and a layer that none matches keeps strength 1::

    default=1, input_blocks.4=0.5, output_blocks.0-2=0, *.attn2.*=0, q=0.3, cross.v=1.2, text_encoder=0, /to_[qk]$/=0

=====================  =================================================================================================
``default``            every layer
``q k v qkv kv out``   a projection of every attention
``self cross joint``   every attention of that kind; ``cross.v`` is one projection of it
``text_encoder``       every layer of every text encoder; ``model`` all the others
``double_blocks.3``    a block; ``double_blocks.3-7`` several; ``double_blocks`` all of them
``a part by name``     one of `krona_ops.targets.parts.MODEL_PARTS`, such as ``norms of the residual blocks``
``attn2.to_q``         any other run of whole parts of a layer's dotted name
``*.attn2.*``          a pattern for the whole dotted name or block: ``*`` stands for anything, ``?`` for one character
``/to_[qk]$/``         a regular expression, found anywhere in the name as the file spells it
=====================  =================================================================================================
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from types import MappingProxyType

from ..errors import ConfigError
from ..names.branches import place_of
from ..names.places import attention_of, block_of, path_of, sorted_blocks, text_encoder_of
from ..names.spellings import projection
from ..targets.parts import BIAS, MODEL_PARTS
from ..updates.adapter import Adapter
from ..updates.gates import acting

_PROJECTIONS = ("q", "k", "v", "qkv", "kv", "out")
_ATTENTIONS = ("self", "cross", "joint")
_PLAIN = re.compile(r"[\w.]+")
"""What the text form holds as it is, whatever stands around it."""
_ENTRY = re.compile(r"\s*(?P<selector>/(?:\\.|[^/\\\n])*/|[^=,\n]*?)\s*(?:=\s*(?P<weight>[^,\n]*?)\s*)?(?:[,\n]|$)")


@dataclass(frozen=True)
class WeightRule:
    """The strength of the layers that a selector names."""

    selector: str
    """See the module's table."""
    weight: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ConfigError(
                f'"{self.selector}" has the strength {self.weight}.',
                found=self.weight,
                expected="a finite number",
                remedy="0 leaves the layers out, 1 keeps them as they are.",
            )
        _matcher(self.selector)

    def matches(self, name: str) -> bool:
        """Whether this rule speaks of the layer ``name``."""
        return _matcher(self.selector)(name)


@dataclass(frozen=True)
class Weights:
    """Strengths for all layers of an adapter: the last rule that matches counts; 1 where none does."""

    rules: tuple[WeightRule, ...] = ()

    def of(self, name: str) -> float:
        """The strength of the layer ``name``."""
        return next((rule.weight for rule in reversed(self.rules) if rule.matches(name)), 1.0)

    def __add__(self, other: Weights) -> Weights:
        """Both lists of rules, the other's last, so that they count where both speak."""
        return Weights(self.rules + other.rules)

    def __str__(self) -> str:
        return format_weights(self)


@lru_cache(maxsize=1024)
def _matcher(selector: str) -> Callable[[str], bool]:
    """A function that says whether a layer's name matches the selector.

    Raises:
        ConfigError: It is empty, or no regular expression.
    """
    attention, _, of_it = selector.partition(".")
    if not selector:
        raise ConfigError("A strength without a selector.", found="=…", expected="selector=strength", remedy=_EXAMPLE)
    if selector in ("default", "*"):
        return lambda name: True
    if selector in ("text_encoder", "model"):
        return lambda name: (text_encoder_of(name) is not None) == (selector == "text_encoder")
    if selector in MODEL_PARTS:
        return MODEL_PARTS[selector].has
    if selector in _PROJECTIONS:
        return lambda name: projection(_layer_of(name)) == selector
    if attention in _ATTENTIONS and (not of_it or of_it in _PROJECTIONS):
        return lambda name: attention_of(_layer_of(name)) == attention and of_it in ("", projection(_layer_of(name)))
    if selector.startswith("/"):
        return _regular_expression(selector)
    if re.search(r"[*?]", selector):
        pattern = re.compile("".join({"*": ".*", "?": ".", ".": "[._]"}.get(c, re.escape(c)) for c in selector), re.S)
        return lambda name: any(pattern.fullmatch(text) for text in (block_of(name), path_of(name), name))
    return _run_of_parts(selector)


def _layer_of(name: str) -> str:
    """The layer that a bias belongs to; of any other name that itself."""
    return name.removesuffix(BIAS)


def _regular_expression(selector: str) -> Callable[[str], bool]:
    try:
        if not re.fullmatch(r"/.+/", selector, re.S):
            raise re.error("it has no end, or nothing in it")
        pattern = re.compile(selector[1:-1])
    except re.error as error:
        raise ConfigError(
            f"{selector} is no regular expression: {error}.",
            found=selector,
            expected="a Python regular expression between slashes",
            remedy='A plain part of a name, such as "attn2", or a pattern with stars, such as "*.attn2.*", is often enough.',
        ) from error
    return lambda name: pattern.search(name) is not None


def _run_of_parts(selector: str) -> Callable[[str], bool]:
    """A block with all that is in it; or, unless the selector names a numbered block,
    a run of whole parts of the path."""
    parts = [_number(part) for part in selector.split(".")]
    start = re.compile(rf"{re.escape('.').join(parts)}(?:\.|$)")
    inside = re.compile(rf"(?:^|\.){start.pattern}")
    is_block = re.fullmatch(r"\w*?(?:blocks?|layers?|refiner)\.\d+(?:-\d+)?", selector) is not None

    return lambda name: bool(start.match(block_of(name)) or (not is_block and inside.search(path_of(name))))


def _number(part: str) -> str:
    """A part of a path as a pattern: ``3-7`` is each of these numbers, anything else itself."""
    span = re.fullmatch(r"(\d+)-(\d+)", part)
    if not span:
        return re.escape(part)
    low, high = int(span[1]), int(span[2])
    if low > high or high > 999:
        raise ConfigError(
            f'"{part}" is no range of blocks.',
            found=part,
            expected="two numbers, the smaller one first",
            remedy=_EXAMPLE,
        )
    return f"(?:{'|'.join(map(str, range(low, high + 1)))})"


_EXAMPLE = "For example: default=1, input_blocks.4=0.5, *.attn2.*=0, q=0.3"


def parse_weights(text: str) -> Weights:
    """The weights in a text of the form that the module describes.

    Raises:
        ConfigError: An entry is no ``selector=strength``.
    """
    text = re.sub(r"(?:^|(?<=\s))#[^\n]*", "", text)
    rules, position = [], 0
    while position < len(text):
        entry = _ENTRY.match(text, position)
        position = entry.end() if entry else len(text)
        selector, weight = (entry["selector"], entry["weight"]) if entry else (text, None)
        if selector or weight is not None:
            rules.append(WeightRule(selector, _strength(selector, weight)))
    return Weights(tuple(rules))


def _strength(selector: str, weight: str | None) -> float:
    try:
        return float(weight or "")
    except ValueError as error:
        raise ConfigError(
            f'"{selector}" has the strength "{weight}".' if weight else f'"{selector}" has no strength.',
            found=weight,
            expected="selector=strength, the strength a number",
            remedy=_EXAMPLE,
        ) from error


def format_weights(weights: Weights) -> str:
    """Write the text form; `parse_weights` gives the same rules back."""
    return ", ".join(f"{rule.selector}={_shortest(rule.weight)}" for rule in weights.rules)


def _shortest(number: float) -> str:
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


def apply_weights(adapter: Adapter, weights: Weights) -> Adapter:
    """Every layer times its strength, exactly: the tensors are shared. Layers of strength 0 are left out.

    A parallel branch has a strength for each place where it stands, that of its gate there.
    """
    strength = lru_cache(maxsize=None)(weights.of)
    layers = {name: delta for name, delta in adapter.layers.items() if strength(acting(name))}
    return replace(adapter, layers=layers).weighted(strength)


def describe_unmatched(adapter: Adapter, weights: Weights) -> tuple[str, ...]:
    """A line for each rule that speaks of no layer of this adapter, with what it may have meant."""
    blocks = sorted_blocks(map(block_of, adapter.layers))
    names = set(map(acting, adapter.layers))
    what = "gates, which alone have strengths" if any(map(place_of, names)) else "layers"
    lines = []
    for rule in weights.rules:
        if not any(map(rule.matches, names)):
            close = difflib.get_close_matches(rule.selector, blocks, 1, 0.5) or blocks[:1]
            hint = f"; its blocks are named like {close[0]}" if close else ""
            lines.append(f'"{rule.selector}" matches none of the adapter\'s {len(names)} {what}{hint}.')
    return tuple(lines)


def selectors(names: Iterable[str]) -> dict[str, str]:
    """For each block of these layers a selector that matches its layers and no other, the shortest that does."""
    blocks: dict[str, list[str]] = {}
    for name in names:
        blocks.setdefault(block_of(name), []).append(name)
    everything = [name for inside in blocks.values() for name in inside]
    return {block: _selector(block, inside, everything) for block, inside in blocks.items()}


def _selector(block: str, inside: list[str], everything: list[str]) -> str:
    """The block's own name, unless that means more (``out`` every output, ``down_blocks.1`` its attentions too)."""
    paths = [path_of(name).split(".") for name in inside]
    shared = ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
    wanted = set(inside)
    for selector in (block, shared):
        matches = _matcher(selector) if _PLAIN.fullmatch(selector) else (lambda name: False)
        if all(matches(name) == (name in wanted) for name in everything):
            return selector
    listed = "|".join(re.escape(name).replace("/", r"\/") for name in inside)
    return f"/^(?:{listed})$/"


PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "all": "default=1",
        "self attention only": "default=0, self=1",
        "cross attention only": "default=0, cross=1",
        "values and outputs only": "default=0, v=1, out=1",
        "queries and keys only": "default=0, q=1, k=1",
        "without the text encoder": "text_encoder=0",
        "text encoder only": "default=0, text_encoder=1",
        # The blocks behind the second halving of the picture: 1280 channels in SD1.5, SD2 and SDXL.
        "deep blocks only (SD, SDXL)": (
            "default=0, input_blocks.7-11=1, middle_block=1, output_blocks.0-2=1, down_blocks.2-3=1, mid_block=1, up_blocks.0=1"
        ),
        # B-LoRA (Frenkel et al. 2024, arXiv 2403.14572): of SDXL's transformer blocks the fourth holds content, the
        # fifth style.
        "content only (SDXL, B-LoRA)": "default=0, output_blocks.0=1, up_blocks.0.attentions.0=1",
        "style only (SDXL, B-LoRA)": "default=0, output_blocks.1=1, up_blocks.0.attentions.1=1",
        "double blocks only (Flux)": "default=0, double_blocks=1, /(^|[._])transformer_blocks[._]/=1, single_transformer_blocks=0",
        "single blocks only (Flux)": "default=0, single_blocks=1, single_transformer_blocks=1",
    }
)
"""Ready lists by name, in the text form. One that fits another family of models
leaves all layers out, which is told."""
