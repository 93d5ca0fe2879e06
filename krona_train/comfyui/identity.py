"""What tells two of the host's models apart: whatever changes what comes out of them."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from krona_host.types import Clip, Model, Patcher, Vae

from ..batches.fingerprint import sampled_fingerprint

log = logging.getLogger(__name__)

_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device, torch.Size, enum.Enum, Path)
_CODE = (
    "injections",
    "wrappers",
    "callbacks",
    "hook_patches",
    "forced_hooks",
    "weight_wrapper_patches",
    "additional_models",
)
"""What may change a patcher's output by code, which has no identity that outlives the process."""


_NEVER_USED = "clip_l.transformer.text_projection.weight"
"""SD1-type checkpoints lack it, and the host leaves whatever was in memory there: another at each load. What it makes,
CLIP-L's projected pooled output, reaches no diffusion model."""


class _UnknownError(Exception):
    """Something that may change the output and cannot be told apart from others."""


def vae_identity(vae: Vae) -> str | None:
    """Differs for VAEs that encode differently, also after a restart; ``None`` where that cannot be told."""
    if getattr(vae, "first_stage_model", None) is None or getattr(vae, "patcher", None) is None:
        return None  # a checkpoint without one, about which the host has its own words, or another pack's
    traits = (
        "vae",
        _class(vae),
        _class(vae.first_stage_model),
        *(vae.latent_channels, vae.latent_dim, vae.spacial_compression_encode(), vae.crop_input, vae.not_video),
        *(str(vae.vae_dtype), str(vae.vae_output_dtype()), torch.device(vae.device).type),
    )
    return _identity(traits, vae.patcher)


def clip_identity(clip: Clip) -> str | None:
    """Differs for text encoders that encode differently: other weights, clip skip, LoRAs and their strengths."""
    traits = (
        "clip",
        _class(clip),
        _class(clip.cond_stage_model),
        _class(clip.tokenizer),
        *(clip.layer_idx, clip.use_clip_schedule, clip.tokenizer_options, torch.device(clip.patcher.load_device).type),
    )
    if clip.apply_hooks_to_conds is not None:
        return None
    return _identity(traits, clip.patcher)


def is_told_by_its_weights(model: Model) -> bool:
    """Whether nothing but the model's weights decides what it draws, so that their fingerprint tells it apart."""
    options = model.model_options
    has_options = options.get("transformer_options") or options.keys() - {"transformer_options"}
    return not (has_options or model.object_patches or model.injections)


def _identity(traits: tuple[object, ...], patcher: Patcher) -> str | None:
    """A hash of some traits, the first of which is what it is, and of a patcher's weights with what is patched on them.

    ``None`` where something has no identity.
    """
    digest = hashlib.sha256()
    try:
        _require_no_code(patcher)
        options = {name: value for name, value in patcher.model_options.items() if value}
        for text in _texts((traits, options, patcher.object_patches)):
            digest.update(f"{text}\0".encode())
        # The original weights: those in the module may be patched by another clone that is loaded at the moment.
        for name, ((weight, *_), *patches) in sorted(patcher.get_key_patches().items()):
            if name.endswith(_NEVER_USED):
                continue
            assert isinstance(weight, Tensor)
            plain = dequantised(weight)
            digest.update(f"{weight.dtype} {type(weight).__name__} {sampled_fingerprint([(name, plain)])}\0".encode())
            for text in _texts(patches):
                digest.update(f"{text}\0".encode())
    except _UnknownError as error:
        what = traits[0]
        log.info("KronA: what this %s encodes is not kept for the next run, because it depends on %s.", what, error)
        return None
    return digest.hexdigest()


def _require_no_code(patcher: Patcher) -> None:
    for name in _CODE:
        if _holds_something(getattr(patcher, name, None)):
            raise _UnknownError(f"its {name.replace('_', ' ')}")


def _holds_something(value: object) -> bool:
    return any(map(_holds_something, value.values())) if isinstance(value, Mapping) else bool(value)


def _texts(value: object) -> Iterator[str]:
    """A value as texts that are the same for equal values, in this process and in others.

    Raises:
        _UnknownError: There is something in it that has no such text.
    """
    if isinstance(value, Tensor):
        on_meta = f"{value.dtype} {tuple(value.shape)}"
        yield on_meta if value.is_meta else sampled_fingerprint([("", dequantised(value))])
    elif isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, Mapping):
        yield f"{{{len(value)}"
        for name in sorted(value, key=repr):
            yield from _texts((name, value[name]))
    elif isinstance(value, (list, tuple)):
        yield f"({len(value)}"
        for part in value:
            yield from _texts(part)
    elif isinstance(value, WeightAdapterBase):
        yield _class(value)
        yield from _texts(value.weights)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield _class(value)
        yield from _texts([getattr(value, field.name) for field in dataclasses.fields(value)])
    else:
        raise _UnknownError(f"a {type(value).__name__}")


def _class(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def dequantised(weight: Tensor) -> Tensor:
    """A weight in full numbers, whether or not it is quantised."""
    is_quantised = type(weight.data) is not Tensor and hasattr(weight, "dequantize")
    return weight.dequantize() if is_quantised else weight
