"""Ten adapters of SDXL's size become one: seconds and memory of blending, compressing, merging and reporting.

    python3 tools/host.py run benchmarks/blend.py [--threads 2]

Synthetic factors, 64 × 4, on the 560 attention layers of SDXL's UNet (as many parameters as the paper's best variant).
Prints a table and writes ``benchmarks/results/blend-<machine>.json``. Compress is shown twice: to the adapters' own factors
(two thin QR decompositions per layer) and to others (a Gram matrix per layer), and back to a LoRA for ten layers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from krona_ops import Adapter, Full, Kron, LayerName  # noqa: E402
from krona_ops.blend import blend  # noqa: E402
from krona_ops.compress import compress  # noqa: E402
from krona_ops.forms import KronForm, LowRankForm  # noqa: E402
from krona_ops.report import report  # noqa: E402
from krona_ops.shapes import split  # noqa: E402

# Blocks of SDXL's UNet: (name, transformer blocks in it, width). Keys and values of attn2 read 2048 numbers per token.
BLOCKS = (
    *((f"input_blocks.{n}.1", 2, 640) for n in (4, 5)),
    *((f"input_blocks.{n}.1", 10, 1280) for n in (7, 8)),
    ("middle_block.1", 10, 1280),
    *((f"output_blocks.{n}.1", 10, 1280) for n in (0, 1, 2)),
    *((f"output_blocks.{n}.1", 2, 640) for n in (3, 4, 5)),
)
TEXT = 2048
FACTORS = (64, 4)


def layers() -> dict[str, tuple[int, int]]:
    """Names and shapes ``(out, in)`` of the 560 attention layers."""
    return {
        f"diffusion_model.{block}.transformer_blocks.{n}.{attention}.{leaf}": (
            width,
            TEXT if attention == "attn2" and leaf in ("to_k", "to_v") else width,
        )
        for block, depth, width in BLOCKS
        for n in range(depth)
        for attention in ("attn1", "attn2")
        for leaf in ("to_q", "to_k", "to_v", "to_out.0")
    }


def synthetic(seed: int) -> Adapter:
    """An adapter with random factors."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in layers().items():
        s = split(shape, FACTORS)
        a, b = torch.randn(s.out_a, s.in_a, generator=g), torch.randn(s.out_b, s.in_b, generator=g)
        found[LayerName(name)] = Kron(Full(a * 0.01), Full(b * 0.01))
    return Adapter(found)


def seconds(run: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """The shortest and the longest of several runs: the first says what the code costs, the second what a busy machine adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times), max(times)


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def measure(threads: int) -> dict[str, object]:
    """Run everything once or a few times."""
    torch.set_num_threads(threads)
    adapters = [synthetic(seed) for seed in range(10)]
    pairs = [(adapter, 0.1 + 0.1 * n) for n, adapter in enumerate(adapters)]
    start = peak_gigabytes()
    found: dict[str, object] = {"layers": len(adapters[0]), "parameters each": adapters[0].parameters, "GB at start": start}
    found["blend 10, exact"] = seconds(lambda: blend(pairs))
    found["GB after blend"] = peak_gigabytes()
    blended = blend(pairs)
    found["compress to 64 × 4"] = seconds(lambda: compress(blended, KronForm(FACTORS)), 2)
    found["GB after compress"] = peak_gigabytes()
    found["compress to 64 × 4, error"] = compress(blended, KronForm(FACTORS))[1].error
    found["compress to 8 × 8"] = seconds(lambda: compress(blended, KronForm((8, 8))), 1)
    found["report of one"] = seconds(lambda: report(adapters[0]))
    few = Adapter(dict(list(blended.layers.items())[200:210]))
    found["to LoRA 64, 10 layers of 1280"] = seconds(lambda: compress(few, LowRankForm(64)), 1)
    found["ties to 64 × 4, 10 adapters, 10 layers"] = seconds(
        lambda: blend(
            [(Adapter({n: a.layers[n] for n in few.layers}), w) for a, w in pairs], method="ties", form=KronForm(FACTORS)
        ),
        1,
    )
    found["GB at end"] = peak_gigabytes()
    return found


def machine() -> str:
    """The processor's name, fit for a file name."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (model := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        name = model[1]
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() + f"-{os.cpu_count()}cpu"


def commit() -> str:
    """The commit that is checked out, with a plus where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False).stdout.strip()
    return head + ("+" if dirty else "")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Blend ten adapters of SDXL's size.")
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    found = measure(threads)
    for name, value in found.items():
        if isinstance(value, tuple):
            print(f"{name:42}{value[0]:10.3f} s   (longest {value[1]:.3f})")
        else:
            print(f"{name:42}{value:10,.3f}" if isinstance(value, float) else f"{name:42}{value:10,}")
    context = {
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "threads": threads,
        "load average at end": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
    path = ROOT / "benchmarks" / "results" / f"blend-{machine()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**context, "results": found}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
