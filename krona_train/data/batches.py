"""Pictures, masks and captions that come from a graph: batches, lists, and lists of batches, of one size or of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from krona_ops.errors import DataError

from .pictures import Picture, PictureGroup, from_tensor, require_prompt

WHERE = "the pictures from the graph"


def from_batches(
    images: Sequence[Tensor],
    prompt: str,
    masks: Sequence[Tensor] = (),
    texts: Sequence[str] = (),
    repeats: int = 1,
    *,
    groups: bool = False,
) -> tuple[Picture, ...]:
    """The pictures of a list of ``IMAGE`` batches, numbered through.

    Args:
        images: Each ``(count, height, width, channels)``, or one picture without the first axis.
        prompt: Of the pictures without a text.
        masks: One for each picture or for each batch, or one for all: ``(count, height, width)``, or without the first
            axis.
        texts: One for each picture or for each batch, or one for all; of a single text its lines count where there are
            as many as pictures. An empty one takes the prompt.
        groups: Each batch is a group, also one of a single picture.

    Raises:
        DataError: The masks or texts are not as many as the pictures, or do not fit; or a picture has neither text nor
            prompt.
    """
    batches = [_in_colour(image[None] if image.ndim == 3 else image) for image in images]
    counts = [len(batch) for batch in batches]
    captions = _captions(texts, counts)
    pictures: list[Picture] = []
    for number, (batch, mask) in enumerate(zip(batches, _masks(masks, counts), strict=True), 1):
        group = PictureGroup(f"batch {number}") if groups else None
        # Any text stands for the prompt, which is only needed where a picture has none of its own.
        for picture in from_tensor(batch, prompt if prompt.strip() else "…", mask, repeats):
            name, text = f"picture {len(pictures) + 1}", captions[len(pictures)].strip()
            if not text:
                require_prompt(prompt, f"{WHERE}: {name}" if texts else WHERE)
            pictures.append(replace(picture, name=name, caption=text or prompt, group=group))
    return tuple(pictures)


def _in_colour(batch: Tensor) -> Tensor:
    """``(count, height, width, 3 or 4)``; grey pictures get three equal channels.

    Raises:
        DataError: It is no batch of pictures.
    """
    if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4) or 0 in batch.shape[1:3]:
        raise DataError(
            f"What is connected as pictures has the shape {tuple(batch.shape)}.",
            where=WHERE,
            found=tuple(batch.shape),
            expected="(count, height, width, 3)",
            remedy="Connect an IMAGE, a list of them, or a batch.",
        )
    return batch.expand(-1, -1, -1, 3) if batch.shape[-1] == 1 else batch


def _masks(masks: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor | None]:
    """One batch of masks ``(1 or count, height, width)`` for each batch of pictures;
    ``None`` where there are no masks."""
    batches = [mask[None] if mask.ndim == 2 else mask.flatten(0, 1) if mask.ndim == 4 else mask for mask in masks]
    if not batches:
        return [None] * len(counts)
    fits = all(len(mask) in (1, count) for mask, count in zip(batches, counts, strict=False))
    if len(batches) == len(counts) and (fits or len(counts) == 1):
        return list(batches)
    single = [mask[None] for batch in batches for mask in batch]
    if len(single) == 1:
        return list(single * len(counts))
    if len(single) != sum(counts):
        raise _other_count("masks", len(single), counts)
    if len(batches) == 1:  # in one batch, so all of one size
        return list(batches[0].split(list(counts)))
    starts = [sum(counts[:number]) for number in range(len(counts))]
    groups = [single[start : start + count] for start, count in zip(starts, counts, strict=True)]
    return [_together(group) for group in groups]


def _together(masks: Sequence[Tensor]) -> Tensor:
    """The masks ``(1, height, width)`` of one batch of pictures in one tensor.

    Raises:
        DataError: They differ in size.
    """
    sizes = {tuple(mask.shape[1:]) for mask in masks}
    if len(sizes) > 1:
        raise DataError(
            "The masks for one batch of pictures differ in size.",
            where=WHERE,
            found=sorted(sizes),
            expected="one size, that of the pictures",
            remedy="Connect one mask per picture, in the order of the pictures.",
        )
    return torch.cat(list(masks))


def _captions(texts: Sequence[str], counts: Sequence[int]) -> list[str]:
    """One text for each picture; empty where there is none."""
    total = sum(counts)
    if not texts:
        return [""] * total
    if len(texts) == total:
        return list(texts)
    if len(texts) == 1:
        lines = [line for line in texts[0].splitlines() if line.strip()]
        if len(lines) == total:
            return lines
        if len(lines) <= 1:
            return [*texts] * total
        raise _other_count("lines of text", len(lines), counts)
    if len(texts) == len(counts):
        return [text for text, count in zip(texts, counts, strict=True) for _ in range(count)]
    raise _other_count("texts", len(texts), counts)


def _other_count(what: str, count: int, counts: Sequence[int]) -> DataError:
    """The error for ``count`` masks or texts with batches of so many pictures."""
    batches = f" in {len(counts)} batches" if len(counts) not in (1, sum(counts)) else ""
    return DataError(
        f"{count} {what} are connected for {sum(counts)} pictures{batches}.",
        where=WHERE,
        found=count,
        expected=sum(counts),
        remedy="Connect one per picture, in their order, or one for all.",
    )
