"""Pictures as the host hands them around."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image


def as_image(picture: Image.Image) -> torch.Tensor:
    """A picture as the host's ``IMAGE``: ``(1, height, width, 3)``, float32 from 0 to 1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]
