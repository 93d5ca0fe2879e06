"""Two files that are one adapter: ResAdapter's LoRA of the convolutions between levels, and its values of norms.

The LoRA is ``pytorch_lora_weights.safetensors``, the values are ``diffusion_pytorch_model.safetensors``; which is which
is told by what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from ..errors import FormatError
from ..left_out import LeftOut
from ..names.resadapter import base_model, is_norm, is_sampler, levels, output_of
from ..updates.absolute import waiting
from ..updates.adapter import Adapter
from ..updates.delta import Delta, Matrix
from ..updates.factor import LowRank
from .inspection import LayerFacts

Half = Literal["LoRA", "norm values"]
_NAMES: dict[Half, str] = {
    "LoRA": "the LoRA of the down- and upsamplers (pytorch_lora_weights.safetensors)",
    "norm values": "the values of the residual blocks' norms (diffusion_pytorch_model.safetensors)",
}
_OTHERS: dict[Half, Half] = {"LoRA": "norm values", "norm values": "LoRA"}


def half_of(adapter: Adapter) -> Half | None:
    """Which of the two an adapter is; ``None`` for any other, and for both together."""
    layers = adapter.layers
    if not layers:
        return None
    if all(map(is_norm, layers)) and len(waiting(layers)) == len(layers):
        return "norm values"
    return "LoRA" if all(is_sampler(name) and _is_lora(delta) for name, delta in layers.items()) else None


def half_told(layers: Iterable[LayerFacts]) -> tuple[Half | None, int]:
    """As `half_of`, from what a header says, and for a UNet of how many levels; ``None`` and 0 for any other file."""
    methods = {str(layer.name): layer.method for layer in layers}
    kinds = set(methods.values())
    half: Half | None = None
    if kinds == {"norm value"}:
        half = "norm values"
    elif kinds == {"LoRA"} and all(map(is_sampler, methods)):
        half = "LoRA"
    return half, levels(methods) if half else 0


def note_on_half(adapter: Adapter) -> str:
    """What the other file would add, for whoever loads one alone; empty for any other adapter."""
    half = half_of(adapter)
    if half is None:
        return ""
    kind = base_model(adapter.layers)
    is_one = f"This is one of the two files of a ResAdapter{f' for {kind}' if kind else ''}: {_NAMES[half]}"
    if half == "norm values":
        others = 2 * (levels(adapter.layers) - 1)
        adds = f"{_NAMES['LoRA']} would add {others} convolutions"
    else:
        adds = f"{_NAMES['norm values']} would add the norms, without which larger pictures gain less; files for smaller pictures alone (interpolation) have none"
    return f"{is_one}. The other one, {adds}. Choose it as 'other_file' (at a prompt --other)."


def joined(first: Adapter, second: Adapter) -> Adapter:
    """Both files as one adapter, in either order.

    Raises:
        FormatError: They are no such pair, or one for different base models.
    """
    halves = half_of(first), half_of(second)
    if None in halves or halves[0] == halves[1]:
        raise _no_pair(halves)
    lora, norms = (first, second) if halves[0] == "LoRA" else (second, first)
    _require_one_model(lora, norms)
    left_out: dict[LeftOut, None] = dict.fromkeys((*lora.left_out, *norms.left_out))
    notes = dict.fromkeys((*lora.notes, *norms.notes))
    metadata = {**norms.metadata, **lora.metadata}
    return replace(
        lora, layers={**lora.layers, **norms.layers}, metadata=metadata, notes=tuple(notes), left_out=tuple(left_out)
    )


def _no_pair(halves: tuple[Half | None, Half | None]) -> FormatError:
    if None not in halves:
        message = f"Both files are {_NAMES[halves[0] or 'LoRA']}"
        remedy = f"Choose {_NAMES[_OTHERS[halves[0] or 'LoRA']]} as one of them."
    else:
        which = " and ".join(name for name, half in zip(("the first", "the second"), halves, strict=True) if half is None)
        message = f"The two files are no pair: {which} {'are' if ' and ' in which else 'is'} no part of a ResAdapter"
        remedy = "Choose no other file; several adapters are added by Blend KronA, or by a second loader."
    return FormatError(f"{message}.", found=halves, expected=" and ".join(_NAMES.values()), remedy=remedy)


def _require_one_model(lora: Adapter, norms: Adapter) -> None:
    """Refuse a LoRA and values that are for UNets of different levels or widths."""
    theirs, ours = levels(lora.layers), levels(norms.layers)
    if theirs != ours:
        kinds = [f"{n} levels{f' ({kind})' if kind else ''}" for n, kind in (
            (theirs, base_model(lora.layers)), (ours, base_model(norms.layers)),
        )]  # fmt: skip
        raise FormatError(
            f"The two files are for different base models: the LoRA is for a UNet of {kinds[0]}, the norms' values for one of "
            f"{kinds[1]}.",
            found=(theirs, ours),
            expected="one base model",
            remedy="Take both files from one folder of the authors.",
        )
    widths = {_bare(name): delta.shape[0] for name, delta in norms.layers.items()}
    for name, delta in lora.layers.items():
        width = widths.get(output_of(name) or "")
        if width is not None and width != delta.shape[0]:
            raise FormatError(
                f"The two files are for different base models: the LoRA has {delta.shape[0]} channels here, the norms' values "
                f"{width}.",
                layer=name,
                found=(delta.shape[0], width),
                expected="one width",
                remedy="Take both files from one folder of the authors.",
            )


def _bare(name: str) -> str:
    return name.removeprefix("unet.")


def _is_lora(delta: Delta) -> bool:
    return isinstance(delta, Matrix) and isinstance(delta.factor, LowRank)
