"""The host, as a library: the one folder of the trainer that imports comfy.

What trains is loaded when somebody trains: nodes that only ask for a family or a layer's shape should not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .families import family_of, native_resolution
from .layer_shape import layer_shape

if TYPE_CHECKING:
    from .encode import ComfyEncoder, PictureSize, TextCondition, encode_captions, encode_picture
    from .identity import clip_identity, vae_identity
    from .model import ComfyBackbone

__all__ = [
    "ComfyBackbone",
    "ComfyEncoder",
    "PictureSize",
    "TextCondition",
    "clip_identity",
    "encode_captions",
    "encode_picture",
    "family_of",
    "layer_shape",
    "native_resolution",
    "vae_identity",
]
LATER = {
    **dict.fromkeys(("ComfyEncoder", "PictureSize", "TextCondition", "encode_captions", "encode_picture"), "encode"),
    **dict.fromkeys(("clip_identity", "vae_identity"), "identity"),
    "ComfyBackbone": "model",
}
"""The modules of what is loaded later."""


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LATER[name]}"), name)
