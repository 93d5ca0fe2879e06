"""How often each of several sizes is trained: far from the model's own most often, in whole numbers.

ResAdapter's law (Cheng et al. 2024, arXiv 2403.02084): p(x) ∝ (x − s)² for sizes x and the model's own size s. With d the
greatest common divisor of all x − s the weights ((x − s) / d)² are whole numbers, so that a picture that comes so many
times per epoch at each size keeps the law exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

from krona_ops.errors import DataError

from .buckets import views
from .pictures import Dataset
from .pixels import size_of


def size_weights(sizes: Sequence[int], native: int) -> dict[int, int]:
    """How often each size comes against the others; the model's own, whose weight would be 0, is left out.

    >>> size_weights((128, 256, 384, 768, 1024), 512)
    {128: 9, 256: 4, 384: 1, 768: 4, 1024: 16}

    Args:
        sizes: Sides in pixels of squares of the same area.
        native: That of the model.

    Raises:
        DataError: No other size is among them.
    """
    others = [size for size in sizes if size != native]
    if not others:
        raise DataError(
            f"The only size that is named, {native}, is the model's own, for which there is nothing to learn.",
            where="resolutions",
            found=", ".join(map(str, sizes)),
            expected="other sizes",
            remedy="Name the sizes that the model shall learn to draw, or none.",
        )
    divisor = gcd(*(size - native for size in others))
    return {size: ((size - native) // divisor) ** 2 for size in others}


def require_multiples(sizes: Sequence[int], step: int) -> None:
    """
    Raises:
        DataError: The model cannot draw one of the sizes.
    """
    odd = next((size for size in sizes if size % step), None)
    if odd is not None:
        below = odd // step * step
        near = f"{below} or {below + step}" if below else str(step)
        raise DataError(
            f"{odd} is no multiple of {step}, the pixels that one place of the model's latents stands for.",
            where="resolutions",
            found=odd,
            expected=f"multiples of {step}",
            remedy=f"Take {near}.",
        )


def describe_sizes(dataset: Dataset, native: int, weights: Mapping[int, int]) -> tuple[str, ...]:
    """What the run's log says of the sizes: how often each comes, what is left out, which pictures are enlarged."""
    total = sum(weights.values())
    shares = ", ".join(f"{size}: {weight} of {total}" for size, weight in weights.items())
    lines = [f"Sizes that are trained, each picture at every one: {shares}."]
    if native in dataset.settings.resolutions:
        lines.append(f"{native} is the model's own size, whose weight is 0: it is not trained.")
    settings = dataset.settings
    shapes = [size_of(picture) for picture in dataset.pictures]
    for size in weights:
        cuts = [views(*shape, size, buckets=settings.buckets, step=settings.bucket_step)[0] for shape in shapes]
        small = sum(cut.scaled_width > shape[0] for cut, shape in zip(cuts, shapes, strict=True))
        if small:
            lines.append(f"{small} of {len(shapes)} pictures are smaller than {size} and are enlarged to it.")
    return tuple(lines)
