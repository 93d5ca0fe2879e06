"""Pictures, masks and captions from a graph: batches, lists, lists of batches, of one size and of several."""

import pytest
import torch

from krona_ops.errors import DataError
from krona_train.data.batches import from_batches
from krona_train.data.pictures import from_tensor


def batch(count, height=8, width=12, channels=3):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(
    ("images", "count"),
    [
        ([batch(3)], 3),
        ([batch(1), batch(1, 16, 8), batch(1, 8, 8)], 3),
        ([batch(2), batch(3, 16, 8)], 5),
        ([batch(1)[0], batch(2)], 3),
        ([batch(2, channels=4), batch(1, channels=1)], 3),
    ],
)
def test_every_picture_of_a_list_is_one_of_the_data_set(images, count):
    pictures = from_batches(images, "a dog", repeats=2)
    assert [picture.name for picture in pictures] == [f"picture {number}" for number in range(1, count + 1)]
    assert {picture.caption for picture in pictures} == {"a dog"}
    assert {picture.repeats for picture in pictures} == {2}
    singles = [one for image in images for one in (image if image.ndim == 4 else image[None])]
    for picture, one in zip(pictures, singles, strict=True):
        assert picture.source.shape == (*one.shape[:2], 3)
        assert torch.equal(picture.source, one[..., :3].expand(*one.shape[:2], 3))


def test_one_batch_is_what_it_always_was():
    images, masks = batch(3), torch.rand(3, 8, 12)
    for new, old in zip(from_batches([images], "a dog", [masks]), from_tensor(images, "a dog", masks), strict=True):
        assert (new.caption, new.name, new.repeats) == (old.caption, old.name, old.repeats)
        assert torch.equal(new.source, old.source)
        assert torch.equal(new.mask, old.mask)


MIXED = [batch(2), batch(3, 16, 8)]
FIRST, SECOND = torch.rand(2, 8, 12), torch.rand(3, 16, 8)


@pytest.mark.parametrize(
    "masks",
    [
        [FIRST, SECOND],
        [*(mask[None] for mask in FIRST), *(mask[None] for mask in SECOND)],
        [*FIRST, *SECOND],
        [FIRST[:, None], SECOND[:, None]],
    ],
)
def test_masks_belong_to_pictures_batch_by_batch_or_one_by_one(masks):
    pictures = from_batches(MIXED, "a dog", masks)
    for picture, mask in zip(pictures, [*FIRST, *SECOND], strict=True):
        assert torch.equal(picture.mask, mask)


def test_one_mask_may_be_for_all_pictures_or_for_a_batch():
    assert all(torch.equal(p.mask, FIRST[0]) for p in from_batches([batch(2), batch(1)], "a dog", [FIRST[0]]))
    pictures = from_batches(MIXED, "a dog", [FIRST[0], SECOND[0]])
    assert [torch.equal(p.mask, FIRST[0] if n < 2 else SECOND[0]) for n, p in enumerate(pictures)] == [True] * 5
    assert torch.equal(from_batches([batch(1), batch(1)], "a dog", [FIRST])[1].mask, FIRST[1])


@pytest.mark.parametrize(
    ("texts", "captions"),
    [
        (["1", "2", "3", "4", "5"], ["1", "2", "3", "4", "5"]),
        (["first", "second"], ["first", "first", "second", "second", "second"]),
        (["for all"], ["for all"] * 5),
        (["1\n2\n\n3\n4\n5\n"], ["1", "2", "3", "4", "5"]),
        (["1", "", " ", "4", "5"], ["1", "a dog", "a dog", "4", "5"]),
        ([""], ["a dog"] * 5),
        ([], ["a dog"] * 5),
    ],
)
def test_texts_are_captions_picture_by_picture_batch_by_batch_or_for_all(texts, captions):
    assert [picture.caption for picture in from_batches(MIXED, "a dog", (), texts)] == captions


def test_a_text_of_several_lines_for_one_picture_is_one_caption():
    assert from_batches([batch(1)], "", (), ["a dog\nin snow"])[0].caption == "a dog\nin snow"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ["1", "2", "3"]}, "3 texts are connected for 5 pictures in 2 batches"),
        ({"texts": ["1\n2\n3"]}, "3 lines of text are connected for 5 pictures in 2 batches"),
        ({"masks": [*FIRST, *SECOND[:2]]}, "4 masks are connected for 5 pictures in 2 batches"),
        ({"masks": [SECOND, FIRST]}, "masks for one batch of pictures differ in size"),
        ({"masks": [FIRST.mT, SECOND]}, "masks of 8 × 12 pixels are connected for 2 pictures of 12 × 8"),
        ({"masks": [FIRST[0]]}, "masks of 12 × 8 pixels are connected for 3 pictures of 8 × 16"),
        ({"prompt": " "}, "The prompt is empty"),
        ({"prompt": "", "texts": ["1", "2", "3", "4", ""]}, "picture 5: The prompt is empty"),
        ({"images": [torch.zeros(2, 3, 8, 12)]}, r"has the shape \(2, 3, 8, 12\)"),
        ({"images": [torch.zeros(8, 12)]}, r"has the shape \(8, 12\)"),
    ],
)
def test_what_does_not_belong_together_is_refused_with_the_counts(options, message):
    with pytest.raises(DataError, match=message):
        from_batches(**{"images": MIXED, "prompt": "a dog", **options})
