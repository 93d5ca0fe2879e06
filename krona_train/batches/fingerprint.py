"""Whether data or weights are the same as before, judged by a sample of their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .examples import Group, Item


def sampled_fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, shapes and up to 64 evenly spread numbers of each weight.

    Quick, and different for other weights.
    """
    digest = hashlib.sha256()
    for name, weight in weights:
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)} ".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def fingerprint(items: Sequence[Item | Group]) -> str:
    """A hash of all that is trained on: pictures and captions in their order, masks, cameras, what was seen in drawing,
    repeats, weights and groups."""

    def entries() -> Iterator[tuple[str, Tensor]]:
        for item in items:
            if isinstance(item, Group):
                cuts = f" cuts {item.cuts}" if item.cuts > 1 else ""
                yield f"group {item.repeats} {item.take}{_weight(item)}{cuts}", torch.zeros(0)
                for member in item.members:
                    yield from of_item(member)
            else:
                yield from of_item(item)

    def of_item(item: Item) -> Iterator[tuple[str, Tensor]]:
        for example in (*item.forms, *item.uncaptioned):
            yield f"{item.repeats} {example.caption}{_weight(item)}", example.latent_or_zeros()
            if example.mask is not None:
                yield "mask", example.mask
            if example.camera is not None:
                angles = (float(example.camera.azimuth), float(example.camera.elevation))
                yield f"camera {angles}", torch.zeros(0)
            if example.seen is not None:
                yield f"seen {example.seen.sigma!r} {example.seen.guidance!r}", example.seen.x_t
                yield "made of it", example.seen.x0

    return sampled_fingerprint(entries())


def _weight(item: Item | Group) -> str:
    return "" if item.weight is None else f" weight {item.weight!r}"
