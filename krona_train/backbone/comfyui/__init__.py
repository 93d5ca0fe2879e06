"""The host, as a library: the one folder of the trainer that imports comfy."""

from .encode import ComfyEncoder, PictureSize, TextCondition, encode_captions, encode_picture
from .families import family_of, native_resolution
from .identity import clip_identity, vae_identity
from .model import ComfyBackbone, layer_shape

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
