"""What is claimed of the pack's speed, and what is only measured:
one page, held against whatever the benchmarks have recorded.

A claim is judged anew from a results' file each time it is read, so a bar that is moved here says at once which
recorded results miss it. What nobody could reach, because the frozen model alone takes too long for it, is no claim: it
is a measurement, and its limit stands beside it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Results = Mapping[str, Any]
"""The ``results`` of a file in benchmarks/results."""

CORE = ("core weight", "core bypass")
PEERS = (*CORE, "lycoris weight", "lycoris bypass", "peft")
"""Who trains the same factors on a layer."""
DEAR = 3.0
"""Times faster than core's bypass where its order of the two products is the dear one."""
PROPORTIONAL = 1.15
"""The exponent of what grows as its size does, at most."""


@dataclass(frozen=True)
class Claim:
    """What a measurement must reach.

    Attributes:
        value: Measured; a ratio of medians, or bytes.
        bar: What it must reach.
    """

    name: str
    value: float
    bar: float
    wanted: Literal["at most", "at least"] = "at most"

    @property
    def holds(self) -> bool:
        return self.value <= self.bar if self.wanted == "at most" else self.value >= self.bar


@dataclass(frozen=True)
class Measurement:
    """What is told and not claimed.

    Attributes:
        limit: The value that nobody can pass, or that a formula gives.
        limited_by: What sets the limit.
    """

    name: str
    value: float
    limit: float
    limited_by: str


Row = Claim | Measurement


def times_faster(name: str, value: float, bar: float, limit: float, limited_by: str) -> Row:
    """A claim of ``bar`` times the speed, or a plain measurement where ``limit`` is below it."""
    return Measurement(name, value, limit, limited_by) if limit < bar else Claim(name, value, bar, "at least")


def judge(benchmark: str, results: Results) -> list[Row]:
    """The claims and measurements of a results' file; none of a benchmark that claims nothing.

    Args:
        benchmark: As the file says it; ``step-sdxl`` is the file ``step`` with an option.
    """
    script, _, option = benchmark.partition("-")
    return list(BENCHMARKS[script](results, option)) if script in BENCHMARKS and results else []


def _median(entry: Mapping[str, float]) -> float:
    return entry["median"]


def _merge(results: Results, option: str) -> Iterator[Row]:
    seconds = {who: _median(entry) for who, entry in results["SDXL, in place, fp32"].items()}
    ours = seconds["KronA"]
    yield Claim("merge, SDXL attention, fp32: ComfyUI's LoKr / KronA", seconds["ComfyUI LoKr"] / ours, 4, "at least")
    yield Claim("merge, SDXL attention, fp32: KronA / read and write", ours / seconds["limit"], 1.35)


def _layer(results: Results, option: str) -> Iterator[Row]:
    name = "layer, Flux" if option == "flux" else "layer"
    frozen, peer, kept = [], [], []
    dear: list[tuple[float, float]] = []
    for cell in results.values():
        seconds = {who: _median(entry) for who, entry in cell["seconds"].items()}
        ours = seconds["KronA"]
        frozen.append(ours / seconds["frozen"])
        peer.append(ours / min(seconds[who] for who in PEERS))
        kept.append(cell["bytes kept"]["KronA"] / cell["x + f bytes"])
        if cell["core's order is dear"]:
            bypass = seconds["core bypass"]
            dear.append((bypass / ours, bypass / seconds["frozen"]))
    yield Claim(f"{name}: times the frozen layer, worst of all", max(frozen), 1.30)
    yield Claim(f"{name}: times the fastest peer, worst of all", max(peer), 1.0)
    yield Claim(f"{name}: bytes kept over input and factors, worst", max(kept), 1.0)
    # With few tokens reading the weight is most of the time, and not even the frozen layer is so much faster.
    reachable = [pair for pair in dear if pair[1] >= DEAR]
    if reachable:
        yield Claim(
            f"{name}: faster than core's bypass where its order is dear, least", min(reachable)[0], DEAR, "at least"
        )
    if beyond := [pair for pair in dear if pair[1] < DEAR]:
        claim = f"{name}: faster than core's bypass where that costs less than three frozen layers, least"
        yield Measurement(claim, *min(beyond), "the frozen layer alone")


def _step(results: Results, option: str) -> Iterator[Row]:
    is_large = option.startswith("sdxl")
    for batch, cell in results.items():
        seconds = {who: _median(entry) for who, entry in cell["seconds"].items()}
        ours, frozen = seconds["KronA"], seconds["frozen"]
        same = min(seconds[who] for who in CORE)
        faster = 1.0 if is_large else 1.6 if batch == "batch 1" else 3.0
        # Of SDXL on a GPU nothing has been recorded yet.
        yield Claim(f"step, {batch}: times the frozen base", ours / frozen, 1.15 if is_large else 1.03)
        yield Claim(f"step, {batch}: times core's faster mode at the same layers", ours / same, 1.0)
        frozen_alone = "the frozen base's step alone"
        if not is_large:
            claim = f"step, {batch}: faster than core's faster mode at the same layers"
            yield times_faster(claim, same / ours, faster, same / frozen, frozen_alone)
        if every := [value for who, value in seconds.items() if who.endswith("every layer")]:
            claim = f"step, {batch}: faster than core's faster mode as it comes"
            yield times_faster(claim, min(every) / ours, faster, min(every) / frozen, frozen_alone)
        if batch == "batch 1":
            peaks = cell["peak bytes"]
            saved = min(peaks[who] for who in CORE) - peaks["KronA"]
            yield Claim("step: peak memory below core's, in base models", saved / cell["base bytes"], 1.0, "at least")
            yield Claim("step: peak memory over the frozen base's", peaks["KronA"] / peaks["frozen"], 1.10)


def _apply(results: Results, option: str) -> Iterator[Row]:
    for what, cell in results.items():
        if "core" not in cell["step"] or (what.startswith("bypass") and what != "bypass, 1 adapter"):
            continue  # core's bypass holds one adapter, and older hosts have none
        for kind, stage in (("patching", "patching"), ("step", "patching and a step")):
            ratio = _median(cell[kind]["ours"]) / _median(cell[kind]["core"])
            # With a step in it, two equal runs differ by up to 5 %.
            yield Claim(f"{what}: {stage}, times core's", ratio, 1.0)
    one = results["bypass, 1 adapter"]["step"]
    counts = {int(what.split()[1]): cell for what, cell in results.items() if what.startswith("bypass")}
    more = _median(counts[max(counts)]["step"]["ours"]) - _median(one["ours"])
    # Adapters beside the layers cost time in every step; a tenth of the step is what one may add, loading it included.
    yield Claim(
        "bypass: what each further adapter adds, of a step", more / (max(counts) - 1) / _median(one["limit"]), 0.1
    )


def _calls(results: Results, option: str) -> Iterator[Row]:
    for kind, cell in results.items():
        [seconds] = (entries for name, entries in cell.items() if name.startswith("seconds"))
        quickest = min(_median(entry) for who, entry in seconds.items() if who in PEERS)
        yield Claim(f"calls, {kind}: time over the quickest peer's", _median(seconds["KronA"]) / quickest, 1.0)


def _ways(results: Results, option: str) -> Iterator[Row]:
    worst = 0.0
    for cell in results.values():
        seconds = {way: _median(entry) for way, entry in cell["seconds"].items() if way != "frozen"}
        worst = max(worst, seconds["each"] / min(seconds.values()))
    yield Claim("the trainer's way over the best of all that were tried, worst", worst, 1.1)


def _limits(results: Results, option: str) -> Iterator[Row]:
    seconds, refused = results["s"], results["refused"].values()
    headers = [_median(entry) for kind, entry in seconds.items() if f"{kind}: json.loads" in seconds]
    yield Claim("header of 100,000 tensors, s", max(headers), 1)
    yield Claim("a refused file, ms, the longest of all kinds", max(one["ms"] for one in refused), 100)
    yield Claim("a refused file, MB beyond its size, the most of all kinds", max(one["MB"] for one in refused), 64)
    yield Claim("10,000 runs listed anew, s", _median(seconds["10,000 runs, anew"]), 1)
    yield Claim("10,000 runs listed again, s", _median(seconds["10,000 runs, again"]), 0.1)
    yield Claim("one run, s", _median(seconds["one run"]), 0.05)


def _load(results: Results, option: str) -> Iterator[Row]:
    starts = results["start, ms"]
    added = median(starts["KronA"]) - median(starts["an empty pack"])
    yield Claim("import of the pack, ms over ComfyUI's own modules", added, 150)


GROWS = {
    "layers": ("merge", "factored forward, 256 tokens", "blend of 4 into one", "blend of 4, exact"),
    "adapters": ("merge", "factored forward, 256 tokens", "blend, exact"),
}
"""What is claimed to be proportional, by what grows: more layers, each in memory of its own beyond the cache,
and more adapters on the same layer."""
CROSSES = {
    "tokens": ("factored forward, 64 × 4", "factored forward, 8 × 8", "factored forward, 16 × 16"),
    "work": ("factored forward, 1024 tokens",),
}
"""What begins inside the processor's cache and ends outside of it, or the other way round:
its exponent is the machine's as much as ours."""


def _scale(results: Results, option: str) -> Iterator[Row]:
    for over, picture in results.items():
        for name, curve in picture["curves"].items():
            claim = f"{name}: exponent over {over}, 1 is proportional"
            if name in GROWS.get(over, ()):
                yield Claim(claim, curve["exponent"], PROPORTIONAL)
            if name in CROSSES.get(over, ()):
                yield Measurement(claim, curve["exponent"], curve["formula"], "the formula, without a cache")


BENCHMARKS: Mapping[str, Callable[[Results, str], Iterator[Row]]] = {
    "apply": _apply,
    "calls": _calls,
    "layer": _layer,
    "limits": _limits,
    "load": _load,
    "merge": _merge,
    "scale": _scale,
    "step": _step,
    "ways": _ways,
}
"""By the benchmark's file."""
