"""A checksum of tensors and of what is kept beside them:
tells a file whose values have changed from one that is as it was written."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from torch import Tensor, uint8


def checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """CRC-32 of names, types, shapes and numbers, and of the text."""
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode(errors="surrogatepass"), total)
        total = zlib.crc32(tensor.reshape(-1).view(uint8).numpy().data, total)
    return f"{zlib.crc32(text.encode(errors='surrogatepass'), total):08x}"
