"""Whether data or weights are the same as before, told from a sample of their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from torch import Tensor

from .examples import Item


def sampled_fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, shapes and up to 64 evenly spread numbers of each weight: quick, and different for other weights."""
    digest = hashlib.sha256()
    for name, weight in weights:
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)} ".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def fingerprint(items: Sequence[Item]) -> str:
    """A hash of the pictures and captions that are trained on, in their order, masks and repeats included."""

    def entries():
        for item in items:
            for example in (*item.forms, *item.uncaptioned):
                yield f"{item.repeats} {example.caption}", example.latent
                if example.mask is not None:
                    yield "mask", example.mask

    return sampled_fingerprint(entries())
