"""What diffusers and the official DiffuseKronA call a model's layers; only the host's own key map knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import comfy.lora

from krona_ops import LayerName
from krona_ops.errors import FormatError

from .sites import Site, key_map

if TYPE_CHECKING:
    from ..types import Model

PREFIXES = ("unet.", "transformer.")


def diffusers_names(model: Model) -> dict[str, str]:
    """``{host's name: diffusers' name}``, prefix included, for the layers that diffusers keeps in one weight too.

    Args:
        model: The host's ``MODEL``.
    """
    names: dict[str, str] = {}
    for name, site in key_map(comfy.lora.model_lora_keys_unet, model.model).items():
        if name.startswith(PREFIXES) and site == Site(site.key):
            plain = name.replace(".processor.to_", ".to_")
            names[site.module] = f"{plain}.0" if plain.endswith(".to_out") else plain
    return names


def renamer(model: Model, style: str) -> Callable[[LayerName], str]:
    """A function that renames the host's layers as a format wants them.

    Args:
        style: ``"diffusers"`` (``unet.….to_q``), ``"peft"`` (the same without prefix) or ``"processor"``
            (``unet.….processor.to_q``).

    Raises:
        FormatError: From the function: diffusers keeps this layer in other pieces than ComfyUI.
    """
    from krona_ops.formats.diffusekrona import is_of_clip  # all formats: a start of ComfyUI does not wait for them

    names = diffusers_names(model)

    def rename(name: LayerName) -> str:
        theirs = names.get(name)
        if theirs is None and style == "processor" and is_of_clip(name):
            return name  # the format itself knows what CLIP's layers are called
        if theirs is None:
            raise FormatError(
                "diffusers has no single weight for this layer of this model.",
                layer=name,
                found=name,
                expected="a layer that diffusers keeps whole",
                remedy="Save it for ComfyUI, or leave the layer out with KronA Weights.",
            )
        if style == "processor":
            return theirs.removesuffix(".0").replace(".to_", ".processor.to_")
        return theirs.partition(".")[2] if style == "peft" else theirs

    return rename
