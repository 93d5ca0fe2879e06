"""Which layer a tensor of an adapter file belongs to, and which part of it it is: the only place that knows spellings."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ..errors import FormatError

_LORA_SPELLINGS = (
    (".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"),  # kohya, LyCORIS
    (".lora_B.weight", ".lora_A.weight", None),  # PEFT, diffusers
    (".lora_B.default.weight", ".lora_A.default.weight", None),  # PEFT without its own save function
    (".lora_B", ".lora_A", None),  # Mochi
    (".lora.up.weight", ".lora.down.weight", None),  # diffusers
    ("_lora.up.weight", "_lora.down.weight", None),  # diffusers' attention processors
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight", None),  # diffusers' text encoders
)
_OWN = (
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    *("cdka_a", "cdka_b"),
    *("diff", "diff_b", "w_norm", "b_norm"),
    *("alpha", "dora_scale", "scalar"),
)
_MAGNITUDE = ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight")

SUFFIXES: dict[str, str] = {
    **{f".{part}": part for part in _OWN},
    **{f".{part}.default": part for part in _OWN if part[:4] in ("lokr", "hada")},
    **{
        spelling: part
        for spellings in _LORA_SPELLINGS
        for spelling, part in zip(spellings, ("lora_up", "lora_down", "lora_mid"), strict=True)
        if spelling
    },
    **{f".{spelling}": "magnitude" for spelling in _MAGNITUDE},
    ".lora_B.bias": "lora_bias",
}
"""The end of a tensor's name, and what we call that part."""
IGNORED_PREFIXES = ("bundle_emb.",)
"""Textual inversions that kohya's and OneTrainer's files carry along: harmless, but not an update of a layer."""
_OTHER_METHODS = {
    ".oft_blocks": "an OFT adapter",
    ".oft_diag": "an OFT adapter",
    ".a1.weight": "a GLoRA adapter",
    ".on_input": "an IA3 adapter",
    ".set_weight": "a replacement of a weight",
    ".reshape_weight": "a LoRA that enlarges a weight",
}
_BY_LENGTH = sorted(SUFFIXES, key=len, reverse=True)


@lru_cache(maxsize=100_000)
def split(key: str) -> tuple[str, str] | None:
    """The layer and the part of a tensor by its name, or ``None`` where no method that is known here writes such a name.

    >>> split("lora_unet_mid_block.lokr_w1")
    ('lora_unet_mid_block', 'lokr_w1')
    """
    for suffix in _BY_LENGTH:
        if key.endswith(suffix) and len(key) > len(suffix):
            return key[: -len(suffix)], SUFFIXES[suffix]
    return None


def group(keys: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Sort a file's tensor names by layer and part.

    Returns:
        ``{layer: {part: key}}`` in the file's order, and the names that are left out on purpose.

    Raises:
        FormatError: A name belongs to no known method, or two name the same part of one layer.
    """
    layers: dict[str, dict[str, str]] = {}
    ignored = []
    for key in keys:
        if key.startswith(IGNORED_PREFIXES):
            ignored.append(key)
            continue
        found = split(key)
        if found is None:
            raise _unknown(key)
        layer, part = found
        parts = layers.setdefault(layer, {})
        if part in parts:
            raise FormatError(
                f"Two tensors are the same part of it: {parts[part]} and {key}.",
                layer=layer,
                found=(parts[part], key),
                expected="one",
                remedy="The file was put together from two; load them one after the other.",
            )
        parts[part] = key
    return layers, ignored


def methods(keys: Iterable[str]) -> set[str]:
    """The kinds of update in a file, by the beginning of their parts: ``lokr``, ``hada``, ``lora``, ``cdka``, ``diff``."""
    found = {split_key[1] for key in keys if (split_key := split(key))}
    kinds = {part.partition("_")[0] for part in found} & {"lokr", "hada", "lora", "cdka"}
    if found & {"diff", "diff_b", "w_norm", "b_norm"}:
        kinds.add("diff")
    return kinds


def _unknown(key: str) -> FormatError:
    layer, _, part = key.rpartition(".")
    method = next((text for suffix, text in _OTHER_METHODS.items() if key.endswith(suffix)), None)
    return FormatError(
        f"{method[0].upper()}{method[1:]}, which cannot be read." if method else f'No known method has a tensor "{part}".',
        layer=layer or key,
        found=key,
        expected="LoKr, LoHa, LoRA, DiffuseKronA or diff tensors",
        remedy="Load the file with the program that it was made for." if method else "Is the file mixed or damaged?",
    )
