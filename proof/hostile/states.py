"""A saved state that was tampered with: refused, or gone on from like any other;
the whole one beside it is taken, and one run never hides another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from krona_ops.checksum import checksum
from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.run.state import TrainState, newest_whole, same_run, states

from .. import toy
from ..driver import Bench, Outcome
from ..judge import foreign
from .dice import WORDS, json_token, json_with_a_hole, mutated, safetensors


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """The newest of two states is changed."""
    source = toy.train(bench.folder / "in peace").folder
    data = toy.examples()
    whole, newest = states(source)
    raw = newest.read_bytes()
    known = TrainState.load(whole)
    for number in numbers:
        rng, parent = bench.rng(number), bench.place(number)
        folder = parent / "run"
        folder.mkdir()
        (folder / whole.name).hardlink_to(whole)
        fault, made = _changed(raw, rng)
        (folder / newest.name).write_bytes(made)
        goes_on = rng.random() < 0.25  # takes ten times as long as all else
        yield Outcome(
            number, fault, tuple(filter(None, _wrong(folder, folder / newest.name, known, data if goes_on else [])))
        )
        shutil.rmtree(parent)


def _wrong(folder: Path, path: Path, known: TrainState, data: list) -> Iterator[str | None]:
    yield foreign(lambda: TrainState.peek(path))
    yield foreign(lambda: TrainState.load(path))
    yield foreign(lambda: same_run([folder], toy.CONFIG, known.base, known.data))
    taken = []
    yield foreign(lambda: taken.append(newest_whole(folder)))
    if not taken or taken[0] is None:
        yield "the whole state is not taken"
    elif taken[0].step != known.step and data:
        yield foreign(lambda: fit(ToyBackbone(), data, toy.CONFIG, resume=taken[0]))


def _changed(raw: bytes, rng: Random) -> tuple[str, bytes]:
    kind = rng.randrange(7)
    if kind == 0:
        return "bytes of the header", raw[:8] + mutated(raw[8 : 8 + int.from_bytes(raw[:8], "little")], rng) + raw[
            -9000:
        ]
    if kind == 1:
        return "bytes anywhere", mutated(raw, rng)

    def metadata(header: dict) -> None:
        texts = header["__metadata__"]
        key = rng.choice(sorted(texts))
        if rng.random() < 0.15:
            del texts[key]
        elif key in ("krona.config", "krona.numbers") and rng.random() < 0.8:
            texts[key] = json_with_a_hole(json.loads(texts[key]), rng)
        else:
            texts[key] = rng.choice((json_token(rng), rng.choice(WORDS), texts[rng.choice(sorted(texts))]))

    def entry(header: dict) -> str:
        names = [name for name in header if name != "__metadata__"]
        name = rng.choice(names)
        if rng.random() < 0.3:
            return json_with_a_hole(header, rng)
        if rng.random() < 0.5:
            header[rng.choice((*WORDS, *names))] = header.pop(name)
        else:
            header[name][rng.choice(("dtype", "shape", "data_offsets"))] = rng.choice(
                ("F16", "I32", [2**63], [0], [], [1, 2], 5)
            )
        return json.dumps(header)

    if kind < 5:
        return "what it tells", safetensors(raw, metadata)
    if kind == 5:
        return "its tensors' entries", safetensors(raw, entry)
    return "its tensors, with a checksum that fits", _renamed(raw, rng)


def _renamed(raw: bytes, rng: Random) -> bytes:
    """Two tensors of one size change their names, or one gets another name or shape; the checksum is made anew."""
    from safetensors.torch import load as tensors_of
    from safetensors.torch import save as to_bytes

    tensors = dict(sorted(tensors_of(raw).items()))
    name, other = rng.sample(list(tensors), 2)
    kind = rng.randrange(4)
    if kind == 0:
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif kind == 1:
        del tensors[name]
    elif kind == 2:
        tensors[rng.choice((f"optimizer.{rng.randrange(99)}.exp_avg", "optimizer.x", "ema.x", "factors.x.a", "x"))] = (
            tensors.pop(name)
        )
    else:
        tensors[name] = tensors[name].reshape(-1)[:1].clone().double() * rng.choice(
            (1, float("nan"), float("inf"), 1e300)
        )
    texts = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    return to_bytes(tensors, {**texts, "krona.crc32": checksum(tensors)})
