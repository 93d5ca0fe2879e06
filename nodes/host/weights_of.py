"""The weights of a host's model as they act, with everything that is patched on it, one at a time."""

from __future__ import annotations

from typing import Any

import comfy.lora
import comfy.model_management
import torch
from torch import Tensor

from krona_train.backbone.comfyui import family_of


class WeightsOf:
    """Gives a parameter by name, patches included, in float32 on the CPU.

    Args:
        model: The host's ``MODEL``; nothing is loaded and nothing on it is changed.
    """

    def __init__(self, model: Any) -> None:
        self._patches = model.get_key_patches("diffusion_model.")
        self.family = family_of(model)

    @property
    def names(self) -> list[str]:
        """Every parameter of the diffusion model."""
        return list(self._patches)

    def __call__(self, name: str) -> Tensor:
        """One parameter."""
        (weight, convert), *patches = self._patches[name]
        # A quantised weight is told how to become numbers by its layer; float32 as in the host's own merging.
        value = comfy.model_management.cast_to_device(weight, torch.device("cpu"), torch.float32, copy=True)
        value = convert(value, inplace=True)
        return comfy.lora.calculate_weight(patches, value, name) if patches else value
