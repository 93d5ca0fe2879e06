"""Whether a model, a text encoder and a VAE belong together: said by name before anything is written, not by a sum that
fails later."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import comfy.model_base
import torch
from torch import Tensor

from krona_host.model.families import family_of
from krona_host.types import Clip, DiffusionNet, Model, Vae
from krona_ops.errors import ConfigError, KronaError

from ..batches.examples import Group, Item
from ..objectives.needs import members_of
from ..step.plan import is_out_of_memory
from .encode import TextCondition
from .sampling import latent_shape

if TYPE_CHECKING:
    from .model import ComfyBackbone

log = logging.getLogger(__name__)
SIDE = 64
"""Pixels of the picture that a VAE is tried with, where what it says of itself does not fit."""
_LATENTS_OF = {
    "comfy.ldm.wan.vae": ("Wan21",),
    "comfy.ldm.wan.vae2_2": ("Wan22",),
    "comfy.ldm.cosmos.vae": ("Cosmos1CV8x8x8",),
    "comfy.ldm.cogvideo.vae": ("CogVideoX", "CogVideoX1_5"),
    "comfy.ldm.seedvr.vae": ("SeedVR2",),
    "comfy.ldm.mage_flow.vae": ("MageFlow", "Flux2"),
}
"""The latent formats of the host's autoencoders that have one class for one family, by module: theirs have 16 channels
alike."""
_NAMED = {name for names in _LATENTS_OF.values() for name in names} - {"Flux2", "MageFlow"}
_WITH_A_PICTURE = (
    "IP2P",
    "SVD_img2vid",
    "Stable_Zero123",
    "SD_X4Upscaler",
    "HunyuanImage21Refiner",
    "HunyuanVideo15_SR_Distilled",
)
"""The host's classes that always see a second picture, as far as this host has them."""


_TEXT_ENCODER = "text encoder (CLIP)"


def require_parts(model: Model | None, clip: Clip | None, vae: Vae | None) -> None:
    """Whether everything is there, and the VAE makes the latents that the model draws.

    Args:
        model: The host's ``ModelPatcher``.
        clip: Its ``CLIP``, ``None`` where a checkpoint has none.
        vae: Its ``VAE``, which holds nothing where a checkpoint has none.

    Raises:
        ConfigError: A part is missing, the model draws no pictures, or the VAE is another family's.
    """
    missing = [what for what, part in _parts(model, clip, vae) if part is None]
    if missing:
        raise _nothing_brings(missing)
    assert model is not None  # neither of them is missing
    assert vae is not None
    _require_vae(model, vae)


def require_text_encoder(clip: Clip | None) -> Clip:
    """The text encoder, which is there.

    Raises:
        ConfigError: It is not.
    """
    if clip is None:
        raise _nothing_brings([_TEXT_ENCODER])
    return clip


def _nothing_brings(missing: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"The checkpoint brings no {' and no '.join(missing)}.",
        found="nothing",
        expected=f"a {' and a '.join(missing)}",
        remedy=f"Load {'one with its' if len(missing) == 1 else 'them with their'} own loader node and connect "
        f"{'it, or name its' if len(missing) == 1 else 'them, or name their'} file below model: in run.yaml.",
    )


def _parts(model: Model | None, clip: Clip | None, vae: Vae | None) -> Iterator[tuple[str, object]]:
    yield "diffusion model", model
    yield _TEXT_ENCODER, clip
    # The host hands out a VAE without anything in it; another pack's may be built in another way.
    yield "VAE", None if vae is None else getattr(vae, "first_stage_model", vae)


def _require_vae(model: Model, vae: Vae) -> None:
    kind = model.get_model_object("latent_format")
    _, channels, *space = latent_shape(model, SIDE, SIDE)
    claimed = getattr(vae, "latent_channels", channels), getattr(vae, "latent_dim", len(space))
    if claimed != (channels, len(space)) and (made := _tried(vae)) != (channels, len(space)):
        raise _another_vae(model, _in_words(*(made or claimed)), _in_words(channels, len(space)))
    theirs = _LATENTS_OF.get(type(getattr(vae, "first_stage_model", None)).__module__)
    name = type(kind).__name__
    if theirs is not None and name not in theirs and (name in _NAMED or name == "HunyuanVideo"):
        raise _another_vae(model, f"those of {theirs[0]}", f"those of {name}")


def _tried(vae: Vae) -> tuple[int, int] | None:
    """Channels and dimensions of what a VAE really makes of a grey picture; ``None`` where it makes nothing of it."""
    try:
        with torch.inference_mode():
            made = vae.encode(torch.full((1, SIDE, SIDE, 3), 0.5))
    except Exception as error:  # whatever another family's VAE stumbles over
        if is_out_of_memory(error):
            raise
        log.debug("KronA: the VAE makes nothing of a picture: %s", error)
        return None
    return made.shape[1], made.ndim - 2


def _in_words(channels: int, dimensions: int) -> str:
    return f"latents of {channels} channels and {dimensions} dimension{'s' if dimensions > 1 else ''}"


def _another_vae(model: Model, found: str, expected: str) -> ConfigError:
    return ConfigError(
        f"The VAE belongs to another family: it makes {found}, and this {family_of(model)} model draws {expected}.",
        where="vae",
        found=found,
        expected=expected,
        remedy="Connect the model's own VAE, or name its file (model.vae in run.yaml).",
    )


def rehearse(backbone: ComfyBackbone, items: Sequence[Item | Group]) -> None:
    """Let the model look at one encoded picture and its caption, inside the backbone's ``ready``.

    Nothing moves, and nothing is kept.

    Raises:
        ConfigError: The text encoder gives what the model cannot take.
    """
    forms = (member.forms[0] for item in items for member in members_of(item))
    example = min(forms, key=lambda form: math.prod(form.latent_shape))
    with usable_text(backbone.family, example.condition), torch.no_grad():
        batch = backbone.collate([example])
        backbone.predict(batch.x0, backbone.noise_levels(torch.full((1,), 0.5)), batch.conditions)


@contextmanager
def usable_text(family: str, text: object) -> Iterator[None]:
    """What the model says of a text that it cannot take, in words: torch's are ``mat1 and mat2 shapes cannot be
    multiplied``.

    Raises:
        ConfigError: The text encoder is another family's.
    """
    try:
        yield
    except KronaError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        if is_out_of_memory(error):
            log.info("KronA: there is no room to try the model with one picture; the training finds its own way.")
            return
        first, *_ = str(error).strip().splitlines() or [""]
        given = _given(text)
        raise ConfigError(
            f"This {family} model cannot take what the text encoder gives ({given}): "
            f"{type(error).__name__}: {first.rstrip('.')}.",
            where="clip",
            found=given,
            expected=f"the text encoder of {family}",
            remedy="Connect the model's own text encoder (the loader's type too), or name its files "
            "(model.text_encoders, model.clip_type).",
        ) from error


def _given(text: object) -> str:
    """Shapes of an encoded text."""
    embedding = getattr(text, "embedding", None)
    extras = getattr(text, "extras", {})
    shapes = {"text": embedding, **extras} if isinstance(text, TextCondition) or embedding is not None else {}
    sizes = {name: " × ".join(map(str, value.shape)) for name, value in shapes.items() if isinstance(value, Tensor)}
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "nothing"


def notes_on(net: DiffusionNet) -> tuple[str, ...]:
    """What the user should know where a model sees more than a noisy picture and a caption.

    Args:
        net: The host's ``BaseModel``.
    """
    keys = tuple(getattr(net, "concat_keys", ()))
    if "masked_image" in keys:
        return (
            "This is an inpainting model. It is trained as if all of each picture were masked: as it draws from a "
            "prompt alone.",
        )
    kinds = tuple(kind for name in _WITH_A_PICTURE if (kind := getattr(comfy.model_base, name, None)) is not None)
    if keys or isinstance(net, kinds) or getattr(net, "image_to_video", False):
        return (
            f"This model ({type(net).__name__}) is made to see a second picture beside the noisy one. It is trained "
            "without: that picture is empty, as when it draws from a prompt alone.",
        )
    return ()
