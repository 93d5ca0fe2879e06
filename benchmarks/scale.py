"""How cost grows with layers, tokens, factors, adapters and width: merging, the factored forward pass, blending.

    python3 tools/host.py run benchmarks/scale.py [--threads 2] [--rounds 5] [--points 0] [--pictures docs/images]

Random numbers in float32. Each curve doubles one size and keeps the others; all points of a picture take turns. An
exponent is the slope of a straight line through the points in a log-log picture, fitted by least squares: 1 is
proportional, 0 is constant. What the formulas say stands beside it. Draws ``scaling-*.png``, writes
``benchmarks/results/scale-<machine>.json``; docs/scaling.md is made from that file. ``--points 3`` takes only the first
three of each curve and draws nothing.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks.contest import Times, arguments, finish, machine, require_close, table, take_turns  # noqa: E402
from krona_ops import Adapter, Full, Kron, LayerName  # noqa: E402
from krona_ops.nearest.forms import KronForm  # noqa: E402
from krona_ops.operations.blend import blend  # noqa: E402
from krona_ops.updates import kron  # noqa: E402
from krona_ops.updates.shapes import split  # noqa: E402

FACTORS = (64, 4)
SHORTEST = 0.005
"""Seconds of one measurement at least: shorter work is done several times,
because the clock's and the system's noise is fixed."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's, which colour-blind people can tell apart."""
LARGEST_PICTURE = 60_000

Work = Callable[[], object]


@dataclass(frozen=True)
class Curve:
    """Work of one kind at growing sizes."""

    name: str
    sizes: tuple[int, ...]
    make: Callable[[int], Work]
    formula: float | None = None
    """The exponent that the formulas say; ``None`` where they say no power."""
    is_power: bool = True
    """Whether a straight line says anything; elsewhere the points are joined."""


@dataclass(frozen=True)
class Picture:
    """Curves over the same quantity."""

    name: str
    over: str
    """What grows, with its unit."""
    title: str
    curves: tuple[Curve, ...]


# ------------------------------------------------------------------------------------------------------------------ the work itself


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _factors(width: int, factors: tuple[int, int] = FACTORS, seed: int = 0) -> tuple[Tensor, Tensor]:
    s = split((width, width), factors)
    return _random(s.out_a, s.in_a, seed=seed), _random(s.out_b, s.in_b, seed=seed + 1) * 1e-3


def _adapter(layers: int, width: int, seed: int) -> Adapter:
    pairs = [_factors(width, seed=1000 * seed + 2 * n) for n in range(layers)]
    return Adapter({LayerName(f"layer.{n}"): Kron(Full(a), Full(b)) for n, (a, b) in enumerate(pairs)})


def merging(layers: int, width: int, adapters: int = 1, factors: tuple[int, int] = FACTORS) -> Work:
    """Add ``adapters`` updates into each of ``layers`` weights ``(width, width)``."""
    weights = [_random(width, width, seed=n) for n in range(layers)]
    stacks = [[_factors(width, factors, 100 * n + k) for k in range(adapters)] for n in range(layers)]

    def work() -> None:
        for weight, stack in zip(weights, stacks, strict=True):
            for a, b in stack:
                kron.add_(weight, a, b, 1e-3)

    return work


def forward(layers: int, width: int, tokens: int, adapters: int = 1, factors: tuple[int, int] = FACTORS) -> Work:
    """``ΔW x`` of ``tokens`` for each of ``layers`` layers with ``adapters`` updates, never formed."""
    x = _random(tokens, width)
    stacks = [[_factors(width, factors, 100 * n + k) for k in range(adapters)] for n in range(layers)]

    def work() -> None:
        for stack in stacks:
            y = x.new_zeros(tokens, width) if len(stack) > 1 else None
            for a, b in stack:
                y = kron.apply(a, b, x) if y is None else y.add_(kron.apply(a, b, x))

    return work


def base_forward(width: int, tokens: int) -> Work:
    """The layer that is adapted: ``W x``."""
    return partial(F.linear, _random(tokens, width), _random(width, width, seed=1))


def blending(layers: int, width: int, adapters: int, form: KronForm | None) -> Work:
    """The sum of ``adapters``: exact and unformed, or brought into one Kronecker product again."""
    return partial(blend, [(_adapter(layers, width, seed), 0.5) for seed in range(adapters)], form=form)


def pictures() -> tuple[Picture, ...]:
    """All that is measured; sizes are small enough for two cores.
    Sixteen weights of 640 × 640 already leave most caches."""
    counts, tokens, widths = (16, 32, 64, 128, 256), (128, 256, 512, 1024, 2048, 4096), (320, 640, 1280, 2560)
    one = KronForm(FACTORS)
    squares = (4, 8, 16, 32, 64, 128, 256)
    rectangles = ((128, 2), (64, 4), (32, 8), (16, 16), (8, 8), (4, 4), (2, 2))
    by_work = {s.apply_cost(s.cheapest_order): f for f in rectangles for s in (split((1280, 1280), f),)}
    return (
        Picture("layers", "layers of 640 × 640", "adapters of 64 × 4 on more layers", (
            Curve("merge", counts, lambda n: merging(n, 640), 1),
            Curve("factored forward, 256 tokens", counts, lambda n: forward(n, 640, 256), 1),
            Curve("blend of 4 into one", counts, lambda n: blending(n, 640, 4, one), 1),
            Curve("blend of 4, exact", counts, lambda n: blending(n, 640, 4, None), 1),
        )),
        Picture("tokens", "tokens", "one layer of 1280 × 1280, more tokens", (
            Curve("the layer itself", tokens, lambda n: base_forward(1280, n), 1),
            *(
                Curve(f"factored forward, {f[0]} × {f[1]}", tokens, partial(forward, 1, 1280, factors=f), 1)
                for f in (FACTORS, (8, 8), (16, 16))
            ),
        )),
        Picture("factors", "f, with factors of f × f", "one layer of 1280 × 1280, larger first factors", (
            Curve("merge", squares, lambda f: merging(1, 1280, factors=(f, f)), 0),
            Curve("factored forward, 1024 tokens", squares, lambda f: forward(1, 1280, 1024, factors=(f, f)), is_power=False),
            Curve("blend of 4 into one f × f", squares, lambda f: blending(1, 1280, 4, KronForm((f, f))), is_power=False),
        )),
        Picture("work", "multiply-adds per token, by formula", "one layer of 1280 × 1280, factors from 128 × 2 to 2 × 2", (
            Curve("factored forward, 1024 tokens", tuple(by_work), lambda n: forward(1, 1280, 1024, factors=by_work[n]), 1),
        )),
        Picture("adapters", "adapters", "more adapters of 64 × 4 on one layer of 1280 × 1280", (
            Curve("merge", (1, 2, 4, 8, 16, 32), lambda n: merging(1, 1280, n), 1),
            Curve("factored forward, 256 tokens", (1, 2, 4, 8, 16, 32), lambda n: forward(1, 1280, 256, n), 1),
            Curve("blend into one", (2, 4, 8, 16, 32), lambda n: blending(1, 1280, n, one)),
            Curve("blend, exact", (2, 4, 8, 16, 32), lambda n: blending(1, 1280, n, None), 1),
        )),
        Picture("width", "width of the layer", "one layer, wider", (
            Curve("merge, 64 × 4", widths, lambda n: merging(1, n), 2),
            Curve("factored forward, 64 × 4, 256 tokens", widths, lambda n: forward(1, n, 256), 2),
            Curve("the layer itself, 256 tokens", widths, lambda n: base_forward(n, 256), 2),
        )),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------- measuring


def check() -> None:
    """What is measured gives the right numbers.

    Raises:
        SystemExit: It does not.
    """
    a, b = _factors(640)
    dense = kron.materialise(a, b)
    require_close("merge", kron.add_(torch.zeros(640, 640), a, b, 0.5), 0.5 * dense, 1e-6)
    x = _random(7, 640, seed=3)
    require_close("factored forward", kron.apply(a, b, x), x @ dense.mT, 1e-5)
    parts = [_adapter(1, 640, seed) for seed in (1, 2, 3)]
    total = sum(w * p.layers[LayerName("layer.0")].dense() for w, p in zip((0.5, -1.0, 2.0), parts, strict=True))
    exact = blend(list(zip(parts, (0.5, -1.0, 2.0), strict=True)))
    require_close("blend", exact.layers[LayerName("layer.0")].dense(), torch.as_tensor(total), 1e-5)


def repeated(work: Work) -> tuple[Work, int]:
    """The work as often as one measurement needs, and how often that is."""
    work()
    began = time.perf_counter()
    work()
    times = max(1, math.ceil(SHORTEST / max(time.perf_counter() - began, 1e-7)))

    def many() -> None:
        for _ in range(times):
            work()

    return many, times


def measure(picture: Picture, rounds: int, points: int) -> dict[str, dict[int, Times]]:
    """Seconds of one piece of work, by curve and size."""
    contestants: dict[str, Work] = {}
    repeats: dict[str, int] = {}
    for curve in picture.curves:
        for size in curve.sizes[: points or None]:
            name = f"{curve.name}|{size}"
            contestants[name], repeats[name] = repeated(curve.make(size))
    times_of: dict[str, dict[int, Times]] = {curve.name: {} for curve in picture.curves}
    for name, times in take_turns(contestants, rounds).items():
        work, _, at = name.rpartition("|")
        times_of[work][int(at)] = Times(tuple(seconds / repeats[name] for seconds in times.seconds))
    return times_of


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """``seconds ≈ factor · size^exponent``, by least squares of the logarithms: (exponent, factor)."""
    x, y = [math.log(size) for size in sizes], [math.log(s) for s in seconds]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    slope = sum((p - mx) * (q - my) for p, q in zip(x, y, strict=True)) / sum((p - mx) ** 2 for p in x)
    return slope, math.exp(my - slope * mx)


def as_results(picture: Picture, times_of: Mapping[str, Mapping[int, Times]]) -> dict[str, Any]:
    """For the results' file."""
    curves = {}
    for curve in picture.curves:
        points = {size: times.median for size, times in times_of[curve.name].items()}
        slope, factor = exponent(list(points), list(points.values()))
        curves[curve.name] = {
            "exponent": slope if curve.is_power else None,
            "formula": curve.formula,
            "factor": factor if curve.is_power else None,
            "points": {str(size): times.as_row() for size, times in times_of[curve.name].items()},
        }
    return {"over": picture.over, "title": picture.title, "curves": curves}


# ---------------------------------------------------------------------------------------------------------------------- drawing


def draw(name: str, result: Mapping[str, Any], folder: Path) -> Path:
    """One picture, from what `as_results` gives.

    Raises:
        SystemExit: It is too large a file for the repository.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter
    from PIL import Image

    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), dpi=110)
    ticks: set[int] = set()
    labels: list[tuple[float, str, str]] = []
    for colour, (label, curve) in zip(COLOURS, result["curves"].items(), strict=False):
        sizes = [int(size) for size in curve["points"]]
        medians = [point["median"] for point in curve["points"].values()]
        spread = [[m - p["low"] for m, p in zip(medians, curve["points"].values(), strict=True)],
                  [p["high"] - m for m, p in zip(medians, curve["points"].values(), strict=True)]]  # fmt: skip
        axes.errorbar(sizes, medians, spread, fmt="o", color=colour, capsize=2, markersize=4, linewidth=1)
        if curve["exponent"] is None:
            x, y, beside = sizes, medians, label
        else:
            x = [sizes[0], sizes[-1]]
            y = [curve["factor"] * size ** curve["exponent"] for size in x]
            formula = "" if curve["formula"] is None else f" (formula: {curve['formula']:g})"
            beside = f"{label}\nexponent {curve['exponent']:.2f}{formula}"
        axes.plot(x, y, "--", color=colour, linewidth=1)
        labels.append((y[-1], beside, colour))
        ticks |= set(sizes)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=result["over"],
        ylabel="seconds (median, lowest to highest)",
        title=result["title"],
    )
    axes.set_xticks(sorted(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = map(math.log, axes.get_ylim())
    height = -1.0
    for value, text, colour in sorted(labels):
        height = max((math.log(value) - low) / (high - low), height + 0.09)  # two lines of a label are that high
        axes.annotate(text, (1.02, height), xycoords="axes fraction", va="center", fontsize=7.5, color=colour)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.995, 0.01, machine(), ha="right", fontsize=6, color="#777777")
    figure.tight_layout()
    path = folder / f"scaling-{name}.png"
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
    with Image.open(path) as image:
        flat = image.convert("RGB").quantize(48)
    flat.save(path, optimize=True)
    if path.stat().st_size > LARGEST_PICTURE:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes; {LARGEST_PICTURE} are allowed.")
    return path


def main() -> None:
    """Measure, print, draw, write."""
    given = arguments("How cost grows.", rounds=5, points=0, pictures="docs/images")
    folder = None if given.points else ROOT / given.pictures
    if given.rehearse:
        given.points, folder = 2, given.results
    check()
    results: dict[str, Any] = {}
    rows = []
    for picture in pictures():
        with torch.inference_mode():
            results_of = results[picture.name] = as_results(picture, measure(picture, given.rounds, given.points))
        for curve in picture.curves:
            one = results_of["curves"][curve.name]
            medians = [point["median"] for point in one["points"].values()]
            formula = "" if curve.formula is None else f"{curve.formula:g}"
            slope = f"{one['exponent']:.2f}" if curve.is_power else ""
            rows.append(
                (
                    picture.over,
                    curve.name,
                    f"{1e3 * medians[0]:.3g}",
                    f"{1e3 * medians[-1]:.3g}",
                    slope,
                    formula,
                )
            )
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            draw(picture.name, results_of, folder)
    print(table(("over", "work", "first, ms", "last, ms", "exponent", "formula"), rows))
    finish("scale", results, given, unit="seconds", threads=given.threads)


if __name__ == "__main__":
    main()
