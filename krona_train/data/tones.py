"""Pictures of more than eight bits as eight bits with their tones; Pillow's own conversion clips them to white."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

WIDE = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of grey pictures with more than eight bits."""
_BITS, _WHITE_IS_ZERO = 258, 262
"""Tags of TIFF: bits of a value, and whether 0 is white."""
_BRIGHTEST_FLOAT = 8.0
"""A picture of floating-point numbers up to this has its white at 1, and may overshoot; see `_white_of_floats`."""


def in_colour(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB, or RGBA where something of it can be transparent; eight bits, the tones kept."""
    if image.mode in WIDE:
        transparent = image.info.get("transparency")
        grey = in_grey(image)
        if not isinstance(transparent, int):
            return grey.convert("RGB")
        alpha = Image.fromarray(np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha)).convert("RGBA")
    if image.mode == "LAB":
        from PIL import ImageCms  # a library of its own, for this kind of picture alone

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # it is only where the picture is changed in place
        return converted
    wanted = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def in_grey(image: Image.Image) -> Image.Image:
    """A picture of any mode in grey of eight bits, the tones kept."""
    if image.mode not in WIDE:
        return image if image.mode == "L" else image.convert("L")
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        white = _white_of_floats(float(values.max(initial=0)))
    elif image.mode == "I":
        is_signed = image.format != "TIFF" or int(values.min(initial=0)) >= 0 or _tag(image, 339) == 2
        values = values if is_signed else values.view(np.uint32)
        white = _white_of_integers(int(values.max(initial=0)), image.format)
    else:
        white = 4095 if _tag(image, _BITS) == 12 else 65535
    # float32 holds 16 bits exactly; of 32 bits it keeps more than the eight that are wanted
    tones = (np.asarray(values, np.float32) / np.float32(white / 255)).round().clip(0, 255)
    grey = Image.fromarray(tones.astype(np.uint8))
    return ImageOps.invert(grey) if image.format == "TIFF" and _tag(image, _WHITE_IS_ZERO) == 0 else grey


def _white_of_integers(brightest: int, made_as: str | None) -> int:
    """The value of white. PNG and PNM count to 65535; a TIFF of 32 bits does not say, so it is the smallest usual one
    that is at least the brightest."""
    if made_as in ("PNG", "PPM"):
        return 65535
    return next(white for white in (255, 65535, 2**31 - 1, 2**32 - 1) if brightest <= white)


def _white_of_floats(brightest: float) -> float:
    """The value of white: 1, as editors write; 255 or 65535 where values are counted like integers'; else the
    brightest."""
    usual = ((_BRIGHTEST_FLOAT, 1.0), (255.5, 255.0), (65535.5, 65535.0))
    return next((white for limit, white in usual if brightest <= limit), brightest)


def _tag(image: Image.Image, number: int) -> object:
    """The first value of a TIFF's tag; ``None`` where there is no such tag."""
    tags = getattr(image, "tag_v2", None)
    value = tags.get(number) if tags is not None else None
    return value[0] if isinstance(value, tuple) and value else value
