"""What files and folders from strangers may cost: large headers, files that are refused, ten thousand runs.

    python3 tools/host.py run benchmarks/limits.py [--rounds 5]

- **headers**: ``inspect_header`` of a file with 100,000 tensors, two kinds of it,
  and ``json.loads`` of the same text in turns with it.
- **refused files**: one of each kind, handed to whoever reads such files. The time is the longest of all kinds'
  medians; memory is what a process of its own takes at most beyond what it had, less the file's size (Linux).
- **runs**: a list of 10,000 folders anew, once more, and one folder alone.
  What is in the folders are links to the files of three.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks.contest import Times, arguments, finish, table, take_turns  # noqa: E402
from krona_ops import load  # noqa: E402
from krona_ops.errors import KronaError  # noqa: E402
from krona_ops.formats.inspection import inspect_header  # noqa: E402
from krona_train.data.pictures import Picture  # noqa: E402
from krona_train.data.pixels import Content  # noqa: E402
from krona_train.run.job import load_job  # noqa: E402
from krona_train.run.overview import RunList, glance_at  # noqa: E402

TENSORS, RUNS = 100_000, 10_000
"""What is measured, and what the names of the results say; 1,000 and 10 in a rehearsal."""
MEGABYTE = 2**20


def stored(header: object, data: bytes = b"") -> bytes:
    """A safetensors file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def of_many(count: int, shapes: tuple[tuple[int, ...], ...], name: Callable[[int], str]) -> bytes:
    """A file with so many tensors, of these shapes in turns."""
    header, at = {}, 0
    for number in range(count):
        shape = shapes[number % len(shapes)]
        size = 4 * (shape[0] * shape[1] if shape else 1)
        header[name(number)] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return stored(header, bytes(at))


LORA = ("lora_up.weight", "lora_down.weight", "alpha")


def large(tensors: int) -> dict[str, bytes]:
    """Files with about so many tensors, by kind."""
    lora = tensors // 3 * 3
    return {
        "LoRA": of_many(lora, ((8, 4), (4, 6), ()), lambda n: f"lora_unet_block_{n // 3}_attn.{LORA[n % 3]}"),
        "LoKr, short names": of_many(tensors, ((1, 1),), lambda n: f"{n // 2:x}.lokr_w{n % 2 + 1}"),
    }


def tensor(*shape: int, of: str = "F32", size: int = 4) -> dict[str, Any]:
    """One tensor alone in a file."""
    count = size
    for axis in shape:
        count *= axis
    return {"dtype": of, "shape": shape, "data_offsets": [0, count]}


def picture(side: int) -> bytes:
    """A PNG that says it is so large and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(3 * side + 1)))
        + chunk(b"IEND", b"")
    )


def aliases() -> bytes:
    """Nine to the power of ten values in 400 bytes of YAML."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 11)]
    return "\n".join(lines).encode()


MILLION = "a million tensors"
"""Takes seconds to make, so that a rehearsal goes without."""
SAFETENSORS: dict[str, Callable[[], bytes]] = {
    MILLION: partial(of_many, 1_000_000, ((1, 1),), lambda n: f"{n:x}.diff"),
    "a header of 90 MB": lambda: stored(b" " * 90_000_000 + b"{}"),
    "lists within lists": lambda: stored(b'{"a":' + b"[" * 5_000_000 + b"]" * 5_000_000 + b"}"),
    "many empty mappings": lambda: stored(b'{"a":[' + b"{}," * 5_000_000 + b"{}]}"),
    "a name of 10 MB": lambda: stored({f"{'k' * 10_000_000}.diff": tensor(1)}, bytes(4)),
    "a shape of 2 to the power of 63": lambda: stored({"a.diff": tensor(0, 2**63)}),
    "a shape that does not fill its bytes": lambda: stored({"a.diff": tensor(60_000, 60_000)}, bytes(4)),
    "a whole model": partial(of_many, 2_000, ((8, 4),), lambda n: f"model.diffusion_model.{n}.weight"),
    "a method that nobody knows": partial(of_many, 2_000, ((8, 4),), lambda n: f"block.{n}.mystery"),
    "complex numbers": lambda: stored({"a.lokr_w1": tensor(2, 2, of="C64", size=8)}, bytes(32)),
    "no safetensors file": lambda: b"PK\x03\x04" + bytes(5_000_000),
}
YAML: dict[str, Callable[[], bytes]] = {
    "aliases of aliases": aliases,
    "a deep list": lambda: b"a: " + b"[" * 20_000,
    "a number of 10,000 digits": lambda: b"training: {steps: " + b"9" * 10_000 + b"}",
    "a megabyte of text": lambda: b"name: " + b"x" * 1_000_000,
}
PICTURES: dict[str, Callable[[], bytes]] = {
    "60,000 x 60,000 pixels": partial(picture, 60_000),
    "no picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(1000),
}
KINDS: tuple[tuple[str, dict[str, Callable[[], bytes]], Callable[[Path], object]], ...] = (
    ("adapter.safetensors", SAFETENSORS, load),
    ("run.yaml", YAML, load_job),
    ("picture.png", PICTURES, lambda path: Content(Picture(path, "a", "a")).image),
)


def refused(read: Callable[[Path], object], path: Path) -> None:
    """
    Raises:
        SystemExit: It was read.
    """
    try:
        read(path)
    except KronaError:
        return
    raise SystemExit(f"{path} was not refused.")


def beyond(act: Callable[[], None]) -> int:
    """Bytes that a forked process takes at most while it does this, beyond what it has before;
    0 where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return 0
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak()
        act()
        os.write(writing, str(peak() - before).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return int(text)


def peak() -> int:
    """Bytes of this process's memory at most since `clear_refs`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def refusals(folder: Path, rounds: int, left_out: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Seconds and megabytes of each kind."""
    rows = {}
    for name, kinds, read in KINDS:
        for kind, make in ((kind, make) for kind, make in kinds.items() if kind not in left_out):
            path = folder / name
            path.write_bytes(make())
            seconds = take_turns({kind: partial(refused, read, path)}, rounds)[kind].median
            more = max(0, beyond(partial(refused, read, path)) - path.stat().st_size)
            rows[f"{name}: {kind}"] = {"ms": 1e3 * seconds, "MB": more / MEGABYTE}
            path.unlink()
    return rows


def headers(folder: Path, rounds: int, tensors: int) -> dict[str, Times]:
    """Large headers, and how long the library of the language takes for the same text."""
    contestants: dict[str, Callable[[], object]] = {}
    for number, (kind, data) in enumerate(large(tensors).items()):
        path = folder / f"{number}.safetensors"
        path.write_bytes(data)
        contestants[kind] = partial(inspect_header, path)
        contestants[f"{kind}: json.loads"] = partial(json.loads, data[8 : 8 + int.from_bytes(data[:8], "little")])
    return take_turns(contestants, rounds)


def runs(folder: Path, rounds: int, count: int) -> dict[str, Times]:
    """Lists of many runs."""
    step = {"event": "step", "loss": 0.5, "learning_rate": 1e-3}
    started = {"event": "started", "step": 0, "steps": 400, "layers": 1, "parameters": 2, "notes": []}
    ended = {"event": "ended", "step": 400, "steps": 400, "error": None, "stopped": False}
    rows = {
        "short": [started, {**step, "step": 1}, ended],
        "killed": [started, {**step, "step": 1}],
        "long": [started, *({**step, "step": n, "note": "x" * 100} for n in range(1, 400)), ended],
    }
    for name, events in rows.items():
        (folder / name).mkdir()
        (folder / name / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in events))
        (folder / name / "run.yaml").write_text("name: x\n")
    parent, models = folder / "runs", [folder / name for name in rows]
    for number in range(count):
        run = parent / f"run-{number}"
        run.mkdir(parents=True)
        for name in ("metrics.jsonl", "run.yaml"):
            os.link(models[number % 3] / name, run / name)
    time.sleep(1)  # what is younger than a tenth of a second is looked at again
    known = RunList(parent)
    known.look()
    return take_turns(
        {
            "10,000 runs, anew": lambda: RunList(parent).look(),
            "10,000 runs, again": known.look,
            "one run": partial(glance_at, parent / "run-7"),
        },
        rounds,
    )


def main() -> None:
    """Measure, print, write."""
    chosen = arguments("What files and folders from strangers may cost.", rounds=5)
    tensors, count = (1_000, 10) if chosen.rehearse else (TENSORS, RUNS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read = headers(folder, chosen.rounds, tensors)
        no = refusals(folder, chosen.rounds, left_out=(MILLION,) if chosen.rehearse else ())
        listed = runs(folder, chosen.rounds, count)
    print(table(("", "ms", "lowest", "highest"), (
        (what, *(f"{1e3 * s:.1f}" for s in (t.median, t.low, t.high))) for what, t in {**read, **listed}.items()
    )))  # fmt: skip
    print("\n" + table(("refused", "ms", "MB"), ((what, f"{t['ms']:.1f}", f"{t['MB']:.1f}") for what, t in no.items())))
    results = {"s": {what: t.as_row() for what, t in {**read, **listed}.items()}, "refused": no}
    finish("limits", results, chosen, threads=chosen.threads, rounds=chosen.rounds, kinds=sum(len(kinds) for _, kinds, _ in KINDS),
           median_of_kinds_ms=median(row["ms"] for row in no.values()))  # fmt: skip


if __name__ == "__main__":
    main()
