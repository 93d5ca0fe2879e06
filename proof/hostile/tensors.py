"""A safetensors file tensor by tensor, of any names, types, shapes and values; and what is done to a whole one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from random import Random

import torch
from torch import Tensor

from krona_ops.formats.header import DTYPES

from .dice import WORDS, json_token, json_with_a_hole, mutated, safetensors

_BITS = {
    **{name: 8 * torch.empty(0, dtype=dtype).element_size() for name, dtype in DTYPES.items()},
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SPECIAL = (float("nan"), float("inf"), float("-inf"), 1e30, -3e38, 1e-45, -0.0)
_MOST = 2**23
"""Bytes of one tensor; of more the header speaks, and the file has them not."""
_ODD = (
    *(
        "",
        ".",
        "..",
        "a" * 990,
        "a." * 400,
        "\x1b[2J",
        "\u202e",
        "é",
        "名前",
        "a\nb",
        "a\0b",
        "../../x",
        "%s{0}",
        "1" * 300,
    ),
    *("__metadata__", "a.krona_row.to_q.krona_row.to_q", ".krona_row.to_q", "x.krona_.to_q", "krona_row.gate"),
)


@dataclass(frozen=True)
class Stored:
    """One tensor of a file."""

    dtype: str
    """As headers call it."""
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, tensor: Tensor) -> Stored:
        """A tensor as it is stored."""
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        return cls(_NAMES[tensor.dtype], tuple(tensor.shape), flat.numpy().tobytes())


Tensors = dict[str, Stored]


def stored(tensors: Mapping[str, Tensor]) -> Tensors:
    """Tensors by their names, as a file holds them."""
    return {name: Stored.of(tensor) for name, tensor in tensors.items()}


def packed(tensors: Tensors, metadata: Mapping[str, str]) -> bytes:
    """The file."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, at + len(tensor.data)]}
        at += len(tensor.data)
    text = json.dumps(header).encode()
    return b"".join([struct.pack("<Q", len(text)), text, *(tensor.data for tensor in tensors.values())])


def filled(shape: tuple[int, ...], dtype: str, rng: Random) -> Stored:
    """A tensor of any type: its bytes are random, all one, or missing where they would be too many."""
    length = prod(shape) * _BITS[dtype] // 8
    if length > _MOST:
        return Stored(dtype, shape, b"")
    return Stored(dtype, shape, rng.randbytes(length) if length < 10_000 and rng.random() < 0.7 else bytes(length))


def damaged(tensors: Tensors, metadata: dict[str, str], rng: Random, bomb: Callable[[int], str]) -> tuple[str, bytes]:
    """A file of these tensors with one or two things done to it, and what was done first.

    Args:
        bomb: What the tensors of a header with very many are called.
    """
    tensors, metadata = dict(tensors), dict(metadata)
    ways = rng.choices(_WAYS, k=rng.choice((1, 1, 1, 2)))
    for _, change in ways:
        if tensors:
            change(tensors, rng)
    fault = ways[0][0]
    kind = rng.random()
    if kind < 0.04:
        return "very many tensors", packed(_many(rng, bomb), metadata)
    if kind < 0.12:
        return "bytes of the header", _with_header(packed(tensors, metadata), rng)
    if kind < 0.16:
        return "bytes anywhere", mutated(packed(tensors, metadata), rng)
    if kind < 0.2:
        metadata |= {rng.choice(("format", *WORDS[:-4])): rng.choice((json_token(rng), *WORDS)) for _ in range(3)}
        metadata = {key: value.encode(errors="replace").decode() for key, value in metadata.items()}
        return "other metadata", packed(tensors, metadata)
    return fault, packed(tensors, metadata)


def _with_header(raw: bytes, rng: Random) -> bytes:
    length = 8 + int.from_bytes(raw[:8], "little")
    kind = rng.randrange(4)
    if kind == 0:
        return raw[:8] + mutated(raw[8:length], rng) + raw[length:]
    if kind == 1:
        text = rng.choice((b'{"a":' * 5000, b'{"a":[' + b"[" * 100_000, b"{" + b" " * 2**20 + b"}", b"[]", b"", b"{}"))
        return struct.pack("<Q", len(text)) + text + raw[length:]
    if kind == 2:
        return struct.pack("<Q", rng.choice((0, 1, 2**63, 2**64 - 1, 16 * 2**20, len(raw)))) + raw[8:]

    def entry(header: dict) -> str:
        name = rng.choice([name for name in header if name != "__metadata__"] or [""])
        if not name or rng.random() < 0.2:
            return json_with_a_hole(header, rng)
        value, header[name] = json_with_a_hole(header[name], rng), "\ue000"
        return json.dumps(header).replace(json.dumps("\ue000"), value)

    return safetensors(raw, entry)


def _many(rng: Random, bomb: Callable[[int], str]) -> Tensors:
    empty = rng.choice((Stored("F32", (1, 1), bytes(4)), Stored("F32", (0, 3), b""), Stored("F16", (1,), bytes(2))))
    return {bomb(number): empty for number in range(rng.choice((1_000, 5_000, 5_000, 20_000, 2**17, 2**17 + 1)))}


# ------------------------------------------------------------------------------------------------ what is done to tensors


def _whole(tensors: Tensors, rng: Random) -> None:
    """Nothing."""


def _missing(tensors: Tensors, rng: Random) -> None:
    for name in rng.sample(list(tensors), min(len(tensors), rng.choice((1, 1, 2, 5, len(tensors) - 1)))):
        del tensors[name]


def _extra(tensors: Tensors, rng: Random) -> None:
    old = rng.choice(list(tensors))
    start, _, end = old.rpartition(".")
    new = rng.choice((f"{start}.x.{end}", f"{old}.x", f"x.{old}", f"{start}.alpha", f"{start}.dora_scale", f"{old}_scale",
                      f"{start}.bias", f"{start}.weight", "x", "model.x.weight", f"unet.{old}", f"diffusion_model.{old}", old.upper()))  # fmt: skip
    tensors[new] = tensors[old] if rng.random() < 0.6 else filled(rng.choice(((), (1,), (3, 2))), "F32", rng)


def _reshaped(tensors: Tensors, rng: Random) -> None:
    name = rng.choice(list(tensors))
    old = tensors[name]
    shape = rng.choice((
        (), (0,), (1,), (0, 0), (0, 2**40), (2**62, 0), (2**31, 2**31, 0), (1,) * 8, (1,) * 33, (*old.shape, 1), (1, *old.shape),
        old.shape[::-1], old.shape[:-1], tuple(n + 1 for n in old.shape), tuple(max(1, n // 2) for n in old.shape),
        tuple(0 for _ in old.shape), (prod(old.shape),), (2**20, *old.shape[1:]), (*(1 for _ in old.shape[:-1]), 2**22),
        *(tuple(big if place == at else 1 for place in range(len(old.shape))) for at in range(len(old.shape)) for big in (2**16, 2**20, 2**23)),
    ))  # fmt: skip
    dtype = old.dtype if prod(shape) * _BITS[old.dtype] // 8 <= _MOST else rng.choice(("U8", "F4", "F8_E4M3"))
    tensors[name] = filled(shape, dtype, rng)


def _stretched(tensors: Tensors, rng: Random) -> None:
    """Several of one size at once, so that they fit one another and nothing else."""
    old = tensors[rng.choice(list(tensors))].shape
    which = rng.randrange(max(1, len(old)))
    size = rng.choice((0, 1, 2, 7, 4096, 2**20))
    for name, tensor in list(tensors.items()):
        if len(tensor.shape) == len(old) and old and tensor.shape[which] == old[which]:
            shape = tuple(size if place == which else n for place, n in enumerate(tensor.shape))
            tensors[name] = filled(shape if rng.random() < 0.7 else (size, *(1 for _ in shape[1:])), tensor.dtype, rng)


def _retyped(tensors: Tensors, rng: Random) -> None:
    dtype = rng.choice(list(_BITS))
    for name in rng.sample(list(tensors), rng.choice((1, 1, len(tensors)))):
        tensors[name] = filled(tensors[name].shape, dtype, rng)


def _special(tensors: Tensors, rng: Random) -> None:
    for name in rng.sample(list(tensors), rng.choice((1, 1, len(tensors)))):
        if tensors[name].dtype in ("F32", "F16", "BF16", "F64"):
            old = tensors[name]
            value = torch.full(old.shape, rng.choice(_SPECIAL), dtype=torch.float64).to(DTYPES[old.dtype])
            tensors[name] = Stored.of(value)


def _renamed(tensors: Tensors, rng: Random) -> None:
    old = rng.choice(list(tensors))
    start, _, end = old.rpartition(".")
    odd = rng.choice(_ODD)
    new = rng.choice(
        (odd, f"{odd}.{old}", f"{start}.{odd}.{end}", f"{odd}.{end}", f"{start}.{odd}", f"{start}{odd}.{end}")
    )
    tensors[new] = tensors.pop(old)


def _exchanged(tensors: Tensors, rng: Random) -> None:
    one, other = rng.choices(list(tensors), k=2)
    tensors[one], tensors[other] = tensors[other], tensors[one]


def _cut(tensors: Tensors, rng: Random) -> None:
    """Its bytes are too few or too many for what the header says."""
    name = rng.choice(list(tensors))
    data = tensors[name].data
    tensors[name] = replace(tensors[name], data=rng.choice((data[:-1], data + b"\0", data[: len(data) // 2], b"")))


_WAYS: tuple[tuple[str, Callable[[Tensors, Random], None]], ...] = (
    ("nothing", _whole),
    ("nothing", _whole),
    ("tensors missing", _missing),
    ("a tensor too many", _extra),
    ("another shape", _reshaped),
    ("other shapes that fit", _stretched),
    ("other types", _retyped),
    ("NaN, infinity, huge numbers", _special),
    ("an odd name", _renamed),
    ("two tensors exchanged", _exchanged),
    ("bytes missing", _cut),
)
