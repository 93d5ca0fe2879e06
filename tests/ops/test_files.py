"""Files on disk: only whole safetensors files are read, and writing is all or nothing."""

import contextlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forks import Forked, save_for_ever
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from krona_ops import Adapter, Full, Kron, load, read_header, save
from krona_ops.errors import AdapterFileError, FormatError, KronaError

ROOT = Path(__file__).resolve().parents[2]
LAYER = "diffusion_model.middle_block.1.attn1.to_q"


def adapter(value=1.0, size=3):
    return Adapter({LAYER: Kron(Full(torch.full((2, size), value)), Full(torch.full((5, 4), value)))}, {"a": "b"})


@pytest.fixture
def file(tmp_path):
    return save(adapter(), tmp_path / "x.safetensors")


def test_what_is_saved_is_what_is_loaded(file):
    assert dict(load(file).layers) == dict(adapter().layers)
    assert load(file).metadata["a"] == "b"


def test_the_header_is_read_without_the_tensors(file):
    header = read_header(file)
    assert header.shapes == {f"{LAYER}.lokr_w1": (2, 3), f"{LAYER}.lokr_w2": (5, 4)}
    assert header.metadata["a"] == "b"


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth", ".pkl"])
def test_pickles_are_never_opened(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    os.mkfifo(path)  # opening it would block for ever
    with pytest.raises(AdapterFileError, match=rf"\{suffix} files are never opened, they can run code") as refused:
        load(path)
    assert "weights_only=True" in str(refused.value)  # how to convert it elsewhere


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "a header of 0 bytes"),
        (b"\x80\x04\x95", "is not possible in a file of 3 bytes"),
        (struct.pack("<Q", 2**60) + b"{}", "a header of 1152921504606846976 bytes"),
        (struct.pack("<Q", 2) + b"[]", "its header makes no sense"),
        (struct.pack("<Q", 5) + b"{nope", "its header makes no sense"),
        (struct.pack("<Q", 9) + b'{"a": 12}', "its header makes no sense"),
        (struct.pack("<Q", 2) + b"{}" + b"rest", "the header speaks of 10 bytes, the file has 14"),
    ],
)
def test_what_is_no_safetensors_file_is_refused_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterFileError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


def test_a_truncated_file_is_refused_at_every_length(file):
    data = file.read_bytes()
    for length in range(0, len(data), 7):
        file.write_bytes(data[:length])
        with pytest.raises(AdapterFileError):
            load(file)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(AdapterFileError, match=r"cannot be opened: No such file"):
        load(tmp_path / "none.safetensors")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_file_raises_only_our_errors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    save(adapter(), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(KronaError):
        load(path)


def test_a_file_of_something_else_is_named(tmp_path):
    save_file({"model.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"No known adapter format: it holds model\.weight"):
        load(tmp_path / "model.safetensors")


def test_a_folder_that_cannot_be_written_is_an_error_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterFileError, match="cannot be written"):
        save(adapter(), tmp_path / "file" / "x.safetensors")


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
import torch
from krona_ops import Adapter, Full, Kron, save
from krona_ops.errors import AdapterFileError
big = Adapter({"x": Kron(Full(torch.ones(2, 2)), Full(torch.ones(100, 100)))})
try:
    save(big, sys.argv[1])
except AdapterFileError as error:
    print(error)
"""


def test_when_the_disk_refuses_more_the_old_file_stays_and_no_rest(file):
    """The kernel itself refuses to write past 4096 bytes, as a full disk does."""
    before = file.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL, str(file)], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "cannot be written: File too large" in done.stdout
    assert "nothing was changed" in done.stdout
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "x.safetensors"
    rng = torch.Generator().manual_seed(0)
    for _ in range(6):
        process = Forked(save_for_ever, path)
        try:
            assert process.hear() == "ready"
            assert process.wait(float(torch.rand((), generator=rng)) / 5) is None
        finally:
            process.kill()
        delta = load(path).layers["x"]
        assert len(set(delta.b.value.unique().tolist()) | set(delta.a.value.unique().tolist())) == 1


def test_the_file_is_readable_for_others_as_any_new_file_is(tmp_path, file):
    (tmp_path / "plain").write_text("")
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_metadata_survives_with_every_character(tmp_path):
    text = json.dumps({"prompt": 'ä "quoted" \n 機器人 🤖'}, ensure_ascii=False)
    path = save(adapter().with_metadata(prompt=text), tmp_path / "x.safetensors")
    assert load(path).metadata["prompt"] == text
