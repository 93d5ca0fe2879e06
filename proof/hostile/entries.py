"""An entry of the cache that was tampered with: it is as it was written, or none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from krona_train.data.cache import Cache, entry_key

from ..driver import Bench, Outcome
from ..judge import foreign
from .dice import json_token, json_with_a_hole, mutated, safetensors

VALUES = {"pooled": 3, "text": "a", "scale": 0.5, "none": None}


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Bytes, values and checksums."""
    cache, key = Cache(bench.folder / "cache"), entry_key("x")
    tensors = {
        "embedding": torch.randn(1, 7, 5, generator=torch.Generator().manual_seed(1)),
        "mask": torch.ones(3, dtype=torch.int64),
    }
    cache.put(key, tensors, VALUES)
    path = cache.path(key)
    raw = path.read_bytes()
    for number in numbers:
        rng = bench.rng(number)

        def with_a_hole(header: dict, rng: Random = rng) -> str | None:
            metadata = header["__metadata__"]
            name = rng.choice(sorted(metadata))
            metadata[name] = json_with_a_hole(VALUES, rng) if name == "krona.values" else json_token(rng)
            return json_with_a_hole(header, rng) if rng.random() < 0.2 else None

        fault, made = (
            ("bytes changed", mutated(raw, rng))
            if rng.random() < 0.5
            else ("other values", safetensors(raw, with_a_hole))
        )
        path.write_bytes(made)
        entries: list[Any] = []
        violations = [wrong] if (wrong := foreign(partial(_get, cache.folder, key, entries))) else []
        if entries and entries[0] is not None:
            kept, values = entries[0]
            same = kept.keys() == tensors.keys() and all(torch.equal(kept[name], tensors[name]) for name in tensors)
            if not same or json.dumps(values) != json.dumps(VALUES):
                violations.append(f"other values came out: {str(values)[:100]}")
        yield Outcome(number, fault, tuple(violations))


def _get(folder: Path, key: str, entries: list[Any]) -> None:
    """Add what the cache has under a key."""
    entries.append(Cache(folder).get(key))
