"""The host's text encoders on the meta device, as a ``CLIP`` shows them, with a ``.cond_stage_model``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

TEXT_ENCODERS: Mapping[str, tuple[str, str, bool]] = {
    # module, class or function that makes one, whether it is such a function
    "SD1.5": ("comfy.sd1_clip", "SD1ClipModel", False),
    "SD2": ("comfy.text_encoders.sd2_clip", "SD2ClipModel", False),
    "SDXL": ("comfy.sdxl_clip", "SDXLClipModel", False),
    "SDXL refiner": ("comfy.sdxl_clip", "SDXLRefinerClipModel", False),
    "SD3": ("comfy.text_encoders.sd3_clip", "sd3_clip", True),
    "Flux": ("comfy.text_encoders.flux", "flux_clip", True),
    "Flux.2 Klein": ("comfy.text_encoders.flux", "klein_te", True),
    "PixArt": ("comfy.text_encoders.pixart_t5", "PixArtT5XXL", False),
    "AuraFlow": ("comfy.text_encoders.aura_t5", "AuraT5Model", False),
    "HunyuanDiT": ("comfy.text_encoders.hydit", "HyditModel", False),
    "HunyuanVideo": ("comfy.text_encoders.hunyuan_video", "hunyuan_video_clip", True),
    "HiDream": ("comfy.text_encoders.hidream", "hidream_clip", True),
    "Wan": ("comfy.text_encoders.wan", "te", True),
    "Lumina 2": ("comfy.text_encoders.lumina2", "te", True),
    "Z-Image": ("comfy.text_encoders.z_image", "te", True),
    "Qwen-Image": ("comfy.text_encoders.qwen_image", "te", True),
    "Anima": ("comfy.text_encoders.anima", "te", True),
    "ACE-Step 1.5": ("comfy.text_encoders.ace15", "te", True),
    "Kandinsky 5": ("comfy.text_encoders.kandinsky5", "te", True),
    "Ernie-Image": ("comfy.text_encoders.ernie", "te", True),
}


def build(name: str) -> Any:
    """A ``CLIP`` of a family."""
    torch = importlib.import_module("torch")
    module, attribute, is_function = TEXT_ENCODERS[name]
    maker = getattr(importlib.import_module(module), attribute)
    if is_function:
        maker = maker(**{"dtype_t5": torch.float16, "dtype_llama": torch.float16} if name == "HiDream" else {})
    return SimpleNamespace(cond_stage_model=maker(device="meta", dtype=torch.float16))
