"""Adapters of SDXL's size become one: seconds and memory of blending, compressing and reporting, and how they grow.

    python3 tools/host.py run benchmarks/blend.py [--rounds 3] [--threads 2] [--most 32]

Synthetic factors on the 560 attention layers of SDXL's UNet, 64 × 4 unless told otherwise (as many parameters as the
paper's best variant). Compressing is shown to the adapters' own factors (two thin QR decompositions per layer) and to
others (a Gram matrix per layer), and to a LoRA and by TIES for ten layers of 1280. The last parts let one thing grow:
the number of adapters, the factors, the rank. Blends are compared with the weighted sum of dense layers in float64.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks.adapters import FACTORS, sdxl_adapter  # noqa: E402
from benchmarks.contest import Times, arguments, finish, require_close, table, take_turns  # noqa: E402
from benchmarks.shapes import sdxl_attention  # noqa: E402
from krona_ops import Adapter, LayerName  # noqa: E402
from krona_ops.nearest.forms import KronForm, LowRankForm  # noqa: E402
from krona_ops.operations.blend import blend  # noqa: E402
from krona_ops.operations.compress import compress  # noqa: E402
from krona_ops.operations.report import report  # noqa: E402

OTHERS = ((64, 4), (64, 8), (4, 64), (8, 8), (16, 16))
NUMBERS = (2, 4, 8, 10, 16, 32)
RANKS = (4, 16, 64)
LAYERS = tuple(map(LayerName, sdxl_attention()))
Pairs = list[tuple[Adapter, float]]


@dataclass(frozen=True)
class Extent:
    """Which layers take part."""

    all: tuple[LayerName, ...] = LAYERS
    """Of the adapters."""
    few: tuple[LayerName, ...] = LAYERS[200:210]
    """For what takes long: ten layers, all of them in blocks of width 1280."""

    def weighted(self, count: int, factors: tuple[int, int] = FACTORS) -> Pairs:
        """Adapters, each with its strength."""
        return [(only(self.all, sdxl_adapter(seed, factors)), 0.1 + 0.1 * seed) for seed in range(count)]

    def some(self, adapter: Adapter) -> Adapter:
        """Few layers of it."""
        return only(self.few, adapter)


REHEARSAL = Extent(LAYERS[200:202], LAYERS[200:201])


def only(names: Sequence[LayerName], adapter: Adapter) -> Adapter:
    """Those layers of it."""
    return Adapter({name: adapter.layers[name] for name in names})


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def require_right(extent: Extent, pairs: Pairs, blended: Adapter) -> None:
    """The blend is the sum, on few layers."""
    for name, delta in extent.some(blended).layers.items():
        wanted = sum(weight * adapter.layers[name].dense().double() for adapter, weight in pairs)
        require_close(f"the blend of {len(pairs)}, {name}", delta.dense(), torch.as_tensor(wanted), 1e-5)


def once(work: dict[str, Callable[[], object]], rounds: int, *, warm_up: int = 1) -> dict[str, dict[str, float]]:
    """Measure; for the results' file, and a table for the reader."""
    times = take_turns(work, rounds, warm_up=warm_up)
    show(times)
    return {name: t.as_row() for name, t in times.items()}


def show(times: dict[str, Times]) -> None:
    """Print seconds."""
    rows = ((name, *(f"{s:.3f}" for s in (t.median, t.low, t.high))) for name, t in times.items())
    print(table(("", "seconds", "lowest", "highest"), rows) + "\n", flush=True)


def ten(extent: Extent, rounds: int) -> dict[str, Any]:
    """What is done with ten adapters."""
    pairs = extent.weighted(10)
    results: dict[str, Any] = {
        "layers": len(pairs[0][0]),
        "parameters each": pairs[0][0].parameters,
        "GB at start": peak_gigabytes(),
    }
    blended = blend(pairs)
    require_right(extent, pairs, blended)
    results["GB after blend"] = peak_gigabytes()
    results["compress to 64 × 4, error"] = compress(blended, KronForm(FACTORS))[1].error
    results["GB after compress"] = peak_gigabytes()
    few = extent.some(blended)
    parts = [(extent.some(adapter), weight) for adapter, weight in pairs]
    work: dict[str, Callable[[], object]] = {
        "blend 10, exact": partial(blend, pairs),
        "compress 10 to 64 × 4": partial(compress, blended, KronForm(FACTORS)),
        "compress 10 to 8 × 8": partial(compress, blended, KronForm((8, 8))),
        "report of one": partial(report, pairs[0][0]),
        "to LoRA 64, 10 layers of 1280": partial(compress, few, LowRankForm(64)),
        "ties to 64 × 4, 10 adapters, 10 layers": partial(blend, parts, method="ties", form=KronForm(FACTORS)),
    }
    results["seconds"] = once(work, rounds, warm_up=0)
    results["GB at end"] = peak_gigabytes()
    return results


def by_number(extent: Extent, numbers: Sequence[int], rounds: int) -> dict[str, Any]:
    """How it grows with the number of adapters."""
    pairs = extent.weighted(max(numbers))
    work: dict[str, Callable[[], object]] = {}
    for count in numbers:
        blended = blend(pairs[:count])
        require_right(extent, pairs[:count], blended)
        work[f"blend {count}"] = partial(blend, pairs[:count])
        work[f"compress {count} to 64 × 4"] = partial(compress, blended, KronForm(FACTORS))
    return once(work, rounds, warm_up=0)


def by_factors(extent: Extent, rounds: int) -> dict[str, Any]:
    """How it depends on the factors: three adapters, blended and compressed to their own."""
    work: dict[str, Callable[[], object]] = {}
    for factors in OTHERS:
        pairs = extent.weighted(3, factors)
        blended = blend(pairs)
        require_right(extent, pairs, blended)
        work[f"blend 3 of {factors[0]} × {factors[1]}"] = partial(blend, pairs)
        work[f"compress 3 of {factors[0]} × {factors[1]}"] = partial(compress, blended, KronForm(factors))
    return once(work, rounds, warm_up=0)


def by_rank(extent: Extent, rounds: int) -> dict[str, Any]:
    """How it grows with the rank of a LoRA: three adapters, few layers."""
    few = extent.some(blend(extent.weighted(3)))
    return once(
        {f"3 to LoRA {rank}, 10 layers": partial(compress, few, LowRankForm(rank)) for rank in RANKS}, rounds, warm_up=0
    )


def main() -> None:
    """Measure, print, write."""
    chosen = arguments("Blend and compress adapters of SDXL's size.", rounds=3, most=32)
    extent = Extent()
    if chosen.rehearse:
        extent, chosen.most = REHEARSAL, min(NUMBERS)
    results: dict[str, Any] = {
        "ten": ten(extent, chosen.rounds),
        "by number": by_number(extent, [n for n in NUMBERS if n <= chosen.most], chosen.rounds),
        "by factors": by_factors(extent, chosen.rounds),
        "by rank": by_rank(extent, chosen.rounds),
        "GB at most": peak_gigabytes(),
    }
    for name, value in results["ten"].items():
        if name != "seconds":
            print(f"{name:42}{value:12,.3f}" if isinstance(value, float) else f"{name:42}{value:12,}")
    finish("blend", results, chosen, threads=chosen.threads, rounds=chosen.rounds)


if __name__ == "__main__":
    main()
