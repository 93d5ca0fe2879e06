"""The names that kohya's sd-scripts and LyCORIS write: ``lora_unet_<path with underscores>``. Only for writing.

Any reader here reads such files; what differs is what other programs expect.
"""

from __future__ import annotations

import re

from torch import Tensor

from ..names.spellings import LayerName
from ..updates.adapter import Adapter
from . import layers
from .layers import Rename, cannot_hold

NAME = "kohya"
_TEXT_ENCODER = re.compile(r"(?:text_encoders\.)?clip_(?P<which>[lg])\.(?:transformer\.)?(?P<path>.*)")
_READY = ("lora_", "lycoris_")


def kohya_name(name: LayerName) -> str:
    """What kohya calls a layer, as ComfyUI maps it on every model.

    >>> kohya_name("diffusion_model.middle_block.1.to_q")
    'lora_unet_middle_block_1_to_q'

    Raises:
        FormatError: The layer is in a text encoder other than CLIP's, whose names kohya numbers differently per model.
    """
    if name.startswith(_READY) and "." not in name:
        return name
    if match := _TEXT_ENCODER.fullmatch(name):
        return f"lora_te{'1' if match['which'] == 'l' else '2'}_{match['path'].replace('.', '_')}"
    if name.startswith(("text_encoder", "te.", "t5")):
        raise cannot_hold(
            name, "of a text encoder whose kohya name is not known here", "Save in the lokr format.", "kohya"
        )
    return f"lora_unet_{name.removeprefix('diffusion_model.').removeprefix('unet.').replace('.', '_')}"


def write(adapter: Adapter, rename: Rename = kohya_name) -> dict[str, Tensor]:
    """The tensors with kohya's names and LyCORIS's parts: LoKr, LoHa, LoRA, DoRA, diff and norms.

    Raises:
        FormatError: These tensors cannot hold a layer, or two layers would have one name.
    """
    return layers.write(adapter, rename, norms=True)
