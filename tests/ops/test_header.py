"""Headers from strangers: what the format allows is read as the library reads it,
everything else is refused at its first sign."""

import json
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from krona_ops import inspect_header, load, read_header
from krona_ops.errors import AdapterFileError
from krona_ops.formats.header import MAX_HEADER_BYTES
from krona_ops.formats.header_text import LONGEST_NAME, MOST_ENTRIES, MOST_TENSORS


def entry(dtype="F32", shape=(), start=0, end=4, **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end], **more}


def write(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def refused(path):
    began = time.process_time()
    with pytest.raises(AdapterFileError) as caught:
        read_header(path)
    return str(caught.value), time.process_time() - began


@pytest.mark.parametrize("name", ["a.b", "ä.Ü", "名前", "🤖", 'quote"s', "back\\slash", "tab\t", "a\x7f"])
def test_names_and_metadata_are_what_the_library_writes(tmp_path, name):
    tensors = {
        name: torch.zeros(2, 3),
        "z": torch.zeros(0, 5),
        "n": torch.zeros(()),
        "h": torch.zeros(7, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={name: name, "empty": "", "json": json.dumps({name: [name]})})
    header = read_header(tmp_path / "x.safetensors")
    assert header.shapes == {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    assert header.dtypes == {name: "F32", "z": "F32", "n": "F32", "h": "BF16"}
    assert header.metadata == {name: name, "empty": "", "json": json.dumps({name: [name]})}


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}    ',
        b'{ "a" : { "data_offsets" : [ 0 , 4 ] , "shape" : [ 1 ] , "dtype" : "F32" } }',
        b'{\n"__metadata__":null,\r\n\t"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":[1]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"__metadata__":{}}',
    ],
)
def test_a_header_may_be_written_in_other_ways(tmp_path, text):
    header = read_header(write(tmp_path / "x.safetensors", text, b"\0" * 4))
    assert (header.shapes, header.dtypes, header.metadata) == ({"a": (1,)}, {"a": "F32"}, {})


def test_tensors_may_stand_in_any_order(tmp_path):
    path = write(tmp_path / "x.safetensors", {"b": entry(start=4, end=8), "a": entry()}, b"\0" * 8)
    assert list(read_header(path).shapes) == ["b", "a"]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}', "its end stands where"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}', "stands where"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}x', "something follows it"),
        (b" {}", "does not begin as one"),
        (b'{"a"', "its end stands where"),
        (b'{"a', "no JSON"),
        (b'{"\xff":1}', "no JSON"),
        (b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "no JSON"),
        (b'{"__metadata__":{"a":"\\udfff"}}', "no JSON"),
        (b'{"__metadata__":{"a":1}}', "1 stands where"),
        (b'{"__metadata__":[]}', r"\[ stands where"),
        (b'{"__metadata__":{},"__metadata__":{}}', "metadata twice"),
        (b'{"a":[[[[', "a is no tensor"),
        (b'{"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}', "a is no tensor"),
        (b'{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}', "a is no tensor"),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "a is no tensor"),
        (b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', "a is no tensor"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}', "a is no tensor"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}}', "a is no tensor"),
        (b'{"a":{"dtype":"F32","shape":[' + b"9" * 400 + b'],"data_offsets":[0,4]}}', "impossible shape"),
        (b'{"a":{"dtype":"F32","shape":[1 1],"data_offsets":[0,4]}}', "a is no tensor|no JSON"),
        ({"a": entry(shape=(2**63, 0), end=0)}, "impossible shape"),
        ({"a": entry(shape=(2**40, 0, 2**40), end=0)}, "impossible shape"),
        ({"a": entry(shape=(1,) * 100_000)}, "100,000 axes"),
        ({"a": entry(shape=(2,))}, "does not fill its bytes"),
        ({"a": entry(start=4, end=0)}, "does not fill its bytes"),
        ({"a": entry("F4", (1000,), end=4)}, "does not fill its bytes"),
        ({"a": entry(), "b": entry(start=3, end=7)}, "overlap"),
        ({"a": entry(), "b": entry(start=5, end=9)}, "gap"),
        (b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}', "two tensors are called a"),
        ({"k" * (LONGEST_NAME + 1): entry()}, "a name of 1,001 characters"),
        ({"__metadata__": {str(n): "" for n in range(MOST_ENTRIES + 1)}}, "entries of metadata"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_reason(tmp_path, header, reason):
    with pytest.raises(AdapterFileError, match=rf"its header makes no sense: .*(?:{reason})"):
        read_header(write(tmp_path / "x.safetensors", header, b"\0" * 8))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":' + b"[" * 10_000_000,
        b'{"a":[' + b"{}," * 4_000_000 + b"{}]}",
        b'{"__metadata__":{"a":' + b"[]," * 4_000_000,
        b'{"' + b'\\"' * 5_000_000,
        b"{" + b'"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * (MOST_TENSORS + 1),
        b" " * 10_000_000 + b"{}",
    ],
    ids=["nesting", "objects", "metadata", "escapes", "tensors", "spaces"],
)
def test_nothing_is_built_for_a_header_that_is_none(tmp_path, text):
    """The bar is 100 ms; a busy machine gets ten times as long,
    and a reader that builds what is nested there would need seconds."""
    _, seconds = refused(write(tmp_path / "x.safetensors", text))
    assert seconds < 1


def test_a_header_that_is_too_long_is_not_even_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(2**40)  # a hole: nobody could read it
    message, _ = refused(path)
    assert "its header has 16,777,217 bytes, 16,777,216 are read" in message


def test_a_hundred_thousand_tensors_are_inspected(tmp_path):
    """How long that takes is in benchmarks/limits.py."""
    names = [f"{n:x}.lokr_w{side}" for n in range(50_000) for side in (1, 2)]
    header = {name: entry(shape=(1, 1), start=4 * n, end=4 * n + 4) for n, name in enumerate(names)}
    path = write(tmp_path / "x.safetensors", header, bytes(4 * len(names)))
    inspection = inspect_header(path)
    assert len(inspection.layers) == 50_000
    assert {(layer.method, layer.shape, layer.parameters) for layer in inspection.layers} == {("LoKr", (1, 1), 2)}
    assert inspection.layers[4711].name == f"{4711:x}"


def test_what_is_no_file_is_not_opened(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(AdapterFileError, match="it is no file"):
        load(tmp_path / "x.safetensors")
