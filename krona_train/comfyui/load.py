"""Models from files through the host's own loaders, and back: which files a loaded model came from."""

from __future__ import annotations

from typing import Any

import comfy.sd
import comfy.utils
import torch

from krona_ops.errors import ConfigError

from ..run.job import ModelFiles

_DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
"""Options of the diffusion model alone, by the names of the host's loader node."""


def load_model(files: ModelFiles) -> Any:
    """The diffusion model, as a ``ModelPatcher``.

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
        return _load(files.diffusion_model, lambda: comfy.sd.load_diffusion_model(files.diffusion_model, model_options=options))
    if not files.checkpoint:
        raise ConfigError(
            "No model is named.",
            where="model",
            found="neither checkpoint nor diffusion_model",
            expected="the path of a file",
            remedy="Add checkpoint: /path/to/model.safetensors below model:.",
        )
    return _checkpoint(files, model=True)[0]


def load_clip(files: ModelFiles) -> Any:
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


def load_vae(files: ModelFiles) -> Any:
    """The VAE; ``None`` where the checkpoint has none and no file is named.

    Raises:
        ConfigError: The host cannot load it.
    """
    if files.vae:
        return _load(files.vae, lambda: _vae(files.vae))
    return _checkpoint(files, vae=True)[2] if files.checkpoint else None


def _vae(path: str) -> Any:
    weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.throw_exception_if_invalid()
    return vae


def _checkpoint(files: ModelFiles, *, model: bool = False, clip: bool = False, vae: bool = False) -> Any:
    return _load(
        files.checkpoint,
        lambda: comfy.sd.load_checkpoint_guess_config(
            files.checkpoint, output_model=model, output_clip=clip, output_vae=vae, embedding_directory=None
        ),
    )


def _load(path: str, load: Any) -> Any:
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


def files_of(model: Any, clip: Any, vae: Any) -> ModelFiles:
    """The files that loader nodes have loaded these from, for a process of its own.

    Raises:
        ConfigError: Something was changed after it was loaded (a LoRA, clip skip), or its loader leaves no trace.
    """
    where: dict[str, Any] = {}
    for what, patcher in (("model", model), ("clip", clip and clip.patcher), ("vae", vae and vae.patcher)):
        if patcher is None:
            continue
        _require_as_loaded(what, patcher)
        where |= _origin(what, patcher.cached_patcher_init)
    if clip is not None and clip.layer_idx is not None:
        raise _not_as_loaded("clip", "clip skip")
    if where.get("checkpoint_vae") == where.get("checkpoint"):
        where.pop("checkpoint_vae", None)
    if where.get("checkpoint_clip") == where.get("checkpoint"):
        where.pop("checkpoint_clip", None)
    foreign = where.keys() & {"checkpoint_vae", "checkpoint_clip"}
    if foreign:
        raise _not_as_loaded(sorted(foreign)[0].removeprefix("checkpoint_"), "another checkpoint than the model's")
    return ModelFiles(**where)


def _origin(what: str, init: tuple | None) -> dict[str, Any]:
    name, arguments = (init[0].__name__, init[1]) if init else ("", ())
    if name == "load_checkpoint_guess_config":
        return {"checkpoint": arguments[0]}
    if name in ("load_checkpoint_clip_patcher", "load_checkpoint_vae_patcher"):
        return {f"checkpoint_{what}": arguments[0]}
    if name == "load_diffusion_model":
        known = next((dtype for dtype, options in _DTYPES.items() if options == arguments[1]), None)
        if known is not None:
            return {"diffusion_model": arguments[0], "weight_dtype": known}
    if name == "load_clip_model_patcher":
        return {"text_encoders": tuple(arguments[0]), "clip_type": arguments[2].name}
    if name == "load_vae_patcher":
        return {"vae": arguments[0]}
    raise _not_as_loaded(what, "a loader that does not say which file it read")


def _require_as_loaded(what: str, patcher: Any) -> None:
    changes = {
        "a LoRA or another patch": patcher.patches,
        # The host itself puts some on text encoders.
        "an object patch such as a sampling node's": what == "model" and patcher.object_patches,
        "a bypassed adapter": patcher.injections,
    }
    found = next((text for text, change in changes.items() if change), None)
    if found is not None:
        raise _not_as_loaded(what, found)


def _not_as_loaded(what: str, why: str) -> ConfigError:
    return ConfigError(
        f"The {what} cannot be loaded again in a process of its own: it has {why}.",
        where=what,
        found=why,
        expected="a model straight from ComfyUI's own loader node",
        remedy="Train in ComfyUI itself, or connect the loader directly.",
    )
