"""The cache gives back what was put in, mapped from the file; damage and other runs cost time and nothing else."""

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from krona_train.data.cache import Cache, can_hold, entry_key

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]


def tensors(seed=0):
    rng = torch.Generator().manual_seed(seed)
    made = {str(dtype).split(".")[1]: torch.randn(3, 5, generator=rng).to(dtype) for dtype in DTYPES}
    return {**made, "scalar": torch.tensor(1.5), "empty": torch.zeros(0, 4), "nan": torch.tensor([torch.nan, -0.0])}


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_an_entry_comes_back_bit_for_bit(cache):
    key, values = (
        entry_key("latent", 1),
        {"text": "Bär 🐻", "number": 0.1, "none": None, "flag": True, "infinite": float("inf")},
    )
    assert cache.get(key) is None
    cache.put(key, tensors(), values)
    kept, told = Cache(cache.folder).get(key)
    assert told == values
    assert {name: bits(t) for name, t in kept.items()} == {name: bits(t) for name, t in tensors().items()}


def test_views_of_one_tensor_and_strided_tensors_can_be_kept(cache):
    whole = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    cache.put(entry_key(1), {"whole": whole, "part": whole[1:3], "turned": whole.mT})
    kept, _ = cache.get(entry_key(1))
    assert torch.equal(kept["part"], whole[1:3])
    assert torch.equal(kept["turned"], whole.mT)


def mapped_file(tensor):
    """The file that backs a tensor's memory; empty where none does."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        ends = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if int(ends[1], 16) <= address < int(ends[2], 16):
            name = line.split(maxsplit=5)[5:]
            return name[0] if name and name[0].startswith("/") else ""
    return ""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux shows what a process has mapped")
def test_what_is_read_is_mapped_from_the_file_not_copied(cache, monkeypatch):
    keys = [entry_key(n) for n in range(3)]
    for key in keys:
        cache.put(key, {"latent": torch.randn(4, 128, 128)})
    kept = [cache.get(key)[0]["latent"] for key in keys]
    assert [mapped_file(latent) for latent in kept] == [str(cache.path(key).resolve()) for key in keys]
    assert mapped_file(kept[0].clone()) == ""
    monkeypatch.setattr("krona_train.data.cache.MAPPED_AT_MOST", 2)  # a process has only so many mappings
    assert mapped_file(cache.get(keys[0])[0]["latent"]) == ""


def test_changing_what_was_read_does_not_change_the_cache(cache):
    key = entry_key(1)
    cache.put(key, {"x": torch.zeros(1000)})
    cache.get(key)[0]["x"].add_(1)
    assert cache.get(key)[0]["x"].sum() == 0


@pytest.mark.parametrize(
    "parts", [("latent", "a"), ("text", "b"), ("text", "a", None), ("text", "a", 1), ("texta",), ("text", ("a",))]
)
def test_every_part_of_a_key_counts(parts):
    assert entry_key(*parts) != entry_key("text", "a")
    assert entry_key(*parts) == entry_key(*parts)


def retold(path, **changes):
    from krona_ops.files import load_tensors, read_header, save_tensors

    metadata = {**read_header(path).metadata, **changes}
    save_tensors(load_tensors(path), path, {key: value for key, value in metadata.items() if value is not None})


def other_values(path):
    retold(path, **{"krona.values": '{"a": 7}'})


def no_values(path):
    retold(path, **{"krona.values": None})


def deep_values(path):
    forged(path, "[" * 3000)


def values_of_lists(path):
    forged(path, '{"a": [1]}')


def values_that_are_a_list(path):
    forged(path, "[]")


def forged(path, text):
    """With the checksum that belongs to it."""
    from krona_ops.checksum import checksum
    from krona_ops.files import load_tensors

    retold(path, **{"krona.values": text, "krona.crc32": checksum(load_tensors(path), text)})


def truncated(path):
    path.write_bytes(path.read_bytes()[:-10])


def overwritten(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def emptied(path):
    path.write_bytes(b"")


def foreign(path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, path)


DAMAGES = [
    *(truncated, overwritten, emptied, foreign),
    *(other_values, no_values, deep_values, values_of_lists, values_that_are_a_list),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_no_entry_and_the_log_names_it(cache, damage, caplog):
    key = entry_key(1)
    cache.put(key, {"x": torch.arange(100.0)}, {"a": 1})
    damage(cache.path(key))
    with caplog.at_level(logging.WARNING):
        assert cache.get(key) is None
    assert "damaged and is made again" in caplog.text
    assert key in caplog.text
    cache.put(key, {"x": torch.arange(100.0)})
    assert cache.get(key) is not None


def test_an_entry_of_an_earlier_version_whose_checksum_leaves_the_values_out_is_read(cache, caplog):
    from krona_ops.checksum import checksum
    from krona_ops.files import save_tensors

    tensors = {"x": torch.arange(100.0)}
    save_tensors(tensors, cache.path(entry_key(1)), {"krona.values": '{"a": 1}', "krona.crc32": checksum(tensors)})
    kept, values = cache.get(entry_key(1))
    assert torch.equal(kept["x"], tensors["x"])
    assert values == {"a": 1}
    assert caplog.text == ""


def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = Cache(tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        for n in range(3):
            cache.put(entry_key(n), {"x": torch.zeros(3)})
            assert cache.get(entry_key(n)) is None
    assert caplog.text.count("cannot be kept for the next run") == 1
    assert cache.prune() == 0


def filled(folder, count, age):
    """Entries of the same size, the first the longest unused."""
    cache = Cache(folder)
    for n in range(count):
        cache.put(entry_key(n), {"x": torch.zeros(1000)})
        used = time.time() - age * (count - n)
        os.utime(cache.path(entry_key(n)), (used, used))
    return cache.path(entry_key(0)).stat().st_size


def present(cache, count):
    return [n for n in range(count) if cache.path(entry_key(n)).is_file()]


def test_pruning_removes_the_longest_unused_until_the_rest_fits(tmp_path):
    size = filled(tmp_path, 6, 100)
    cache = Cache(tmp_path, limit_bytes=4 * size)
    assert cache.prune() == 2 * size
    assert present(cache, 6) == [2, 3, 4, 5]
    assert cache.prune() == 0


def test_reading_an_entry_counts_as_use_for_other_runs_too(tmp_path):
    size = filled(tmp_path, 4, 100)
    Cache(tmp_path).get(entry_key(0))
    other = Cache(tmp_path, limit_bytes=2 * size)
    other.prune()
    assert present(other, 4) == [0, 3]


def test_pruning_keeps_what_this_run_uses_whatever_its_size(tmp_path):
    filled(tmp_path, 4, 100)
    cache = Cache(tmp_path, limit_bytes=1)
    kept, _ = cache.get(entry_key(1))
    cache.put(entry_key(9), {"x": torch.ones(5)})
    os.utime(cache.path(entry_key(1)), (0, 0))
    cache.prune()
    assert present(cache, 10) == [1, 9]
    assert kept["x"].sum() == 0


def test_an_entry_that_another_run_removes_can_still_be_read_here(tmp_path):
    filled(tmp_path, 2, 100)
    kept, _ = Cache(tmp_path).get(entry_key(0))
    Cache(tmp_path, limit_bytes=0).prune()
    assert kept["x"].shape == (1000,)
    assert kept["x"].sum() == 0


def test_pruning_removes_what_a_crash_left_and_not_what_is_being_written(tmp_path):
    filled(tmp_path, 1, 1)
    folder = Cache(tmp_path).path(entry_key(0)).parent
    old, new, foreign = folder / ".x.1.part", folder / ".x.2.part", folder / "notes.txt"
    for path in (old, new, foreign):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    Cache(tmp_path).prune()
    assert [path.exists() for path in (old, new, foreign)] == [False, True, True]


WRITER = """
import sys, torch
from krona_train.data.cache import Cache, entry_key
for turn in range(15):
    cache = Cache(sys.argv[1], limit_bytes=20_000)
    for n in range(8):
        entry = cache.get(entry_key(n))
        if entry is None:
            cache.put(entry_key(n), {"x": torch.full((1000,), float(n))})
        else:
            assert (entry[0]["x"] == n).all()
    Cache(sys.argv[1], limit_bytes=12_000).prune()
"""


def test_runs_that_share_a_folder_do_not_break_each_other(tmp_path):
    root = str(Path(__file__).resolve().parents[3])
    env = {**os.environ, "PYTHONPATH": root}
    runs = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=env, stderr=subprocess.PIPE) for _ in range(3)]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors.decode()
        assert b"damaged" not in errors


def test_only_tensors_texts_and_numbers_can_be_kept():
    assert can_hold({"a": torch.zeros(1), "b": 1, "c": "x", "d": None, "e": 0.5})
    assert not can_hold({"a": [1, 2]})
    assert not can_hold({"a": object()})
