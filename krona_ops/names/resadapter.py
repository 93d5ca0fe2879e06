"""The layers of a UNet that ResAdapter changes: convolutions between its levels, and norms of its residual blocks.

Both are told by the names that diffusers has for them, with dots or underscores, with or without a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PREFIX = r"(?:lora[._]unet[._]|lycoris[._]|unet[._])?"
_SAMPLER = re.compile(_PREFIX + r"(?:(?P<down>down)|up)_blocks[._](?P<level>[0-9]{1,2})[._](?:down|up)samplers[._]0[._]conv")
_NORM = re.compile(
    _PREFIX + r"(?:(?P<side>down|up)_blocks[._](?P<level>[0-9]{1,2})|mid_block)[._]resnets[._](?P<number>[0-9]{1,2})[._]norm[12]"
)
_BIAS = ".bias"
_KINDS = {4: "SD1.5", 3: "SDXL"}
"""What a UNet with so many levels is."""


def is_sampler(layer: str) -> bool:
    """Whether a layer is the convolution of a downsampler or upsampler.

    >>> is_sampler("lora_unet_down_blocks_0_downsamplers_0_conv"), is_sampler("down_blocks.0.resnets.0.conv1")
    (True, False)
    """
    return _SAMPLER.fullmatch(layer) is not None


def is_norm(layer: str) -> bool:
    """Whether a layer is a norm of a residual block, or the bias of one.

    >>> is_norm("down_blocks.0.resnets.0.norm1"), is_norm("mid_block.resnets.1.norm2.bias"), is_norm("conv_norm_out")
    (True, True, False)
    """
    return _NORM.fullmatch(layer.removesuffix(_BIAS)) is not None


def levels(layers: Iterable[str]) -> int:
    """How many levels the UNet has that these layers, of either kind, are all of; 0 where none of them tells.

    >>> levels(["down_blocks.3.resnets.0.norm1"]), levels(["lora_unet_down_blocks_1_downsamplers_0_conv"])
    (4, 3)
    """
    most = 0
    for layer in layers:
        if match := _NORM.fullmatch(layer.removesuffix(_BIAS)):
            most = max(most, int(match["level"] or -1) + 1)
        elif match := _SAMPLER.fullmatch(layer):
            most = max(most, int(match["level"]) + 2)  # the last level has none: nothing follows it
    return most


def residual_blocks(layers: Iterable[str]) -> int:
    """How many residual blocks each level has on the way down, by the norms among these layers; 0 where there are none.

    >>> residual_blocks(["down_blocks.0.resnets.0.norm1", "down_blocks.0.resnets.1.norm1", "up_blocks.0.resnets.2.norm1"])
    2
    """
    matches = (_NORM.fullmatch(layer.removesuffix(_BIAS)) for layer in layers)
    return max((int(match["number"]) + 1 for match in matches if match and match["side"] == "down"), default=0)


def base_model(layers: Iterable[str]) -> str:
    """The base model that has so many levels, in a word; empty where it is none that ResAdapter was made for."""
    return _KINDS.get(levels(layers), "")


def output_of(layer: str) -> str | None:
    """The norm, in diffusers' words, that is as wide as the outputs of a sampler's convolution: it is on its level."""
    match = _SAMPLER.fullmatch(layer)
    return match and f"{'down' if match['down'] else 'up'}_blocks.{match['level']}.resnets.0.norm2"
