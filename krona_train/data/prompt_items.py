"""From prompts without pictures to the items that a training draws from; each prompt is encoded once."""

from __future__ import annotations

from ..batches.examples import Example, Item
from .buckets import STEP, PictureSize, Size
from .cache import Cache
from .captions import orders
from .encoding import Progress
from .pictures import Dataset
from .store import Encoder, Store


def size_drawn(dataset: Dataset, resolution: int) -> Size:
    """Width and height in pixels of what is drawn from a data set's prompts, multiples of 8.

    Args:
        resolution: The side that is taken where the data set says none.
    """
    width, height = dataset.width or resolution, dataset.height or resolution
    return max(STEP, width // STEP * STEP), max(STEP, height // STEP * STEP)


def items_of_prompts(
    dataset: Dataset,
    size: Size,
    shape: tuple[int, ...],
    encoder: Encoder,
    cache: Cache | None = None,
    progress: Progress = lambda done, total, what: None,
    *,
    seed: int = 0,
) -> tuple[Item, ...]:
    """The items of a data set's prompts, in their order, without latents.

    Args:
        size: In pixels, of what is drawn: models such as SDXL are told.
        shape: ``(C, *space)`` of the latents that are drawn.
        cache: Where encodings are found and kept; they are made again each time without one.
        seed: Of the orders of tags.
    """
    settings, store = dataset.settings, Store(encoder, cache)
    forms = [orders(prompt, max(1, settings.shuffles), settings.keep_tags, seed) for prompt in dataset.prompts]
    dropped = ("",) if settings.caption_dropout > 0 else ()
    texts = dict.fromkeys((*(text for texts in forms for text in texts), *dropped))
    for done, text in enumerate(texts):
        progress(done, len(texts), f'prompt "{text}"')
        store.text(text)
    uncut = PictureSize(*size, 0, 0, *size)

    def example(text: str) -> Example:
        return Example(None, encoder.condition(store.text(text), uncut, text), text, shape=shape)

    items = tuple(Item(tuple(map(example, texts)), tuple(map(example, dropped))) for texts in forms)
    progress(len(texts), len(texts), "")
    store.close()
    return items
