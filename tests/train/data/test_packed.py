"""What one process hands to another in a file: every value comes back bitwise, and a damaged or hostile file is a clear error."""

import collections
import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from krona_ops.errors import AdapterFileError, DataError
from krona_ops.formats.header import read_header
from krona_train.data.packed import KIND, pack, unpack


@dataclass(frozen=True, eq=False)
class Leaf:
    tensor: Any
    text: str = ""


@dataclass(frozen=True, eq=False)
class Branch:
    leaves: tuple[Leaf, ...] = ()
    extras: dict[str, Any] = field(default_factory=dict)


CLASSES = (Branch, Leaf)


def there_and_back(value, tmp_path, classes=CLASSES):
    return unpack(pack(value, tmp_path / "value.safetensors", classes), type(value), classes)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 3), (1, 2, 0, 1)], ids=str)
def test_a_tensor_comes_back_bit_for_bit_with_its_type_and_shape(dtype, shape, tmp_path):
    raw = torch.randint(0, 256, (math.prod(shape) * dtype.itemsize,), generator=torch.Generator().manual_seed(0))
    raw = raw % 2 if dtype == torch.bool else raw  # any other byte is no bool
    tensor = raw.to(torch.uint8).view(dtype).reshape(shape)  # NaN, infinities and denormals among them
    back = there_and_back(tensor, tmp_path)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(bits(back), bits(tensor))


def test_plain_values_and_their_containers_come_back_as_they_were(tmp_path):
    value = {
        "text": 'Ä "quoted" \\ \n \u2028 🤖 \ud800',
        "": [],
        "numbers": (0, -1, 2**70, 0.1, -0.0, 5e-324, math.inf, True, False, None),
        "nested": [[(), ([],)], {"tensor": 3, "class": "Leaf", "dict": {"tuple": (1,)}}],
    }
    back = there_and_back(value, tmp_path)
    assert back == value
    assert repr(back) == repr(value)  # types, signs of zeros and orders of keys too
    assert math.isnan(there_and_back(math.nan, tmp_path))


def test_dataclasses_come_back_as_such(tmp_path):
    value = Branch((Leaf(torch.ones(2), "a"), Leaf(None, "b")), {"inner": Branch((Leaf(3),))})
    back = there_and_back(value, tmp_path)
    assert type(back) is Branch
    assert [type(leaf) for leaf in back.leaves] == [Leaf, Leaf]
    assert torch.equal(back.leaves[0].tensor, torch.ones(2))
    assert (back.leaves[0].text, back.leaves[1].tensor) == ("a", None)
    assert back.extras["inner"].leaves[0].tensor == 3


def test_a_shared_tensor_is_written_once_and_shared_again(tmp_path):
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    back = there_and_back([tensor, Leaf(tensor), {"again": tensor}], tmp_path)
    assert back[0] is back[1].tensor
    assert back[0] is back[2]["again"]
    assert len(read_header(tmp_path / "value.safetensors").shapes) == 2  # the tensor, and what the value is made of
    assert (tmp_path / "value.safetensors").stat().st_size < 2 * tensor.nbytes


def test_views_of_one_another_and_strides_of_every_kind_come_back(tmp_path):
    whole = torch.arange(24.0).reshape(2, 3, 4)
    value = [
        whole,
        whole[1],
        whole.mT,
        whole.flatten(),
        whole[:, ::2],
        torch.ones(1).expand(3, 4),
        torch.ones(2, requires_grad=True),
    ]
    back = there_and_back(value, tmp_path)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(back, value, strict=True))
    assert not back[-1].requires_grad


def test_tensors_made_in_inference_mode_can_be_written_and_what_is_read_can_be_trained_with(tmp_path):
    with torch.inference_mode():
        path = pack(torch.ones(3), tmp_path / "value.safetensors", CLASSES)
    back = unpack(path, object, CLASSES)
    (back * torch.ones(3, requires_grad=True)).sum().backward()


Pair = collections.namedtuple("Pair", "a b")


@dataclass
class Stranger:
    value: int = 0


REFUSED = {
    "a class that is not listed": (Stranger(), "hold a Stranger"),
    "a named tuple": (Pair(1, 2), "hold a Pair"),
    "a dict with numbers as keys": ({1: 2}, "hold a dict"),
    "a set": ({1}, "hold a set"),
    "bytes": (b"x", "hold a bytes"),
    "a function": (print, "hold a builtin_function_or_method"),
    "a tensor without values": (torch.empty(3, device="meta"), "hold a Tensor"),
    "a sparse tensor": (torch.eye(3).to_sparse(), "hold a Tensor"),
    "a type that the format lacks": (torch.zeros(2, dtype=torch.complex128), "hold a tensor of torch.complex128"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_file_can_hold_is_refused_by_name_and_nothing_is_written(what, tmp_path):
    value, text = REFUSED[what]
    with pytest.raises(DataError, match=text):
        pack([value], tmp_path / "value.safetensors", CLASSES)
    assert list(tmp_path.iterdir()) == []


def forged(tmp_path, tree, kind=KIND, tensors=None):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    path = tmp_path / "forged.safetensors"
    save_file({"value": torch.frombuffer(bytearray(text), dtype=torch.uint8), **(tensors or {})}, path, {"krona.kind": kind})
    return path


HOSTILE = {
    "a class of the standard library": {"class": "os.system", "fields": {"command": "touch owned"}},
    "a builtin": {"class": "eval", "fields": {"source": "open('owned', 'w')"}},
    "a class's own attribute": {"class": "__class__", "fields": {}},
    "a class with an unknown field": {"class": "Leaf", "fields": {"tensor": 1, "other": 2}},
    "a class without its fields": {"class": "Leaf", "fields": {}},
    "fields that are none": {"class": "Leaf", "fields": [1]},
    "a class that is no name": {"class": ["Leaf"], "fields": {}},
    "an unknown container": {"set": [1]},
    "two containers at once": {"tuple": [1], "list": [2]},
    "none": {},
    "a tensor that is not there": {"tensor": 7},
    "a dict that is none": {"dict": [1]},
    "a tuple of nothing": {"tuple": None},
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "a depth without end": b'{"list":[' * 100_000,
    "a depth that can be read": b'{"list":[' * 4000 + b"]}" * 4000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_or_damaged_value_is_a_clear_error_and_runs_nothing(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = forged(tmp_path, HOSTILE[what])
    with pytest.raises(AdapterFileError, match="damaged or of another version") as caught:
        unpack(path, object, CLASSES)
    assert str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_file_that_is_missing_cut_short_of_another_kind_or_no_safetensors_file_is_a_clear_error(tmp_path):
    path = pack([torch.ones(100)], tmp_path / "value.safetensors", CLASSES)
    whole = path.read_bytes()
    for size in (0, 7, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(AdapterFileError, match="This file cannot be read"):
            unpack(path, object, CLASSES)
    with pytest.raises(AdapterFileError, match="This file cannot be read"):
        unpack(tmp_path / "missing.safetensors", object, CLASSES)
    with pytest.raises(AdapterFileError, match="no encoded data set"):
        unpack(forged(tmp_path, {"list": []}, kind="another"), object, CLASSES)
    save_file({"weight": torch.ones(2)}, path, {"krona.kind": KIND})
    with pytest.raises(AdapterFileError, match="damaged or of another version"):
        unpack(path, object, CLASSES)


def test_a_value_of_another_class_than_the_expected_is_a_clear_error(tmp_path):
    path = pack([1, 2], tmp_path / "value.safetensors", CLASSES)
    assert unpack(path, list, CLASSES) == [1, 2]
    with pytest.raises(AdapterFileError, match="it holds a list, not a tuple"):
        unpack(path, tuple, CLASSES)


def test_the_material_of_a_training_comes_back_with_what_its_items_share(comfy, tmp_path):
    from krona_train.batches.examples import Example, Item
    from krona_train.comfyui.encode import PictureSize, TextCondition
    from krona_train.comfyui.sampling import Prompt
    from krona_train.session.material import Material

    rng = torch.Generator().manual_seed(0)
    text, extras = torch.randn(1, 77, 8, generator=rng), {"pooled_output": torch.randn(1, 4, generator=rng), "guidance": 3.5}
    square = PictureSize(640, 480, 11, 0, 64, 64)
    latents = torch.randn(3, 4, 8, 8, generator=rng)
    forms = [
        Example(latent, TextCondition(text, extras, square, "a robot"), "a robot", latent[0].clone(), None)
        for latent in latents
    ]
    item, other = Item(tuple(forms[:2]), (forms[2],), 3), Item((forms[2],))
    material = Material((item, other), (), (Prompt("a robot", text, extras),), None, ("a robot", "b"), 64)
    back = Material.load(material.save(tmp_path / "encoded.safetensors"))
    assert (back.captions, back.resolution, back.class_items, back.negative) == (("a robot", "b"), 64, (), None)
    assert [item.repeats for item in back.items] == [3, 1]
    assert back.items[0].uncaptioned[0].latent is back.items[1].forms[0].latent
    assert back.items[0].forms[1].condition.size == square
    for ours, theirs in zip(back.items[0].forms, forms, strict=False):
        assert torch.equal(ours.latent, theirs.latent)
        assert torch.equal(ours.mask, theirs.mask)
        assert ours.condition.embedding is back.items[0].forms[0].condition.embedding
        assert ours.condition.extras["guidance"] == 3.5
        assert ours.condition.embedding is back.prompts[0].embedding
        assert torch.equal(ours.condition.extras["pooled_output"], extras["pooled_output"])
