"""What kind of model the host has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..types import DiffusionNet, Model

FAMILIES = {
    "SD15": "sd_v1", "SD20": "sd_v2", "SD21UnclipL": "sd_v2", "SD21UnclipH": "sd_v2",
    "SDXL": "sdxl_base_v1-0", "SSD1B": "sdxl_base_v1-0", "Segmind_Vega": "sdxl_base_v1-0",
    "KOALA_700M": "sdxl_base_v1-0", "KOALA_1B": "sdxl_base_v1-0", "SDXLRefiner": "sdxl_refiner_v1-0",
    "SD3": "sd3", "Flux": "flux1", "FluxSchnell": "flux1", "WorldModel": "small_world",
}  # fmt: skip
"""The host's model classes, each with its name in ``ss_base_model_version`` of other trainers' files; the last one is
this pack's own small model."""
RESOLUTIONS = {"sd_v1": 512, "sd_v2": 768, "small_world": 64}
"""Pixels at which a family was trained, where it is not 1024."""


def family_of(model: Model) -> str:
    """The model's kind, in the words of ``ss_base_model_version`` where there is one, else the host's class name."""
    name = type(model.model.model_config).__name__
    return FAMILIES.get(name, name)


def embeds_guidance(net: DiffusionNet) -> bool:
    """Whether the host's network was distilled with guidance, and takes its strength as an input of its own.

    So do Flux dev, Flux 2 dev and HunyuanVideo. Chroma has such an input too, but was distilled at 0, which ComfyUI
    gives it by itself.
    """
    return bool(getattr(getattr(net.diffusion_model, "params", None), "guidance_embed", False))


def native_resolution(model: Model) -> int:
    """The side in pixels of the square pictures that the model was trained on."""
    return RESOLUTIONS.get(family_of(model), 1024)
