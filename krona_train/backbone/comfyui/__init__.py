"""The host, as a library: the one folder of the trainer that imports comfy."""

from .encode import PictureSize, TextCondition, encode_captions, encode_picture
from .families import family_of, native_resolution
from .model import ComfyBackbone, layer_shape

__all__ = [
    "ComfyBackbone",
    "PictureSize",
    "TextCondition",
    "encode_captions",
    "encode_picture",
    "family_of",
    "layer_shape",
    "native_resolution",
]
