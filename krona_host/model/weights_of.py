"""The weights of a host's model as they act, with everything that is patched on it, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.lora
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from .families import family_of

if TYPE_CHECKING:
    from ..types import Model


class WeightsOf:
    """Gives a parameter by name, patches included, in float32 on the CPU.

    The host's own list of weights and patches fails on quantised models: it takes a layer's scales for weights.

    Args:
        model: The host's ``MODEL``; nothing is loaded and nothing on it is changed.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._weights = dict(model.model.diffusion_model.named_parameters(prefix="diffusion_model"))
        self.family = family_of(model)

    @property
    def names(self) -> list[str]:
        """Names of all parameters of the diffusion model."""
        return list(self._weights)

    def __call__(self, name: str) -> Tensor:
        """A parameter with what is patched on it.

        Where the host has merged the patches of a loaded model, they are merged again into the copy that it keeps.
        """
        value = self.unpatched(name)
        patches = self._model.patches.get(name, [])
        return comfy.lora.calculate_weight(patches, value, name) if patches else value

    def unpatched(self, name: str) -> Tensor:
        """A copy of a parameter as the checkpoint has it, also while the model is loaded with something merged into it."""
        weight: Tensor = self._weights[name]
        if name in self._model.backup:
            weight = self._model.backup[name].weight
        elif name in self._model.hook_backup:
            weight = self._model.hook_backup[name][0]
        is_quantised = isinstance(weight, QuantizedTensor) or isinstance(weight.data, QuantizedTensor)
        plain = weight.dequantize() if is_quantised else weight
        return plain.detach().to("cpu", torch.float32, copy=True)
