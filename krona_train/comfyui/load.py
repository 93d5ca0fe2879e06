"""Models from files through the host's own loaders, and back: which files a loaded model came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypedDict, TypeVar

import comfy.sd
import comfy.utils
import torch

from krona_host.types import Clip, Model, Origin, Patcher, Vae
from krona_ops.errors import ConfigError

from ..run.job import ModelFiles

T = TypeVar("T")
What = Literal["model", "clip", "vae"]
_DTYPES: dict[str, dict[str, object]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
"""Options of the diffusion model alone, by the names of the host's loader node."""


def load_model(files: ModelFiles) -> Model:
    """The diffusion model.

    Raises:
        ConfigError: No file is named, or the host cannot load it.
    """
    if files.diffusion_model:
        if files.weight_dtype not in _DTYPES:
            raise ConfigError(
                f"There is no weight_dtype {files.weight_dtype}.",
                found=files.weight_dtype,
                expected=", ".join(_DTYPES),
                remedy="Take default.",
            )
        options = dict(_DTYPES[files.weight_dtype])
        path = files.diffusion_model
        return _load(path, lambda: comfy.sd.load_diffusion_model(path, model_options=options))
    if not files.checkpoint:
        raise ConfigError(
            "No model is named.",
            where="model",
            found="neither checkpoint nor diffusion_model",
            expected="the path of a file",
            remedy="Add checkpoint: /path/to/model.safetensors below model:.",
        )
    return _checkpoint(files, model=True)[0]


def load_clip(files: ModelFiles) -> Clip | None:
    """The text encoder; ``None`` where the checkpoint has none and no file is named.

    Raises:
        ConfigError: The host cannot load it.
    """
    if files.text_encoders:
        kind = getattr(comfy.sd.CLIPType, files.clip_type.upper(), None)
        if kind is None:
            raise ConfigError(
                f"There is no clip_type {files.clip_type}.",
                found=files.clip_type,
                expected=", ".join(t.name for t in comfy.sd.CLIPType),
                remedy="Take the name that the loader node shows.",
            )
        paths = list(files.text_encoders)
        return _load(paths[0], lambda: comfy.sd.load_clip(ckpt_paths=paths, clip_type=kind))
    return _checkpoint(files, clip=True)[1] if files.checkpoint else None


def load_vae(files: ModelFiles) -> Vae | None:
    """The VAE; ``None`` where the checkpoint has none and no file is named.

    Raises:
        ConfigError: The host cannot load it.
    """
    if files.vae:
        return _load(files.vae, lambda: _vae(files.vae))
    return _checkpoint(files, vae=True)[2] if files.checkpoint else None


def _vae(path: str) -> Vae:
    weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.throw_exception_if_invalid()
    return vae


def _checkpoint(files: ModelFiles, *, model: bool = False, clip: bool = False, vae: bool = False) -> tuple:
    """What the host makes of a checkpoint: model, text encoder, VAE and more; ``None`` for what is not asked for."""
    return _load(
        files.checkpoint,
        lambda: comfy.sd.load_checkpoint_guess_config(
            files.checkpoint, output_model=model, output_clip=clip, output_vae=vae, embedding_directory=None
        ),
    )


def _load(path: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except Exception as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"ComfyUI cannot load it: {first.rstrip('.')}.",
            where=path,
            found=type(error).__name__,
            expected="a model file that ComfyUI knows",
            remedy="Check the path, and whether ComfyUI's own loader node opens it.",
        ) from error


class _Files(TypedDict, total=False):
    """What `ModelFiles` names, and the checkpoints that a text encoder and a VAE came from."""

    checkpoint: str
    checkpoint_clip: str
    checkpoint_vae: str
    diffusion_model: str
    weight_dtype: str
    text_encoders: tuple[str, ...]
    clip_type: str
    vae: str


def files_of(model: Model | None, clip: Clip | None, vae: Vae | None) -> ModelFiles:
    """The files that loader nodes have loaded these from, for a process of its own.

    Raises:
        ConfigError: Something was changed after it was loaded (a LoRA, clip skip), or its loader leaves no trace.
    """
    files = _Files()
    patchers: dict[What, Patcher | None] = {
        "model": model,
        "clip": None if clip is None else clip.patcher,
        "vae": None if vae is None else vae.patcher,
    }
    for what, patcher in patchers.items():
        if patcher is None:
            continue
        _require_as_loaded(what, patcher)
        files |= _origin(what, patcher.cached_patcher_init)
    if clip is not None and clip.layer_idx is not None:
        raise _not_as_loaded("clip", "clip skip")
    checkpoint = files.get("checkpoint", "")
    for what, other in (("clip", files.get("checkpoint_clip")), ("vae", files.get("checkpoint_vae"))):
        if other is not None and other != checkpoint:
            raise _not_as_loaded(what, "another checkpoint than the model's")
    return ModelFiles(
        checkpoint,
        files.get("diffusion_model", ""),
        files.get("weight_dtype", ModelFiles.weight_dtype),
        files.get("text_encoders", ()),
        files.get("clip_type", ModelFiles.clip_type),
        files.get("vae", ""),
    )


def _origin(what: What, init: Origin | None) -> _Files:
    """The files that a loader's function was called with."""
    arguments: tuple = init[1] if init else ()
    name = init[0].__name__ if init else ""
    if name == "load_checkpoint_guess_config":
        return {"checkpoint": arguments[0]}
    if name in ("load_checkpoint_clip_patcher", "load_checkpoint_vae_patcher"):
        return {"checkpoint_clip": arguments[0]} if what == "clip" else {"checkpoint_vae": arguments[0]}
    if name == "load_diffusion_model":
        dtype = next((dtype for dtype, options in _DTYPES.items() if options == arguments[1]), None)
        if dtype is not None:
            return {"diffusion_model": arguments[0], "weight_dtype": dtype}
    if name == "load_clip_model_patcher":
        return {"text_encoders": tuple(arguments[0]), "clip_type": arguments[2].name}
    if name == "load_vae_patcher":
        return {"vae": arguments[0]}
    raise _not_as_loaded(what, "a loader that does not say which file it read")


def _require_as_loaded(what: What, patcher: Patcher) -> None:
    changes = {
        "a LoRA or another patch": patcher.patches,
        # The host itself puts some on text encoders.
        "an object patch such as a sampling node's": what == "model" and patcher.object_patches,
        "a bypassed adapter": patcher.injections,
    }
    reason = next((text for text, change in changes.items() if change), None)
    if reason is not None:
        raise _not_as_loaded(what, reason)


def _not_as_loaded(what: str, why: str) -> ConfigError:
    return ConfigError(
        f"The {what} cannot be loaded again in a process of its own: it has {why}.",
        where=what,
        found=why,
        expected="a model straight from ComfyUI's own loader node",
        remedy="Train in ComfyUI itself, or connect the loader directly.",
    )
