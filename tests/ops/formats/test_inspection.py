"""A file told from its header: the same as what loading says, without a byte of a tensor."""

import json
import os
import struct
import sys
from pathlib import Path

import pytest
import torch
from originals import lycoris

from krona_ops import Adapter, Full, Kron, LowRank, Matrix, load, save
from krona_ops.errors import FormatError
from krona_ops.formats.inspection import inspect_header


def bytes_read():
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.skipif(sys.platform != "linux", reason="counts bytes with /proc")
def test_a_file_of_two_gigabytes_is_told_from_its_header_alone(tmp_path):
    """Sparse: nobody could have read it in that time, and the kernel counts what was read."""
    entries, offset = {}, 0
    for number in range(500):
        for part, shape in (("lokr_w1", (64, 4)), ("lokr_w2", (1000, 1000))):
            size = 4 * shape[0] * shape[1]
            entries[f"diffusion_model.b{number}.to_q.{part}"] = {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [offset, offset + size],
            }
            offset += size
    header = json.dumps({"__metadata__": {"ss_output_name": "big"}, **entries}).encode()
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + offset)
    before = bytes_read()
    inspection = inspect_header(path)
    read = bytes_read() - before
    assert offset > 2e9
    assert read < len(header) + 100_000
    assert (inspection.format, len(inspection.layers), inspection.parameters) == ("lokr", 500, offset // 4)
    assert inspection.layers[0].factors == ((64, 4), (1000, 1000))
    assert inspection.layers[0].shape == (64_000, 4_000)
    assert inspection.metadata["ss_output_name"] == "big"
    assert inspection.dtypes == {"F32": 1000}
    assert inspection.bytes == os.path.getsize(path)


@pytest.mark.parametrize(
    ("kind", "options", "method", "rank"),
    [
        ("lokr", {"factor": 2}, "LoKr", 2),
        ("lokr", {"factor": 2, "weight_decompose": True}, "LoKr+DoRA", 2),
        ("lokr", {"full_matrix": True, "dtype": torch.float16}, "LoKr", None),
        ("lokr", {"factor": 2, "use_tucker": True}, "LoKr", 2),
        ("loha", {}, "LoHa", 2),
        ("locon", {}, "LoRA", 2),
        ("locon", {"use_tucker": True, "weight_decompose": True, "wd_on_out": False}, "LoRA+DoRA", 2),
    ],
)
def test_it_says_what_loading_says(kind, options, method, rank, tmp_path):
    original = lycoris(kind, "conv2d", tmp_path, **options)
    (layer,) = inspect_header(original.path).layers
    delta = load(original.path).layers[original.layer]
    assert (layer.name, layer.method, layer.rank) == (original.layer, method, rank)
    assert layer.shape == delta.shape
    assert layer.parameters == delta.parameters


def test_a_mixed_file_names_each_method(tmp_path):
    layers = {
        "a": Kron(Full(torch.randn(2, 3)), LowRank(torch.randn(5, 1), torch.randn(1, 4))),
        "b": Matrix(LowRank(torch.randn(6, 3), torch.randn(3, 5))),
        "c": Matrix(Full(torch.randn(6))),
    }
    inspection = inspect_header(save(Adapter(layers), tmp_path / "x.safetensors"))
    assert [(layer.name, layer.method, layer.rank) for layer in inspection.layers] == [
        ("a", "LoKr", 1),
        ("b", "LoRA", 3),
        ("c", "diff", None),
    ]


def test_an_incomplete_file_is_an_error_here_too(tmp_path):
    from safetensors.torch import save_file

    save_file({"x.lokr_w1": torch.randn(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match="x: lokr_w2 is missing"):
        inspect_header(tmp_path / "x.safetensors")
