"""What hostile drivers make and judge by: whole files are whole, each way of damaging one is taken, and a bare refusal is none."""

from random import Random

import pytest
import torch
from safetensors.torch import load

from krona_ops.errors import DataError
from proof.hostile import cameras, tensors
from proof.judge import unexplained

FILE = {"a.to_q.weight": torch.randn(3, 5), "a.to_q.bias": torch.randn(5).bfloat16(), "gate": torch.tensor(2.0), "n": torch.zeros(0, 4)}


def test_a_file_that_is_packed_holds_the_tensors_that_were_stored():
    read = load(tensors.packed(tensors.stored(FILE), {"format": "pt"}))
    assert read.keys() == FILE.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in FILE.items())


def test_damaged_files_follow_from_their_dice_and_every_way_is_taken():
    def made(number):
        return tensors.damaged(tensors.stored(FILE), {"format": "pt"}, Random(number), lambda n: f"a{n}")

    faults = {made(number)[0] for number in range(300)}
    assert faults >= {name for name, _ in tensors._WAYS} | {"very many tensors", "bytes of the header", "bytes anywhere", "other metadata"}
    assert made(7) == made(7) != made(8)


def test_every_change_of_a_folder_of_groups_can_be_made(tmp_path):
    pictures = [tmp_path / name for name in "abc"]
    for path in pictures:
        path.write_bytes(b"x")
    for number in range(40 * len(cameras._WAYS)):
        _, change = cameras._WAYS[number % len(cameras._WAYS)]
        top, rng = tmp_path / f"{number}", Random(number)
        change(top, cameras._laid_out(top, pictures, rng), rng)


def refuse(**parts):
    raise DataError("No.", **parts)


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (lambda: 5, None),
        (lambda: refuse(found=0, expected="more"), None),
        (lambda: refuse(found=0), "no expected in DataError"),
        (lambda: refuse(), "no found, expected in DataError"),
        (lambda: [][1], "IndexError: 'list index out of range'"),
    ],
)
def test_a_refusal_without_its_parts_is_a_violation(call, wrong):
    said = unexplained(call)
    assert said is None if wrong is None else wrong in said
