"""Writes the tables of docs/scaling.md: what was measured, from benchmarks/results/scale-*.json;
the rest from shapes and formulas.

    python3 tools/host.py run benchmarks/pages/scaling.py

tests/tools/test_scaling.py fails when the page is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PACK = Path(__file__).absolute().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from benchmarks.command import RESULTS, parsed, parser_of  # noqa: E402
from benchmarks.models import MODELS, WAN, Model, kron_sizes, lora_parameters, ring_seconds, training_cost  # noqa: E402
from benchmarks.shapes import Shape, sdxl_attention  # noqa: E402
from krona_ops.updates.shapes import split  # noqa: E402

DOCUMENT = PACK / "docs" / "scaling.md"

FACTORS = ((64, 4), (64, 8), (128, 8), (16, 16), (8, 8))
RANKS = (4, 64)
TRAINED = (64, 4)
FLOPS = 400e12
"""Operations per second that a device keeps up in bfloat16: 40 % of what an H100's data sheet says, a usual share."""
LATENCY = 20e-6
"""Seconds of one message between devices: a network's; links inside a machine are faster."""
NETWORKS = {"10 Gbit/s Ethernet": 1.25e9, "PCIe 4.0 × 16": 25e9, "NVLink 4": 300e9}
"""Bytes per second from one device to the next, in use rather than on paper."""
DEVICES = (2, 8, 64, 512)
MEMORY = {"two CPU channels": 20e9, "a GPU's": 2e12}
"""Bytes per second that merging reads and writes."""


def adapted() -> dict[str, dict[str, Shape]]:
    """Attention layers by model."""
    return {"SDXL": sdxl_attention(), **{model.name: model.adapted() for model in MODELS}}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Markdown; the first ``words`` columns to the left, numbers to the right."""
    lines = [head, ["---" if n < words else "---:" for n in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def percent(part: float) -> str:
    """A share with two digits that count; what is more than twice the whole, as times."""
    if part >= 2:
        return f"{part:.2g} times" if part < 100 else f"{part:.0f} times"
    return f"{100 * part:.2g} %" if part < 0.995 else f"{100 * part:.0f} %"


# -------------------------------------------------------------------------------------------------------------------------- tables


def formulas() -> str:
    """What each quantity grows as, with the numbers of one layer."""
    s = split((1280, 1280), TRAINED)
    base, numbers, cheap, dear = 1280 * 1280, s.parameters, s.apply_cost("b first"), s.apply_cost("a first")
    rows = (
        ("parameters", "`out_a·in_a + out_b·in_b`", f"{numbers:,} of {base:,}"),
        ("the layer itself, `W x`", "`out·in`", f"{base:,}"),
        ("`ΔW x`, B first", "`in·out_b + out_a·in_a·out_b`", f"{cheap:,} ({percent(cheap / base)})"),
        ("`ΔW x`, A first", "`out_a·in + out·in_b`", f"{dear:,} ({percent(dear / base)})"),
        (
            "forward and backward of `ΔW`, only `x` kept, B first",
            "`4·in·out_b + 3·out_a·in_a·out_b`",
            f"{training_cost(s):,} ({percent(training_cost(s) / (2 * base))} of `2·out·in`)",
        ),
        ("merging: bytes read and written", "`2·out·in` numbers, whatever the factors", f"{size(8 * base)} in float32"),
        (
            "kept for the backward pass, per token",
            "`in` numbers, once for layers that share their input",
            "2,560 bytes in bfloat16",
        ),
        (
            "gradients; AdamW's moments",
            "1 and 2 float32 numbers per parameter",
            f"{size(4 * numbers)}; {size(8 * numbers)}",
        ),
        ("exact blend", "one term per adapter and layer; no number is touched", ""),
    )
    return table(("what", "grows as", f"1280 × 1280, {TRAINED[0]} × {TRAINED[1]}"), rows, 2)


def measured(results: Sequence[Mapping[str, Any]]) -> str:
    """Exponents beside those of the formulas, by machine."""
    if not results:
        return "Nothing has been measured yet: run `python3 tools/host.py run benchmarks/scale.py`."
    parts = []
    for result in results:
        rows = []
        for picture in result["results"].values():
            for name, curve in picture["curves"].items():
                points = [(int(at), point["median"]) for at, point in curve["points"].items()]
                ends = f"{points[0][0]:,} to {points[-1][0]:,} {picture['over'].split(',')[0]}"
                times = f"{duration(points[0][1])} to {duration(points[-1][1])}"
                slope = "" if curve["exponent"] is None else f"{curve['exponent']:.2f}"
                rows.append((name, ends, times, slope, "" if curve["formula"] is None else f"{curve['formula']:g}"))
        head = ("work", "what grows", "median time", "exponent measured", "by formula")
        where = f"On `{result['machine']}`, {result['threads']} threads, float32, commit `{result['commit']}`:"
        parts.append(f"{where}\n\n{table(head, rows)}")
    drawn = results[-1]["results"]
    pictures = [f"![Time over {picture['over']}](images/scaling-{name}.png)" for name, picture in drawn.items()]
    return "\n\n".join([*parts, "The pictures are of the machine that stands in their corner.", *pictures])


def models() -> str:
    """What is extended to: the base models."""

    def row(model: Model) -> tuple[str, ...]:
        layers = model.adapted()
        weights = sum(out * in_ for out, in_ in layers.values())
        times = (duration(4 * weights / speed) for speed in MEMORY.values())
        return (
            f"{model.name}: {model.sample}",
            f"{model.parameters / 1e9:.1f}",
            str(len(layers)),
            f"{weights / 1e9:.2f}",
            f"{model.image:,} + {model.text}",
            f"{2 * model.step() / 1e12:,.0f}",
            size(model.inputs_kept()),
            *times,
        )

    head = (
        "model and sample", "10⁹ parameters", "attention layers", "10⁹ weights in them", "tokens",
        "step, 10¹² operations", "inputs kept", *(f"merge at {speed / 1e9:,.0f} GB/s" for speed in MEMORY.values()),
    )  # fmt: skip
    return table(head, map(row, MODELS))


def kinds(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Numbers of each kind of adapter."""
    krona = {f"KronA {a} × {b}": sum(s.parameters for s in kron_sizes(shapes, (a, b)).values()) for a, b in FACTORS}
    return krona | {f"LoRA, rank {rank}": lora_parameters(shapes, rank) for rank in RANKS}


def adapters() -> str:
    """Numbers and bytes of adapters."""
    rows = []
    for name, shapes in adapted().items():
        for kind, numbers in kinds(shapes).items():
            sizes = (
                f"{numbers:,}",
                size(2 * numbers),
                size(4 * numbers),
                size(4 * numbers),
                size(8 * numbers),
                size(16 * numbers),
            )
            rows.append((f"{name}, {kind}", *sizes))
    head = (
        "adapter",
        "parameters",
        "file, 16 bit",
        "file, float32",
        "gradients",
        "AdamW's moments",
        "all while training",
    )
    return table(head, rows)


def work() -> str:
    """Multiply-adds of one token through all adapted layers."""
    rows = []
    for name, shapes in adapted().items():
        base = sum(out * in_ for out, in_ in shapes.values())
        for factors in FACTORS:
            sizes = kron_sizes(shapes, factors).values()
            cheap = sum(s.apply_cost(s.cheapest_order) for s in sizes)
            dear = sum(max(s.apply_cost("a first"), s.apply_cost("b first")) for s in sizes)
            both = sum(map(training_cost, sizes))
            rows.append(
                (
                    f"{name}, {factors[0]} × {factors[1]}",
                    f"{base / 1e6:,.0f}",
                    f"{cheap / 1e6:,.0f}",
                    percent(cheap / base),
                    percent(dear / base),
                    percent(both / (2 * base)),
                )
            )
    head = ("adapter", "base, 10⁶", "factored, 10⁶", "of the base", "in the dear order", "with backward, of the base's")
    return table(head, rows)


def steps() -> str:
    """What an adapter adds to a whole step."""
    rows = [
        (
            model.name,
            f"{2 * model.step() / 1e12:,.0f}",
            *(
                f"{2 * model.adapter_step(f) / 1e12:,.3g} ({percent(model.adapter_step(f) / model.step())})"
                for f in FACTORS
            ),
        )
        for model in MODELS
    ]
    return table(("model", "frozen base", *(f"KronA {a} × {b}" for a, b in FACTORS)), rows)


def trained(model: Model) -> dict[str, int]:
    """Bytes of the gradients that devices exchange, by what is trained."""
    numbers = kinds(model.adapted())
    krona = f"KronA {TRAINED[0]} × {TRAINED[1]}"
    return {
        krona: 4 * numbers[krona],
        "LoRA, rank 64": 4 * numbers["LoRA, rank 64"],
        "all weights of the blocks, bfloat16": 2 * model.parameters,
    }


def networks() -> str:
    """All-reduce among eight devices, beside the step that it follows."""
    rows = []
    for model in MODELS:
        step = 2 * model.step() / FLOPS
        for what, gradients in trained(model).items():
            times = [ring_seconds(gradients, 8, speed, LATENCY) for speed in NETWORKS.values()]
            rows.append(
                (
                    f"{model.name}, {what}",
                    size(gradients),
                    duration(step),
                    *(f"{duration(t)} ({percent(t / step)})" for t in times),
                )
            )
    return table(("what is trained", "gradients", "step", *NETWORKS), rows)


def devices() -> str:
    """All-reduce of a Kronecker adapter over the slowest network, among more and more devices."""
    speed = min(NETWORKS.values())
    rows = []
    for model in MODELS:
        gradients, step = trained(model)[f"KronA {TRAINED[0]} × {TRAINED[1]}"], 2 * model.step() / FLOPS
        times = [ring_seconds(gradients, n, speed, LATENCY) for n in DEVICES]
        rows.append((model.name, duration(step), *(f"{duration(t)} ({percent(t / step)})" for t in times)))
    return table(("model", "step", *(f"{n} devices" for n in DEVICES)), rows)


def extended(results: Sequence[Mapping[str, Any]]) -> str:
    """Merging into whole models, at the rate that the widest measured layer was merged with."""
    rows = []
    for result in results:
        curve = next(c for name, c in result["results"]["width"]["curves"].items() if name.startswith("merge"))
        width, point = max(((int(at), point["median"]) for at, point in curve["points"].items()))
        rate = 2 * 4 * width**2 / point
        seconds = [8 * sum(out * in_ for out, in_ in shapes.values()) / rate for shapes in adapted().values()]
        rows.append(
            (f"`{result['machine']}`, {result['threads']} threads", f"{rate / 1e9:.1f} GB/s", *map(duration, seconds))
        )
    return table(("machine", "measured rate", *adapted()), rows) if rows else "Nothing has been measured yet."


def sections(results: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[], str]]:
    """The page's tables by name."""
    return {
        "formulas": formulas,
        "measured": lambda: measured(results),
        "models": models,
        "adapters": adapters,
        "work": work,
        "steps": steps,
        "extended": lambda: extended(results),
        "networks": networks,
        "devices": devices,
        "assumptions": assumptions,
    }


def assumptions() -> str:
    """The numbers that the tables take from nowhere else."""
    speeds = "; ".join(f"{name} {speed / 1e9:g} GB/s" for name, speed in NETWORKS.items())
    clip = f"{WAN.image:,} tokens: 21 latent frames of 30 × 52 patches"
    return "\n".join(
        (
            f"- a device keeps up {FLOPS / 1e12:,.0f} · 10¹² operations per second (a multiply-add is two);",
            f"- between devices: {speeds}; {LATENCY * 1e6:g} µs per message;",
            f"- one sample per device and step; a clip of Wan has {clip}; texts have 512 tokens;",
            "- weights of 2 bytes; factors, their gradients and moments of 4 bytes each; nothing is computed twice.",
        )
    )


def read_results(folder: Path = RESULTS) -> list[Mapping[str, Any]]:
    """What benchmarks/scale.py wrote, by machine."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("scale-*.json"))]


def make(text: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with its tables made anew."""
    made = sections(results)
    unknown = set(re.findall(r"<!-- scaling: (\w+) -->", text)) ^ made.keys()
    if unknown:
        raise ValueError(
            f"docs/scaling.md and benchmarks/pages/scaling.py do not have the same tables: {', '.join(sorted(unknown))}."
        )
    for name, write in made.items():
        begin, end = f"<!-- scaling: {name} -->", "<!-- /scaling -->"
        start = text.index(begin) + len(begin)
        text = text[:start] + f"\n\n{write()}\n\n" + text[text.index(end, start) :]
    return text


def main() -> None:
    """Write the page anew; in a rehearsal, a copy of it beside the results."""
    options = parsed(parser_of("Write docs/scaling.md from the results of benchmarks/scale.py."))
    text = make(DOCUMENT.read_text(encoding="utf-8"), read_results(options.results))
    page = options.results / DOCUMENT.name if options.rehearse else DOCUMENT
    page.write_text(text, encoding="utf-8")
    print(f"wrote {page}")


if __name__ == "__main__":
    main()
