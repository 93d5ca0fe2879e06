"""Which trials make which table, in the order in which they are worth running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .contenders import CONSISTENT, IDEAS, MOSA, PAPER, SIDES, SIZES, WHOLE
from .subjects import COUNT
from .summary import RATES, best_rate, scores
from .trial import Trial, as_it_comes, key

CORE = (
    *(f"krona {a}x{b}" for a, b in SIZES),
    *(f"krona {a}x{b} shuffled" for a, b in SIZES),
    "lora 1",
    "lora 4",
    "lora 16",
    "lokr core",
    "full",
)
"""Everybody whose learning rates are all tried on all subjects."""
BETWEEN = ("lora 2", "lora 8", "lokr lycoris", "krona 8x4", "krona 4x2")
"""More sizes, to find equal fidelity between the others, and LoKr as the other library starts it;
the likely learning rates alone."""
KRONA = (
    *(name for name in (*CORE, *BETWEEN) if name.startswith("krona")),
    "idea: 4x4, A as 64x4 starts",
    "idea: 2x2, A as 64x4 starts",
)
"""Kronecker adapters of which several learning rates are tried on all subjects,
the last two as the pack starts them today."""
SEEDS = 3
"""Of trainings at the best learning rate."""
FEW = 4
"""Subjects of what is only looked at."""
IDEA_RATES = (5e-3, 2e-3, 1e-2)
"""In the order in which they are worth running. One lies above everybody's grid: 64 × 4, which ideas are measured
against and which is tried there too, is best at the grid's end."""
PROMISING = (
    "idea: 4x4, A as 64x4 starts",
    "idea: 2x2, A as 64x4 starts",
    "idea: v and out alone",
    "idea: sum of two 64x4",
)
"""Tried on all subjects with more seeds, because among many ideas on four subjects one is first by luck."""
BEYOND = (1e-2, 2e-2)
"""Above the grid, each for those whose best lies at the end of what was tried so far."""
PARTS = (
    "references",
    "default",
    "core",
    "beyond",
    "seeds",
    "ideas",
    "promising",
    "sizes",
    "factors",
    "pictures",
    "prior",
    "mosa",
    "mosa consistency",
)


def among_few(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Trials that ideas are compared on: the same few subjects, seed and learning rates for everybody."""
    references = ("base", "real")
    return [
        row for row in rows
        if row["subject"] < FEW and row["seed"] == 0 and (row["rate"] in IDEA_RATES or row["contender"] in references)
    ]  # fmt: skip


def beyond(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Contenders and learning rates above the grid that are worth trying, those that have been tried too."""
    wanted = []
    for name in CORE:
        by_rate = scores(rows, name)
        for number, rate in enumerate(BEYOND):
            below = (*RATES, *BEYOND[:number])
            if set(below) <= by_rate.keys() and max(below, key=by_rate.__getitem__) == below[-1]:
                wanted.append((name, rate))
    return wanted


def trials(part: str, rows: Sequence[Mapping[str, Any]]) -> list[Trial]:
    """The trials of a part.

    Args:
        part: One of `PARTS`.
        rows: What has been measured; "seeds" and what follows it take each contender's best learning rate from there.
    """
    everyone = range(COUNT)
    if part == "references":
        return [Trial(name, subject=s) for s in everyone for name in ("base", "real")]
    if part == "default":
        return [as_it_comes(s) for s in everyone]
    if part == "core":
        return [Trial(name, rate, s) for s in everyone for name in CORE for rate in RATES]
    if part == "beyond":
        return [Trial(name, rate, s) for name, rate in beyond(rows) for s in everyone]
    if part == "ideas":
        return [Trial(name, rate, s) for rate in IDEA_RATES for name in (PAPER, *IDEAS) for s in range(FEW)]
    if part == "promising":
        few = among_few(rows)
        chosen = [(name, rate) for name in PROMISING if (rate := best_rate(few, name))]
        return [Trial(name, rate, s, seed) for name, rate in chosen for seed in range(SEEDS) for s in everyone]
    if part == "sizes":
        return [Trial(name, rate, s) for name in BETWEEN for rate in IDEA_RATES for s in everyone]
    if part == "factors":
        rate = best_rate(rows, PAPER)
        if rate is None:
            return []
        sides = [(a, b) for a in SIDES for b in SIDES]
        # Subject by subject: a run that is stopped has whole grids, of fewer subjects.
        return [
            Trial(f"krona {a}x{b}{layout}", rate, s)
            for layout in ("", " shuffled")
            for s in range(FEW)
            for a, b in sides
        ]
    best = {name: rate for name in CORE if (rate := best_rate(rows, name))}
    if part == "seeds":
        return [Trial(name, rate, s, seed) for s in everyone for seed in range(1, SEEDS) for name, rate in best.items()]
    compared = [(name, best[name]) for name in (PAPER, "lora 4") if name in best]
    if part == "pictures":
        return [Trial(name, rate, s, pictures=n) for s in everyone for n in (1, 2, 3) for name, rate in compared]
    if part == "prior":
        return [Trial(name, rate, s, prior=1.0) for s in everyone for name, rate in compared]
    if part == "mosa":
        return [
            Trial(name, best[PAPER], s, seed)
            for seed in range(SEEDS) for s in everyone for name in (WHOLE, MOSA) if PAPER in best
        ]  # fmt: skip
    if part == "mosa consistency":
        return [Trial(CONSISTENT, best[PAPER], s) for s in everyone if PAPER in best]
    raise ValueError(f"There is no part {part}; there are {', '.join(PARTS)}.")


def missing(wanted: Iterable[Trial], rows: Sequence[Mapping[str, Any]]) -> list[Trial]:
    """Those without a row of the same recipe."""
    done = {(key(row), row["recipe"]) for row in rows}
    return [trial for trial in dict.fromkeys(wanted) if (key(trial), trial.recipe()) not in done]
