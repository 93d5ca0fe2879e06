"""What many trials say together: means over subjects, their uncertainty, best learning rates, stability.

A trial's *gain* is the share of the gap in likeness that it closes: 0 where the base model stands, 1 where real
pictures of the subject in the same scenes stand. Its *score* joins gain and prompt fidelity as an F-measure does, both
as shares of what real pictures reach.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contenders import SETTINGS
from .render import SIDE

CLOSE = 0.95
"""Of the best score: what counts as good, too."""
RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)
"""The paper's range (Fig. 16), evenly spread on a logarithmic scale as far as round numbers go."""
Row = Mapping[str, Any]


def is_plain(row: Row) -> bool:
    """Whether nothing is unusual about the trial but contender, learning rate, subject and seed,
    and it came to its end."""
    from .trial import STEPS

    return "failed" not in row and row["pictures"] == 4 and row["prior"] == 0 and row["steps"] == STEPS


def as_they_come(rows: Iterable[Row]) -> list[Row]:
    """Trials of the pack's default settings, by subject."""
    return sorted(
        (row for row in rows if row["contender"] == SETTINGS and "failed" not in row), key=lambda row: row["subject"]
    )


class References:
    """What base model and real pictures reach, by subject."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._found = {(row["contender"], row["subject"]): row for row in rows if row["contender"] in ("base", "real")}

    def knows(self, subject: int) -> bool:
        return all((name, subject) in self._found for name in ("base", "real"))

    def base(self, row: Row) -> Row:
        return self._found["base", row["subject"]]

    def real(self, row: Row) -> Row:
        return self._found["real", row["subject"]]

    def gain(self, row: Row) -> float:
        """Share of the gap between base and real likeness."""
        base, real = self.base(row)["likeness"], self.real(row)["likeness"]
        return (row["likeness"] - base) / (real - base)

    def drop(self, row: Row) -> float:
        """Prompt accuracy lost against the base, in [0, 1]."""
        return self.base(row)["prompt"] - row["prompt"]

    def drift(self, row: Row) -> float:
        """How far other members of the class have come to look like the subject, as a share of the same gap."""
        base, real = self.base(row), self.real(row)
        return (row["class_likeness"] - base["class_likeness"]) / (real["likeness"] - base["likeness"])

    def score(self, row: Row) -> float:
        """Harmonic mean of gain and prompt accuracy over that of real pictures, both kept in [0, 1]."""
        gain = float(np.clip(self.gain(row), 0, 1))
        prompt = float(np.clip(row["prompt"] / self.real(row)["prompt"], 0, 1))
        return 2 * gain * prompt / (gain + prompt) if gain + prompt else 0.0


def by_rate(rows: Sequence[Row], contender: str, seed: int | None = 0) -> dict[float, list[Row]]:
    """A contender's plain rows, by learning rate."""
    rows_of: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        if row["contender"] == contender and is_plain(row) and seed in (None, row["seed"]):
            rows_of[row["rate"]].append(row)
    return dict(sorted(rows_of.items()))


def scores(rows: Sequence[Row], contender: str) -> dict[float, float]:
    """Mean score over subjects by learning rate; only rates that as many subjects have tried as any other."""
    references, rows_of = References(rows), by_rate(rows, contender)
    known = {rate: [r for r in own if references.knows(r["subject"])] for rate, own in rows_of.items()}
    most = max((len(own) for own in known.values()), default=0)
    return {
        rate: float(np.mean([references.score(r) for r in own]))
        for rate, own in known.items()
        if own and len(own) == most
    }


def best_rate(rows: Sequence[Row], contender: str) -> float | None:
    """The learning rate of the best mean score."""
    score_of = scores(rows, contender)
    return max(score_of, key=score_of.__getitem__) if score_of else None


def stability(rows: Sequence[Row], contender: str) -> float | None:
    """Share of the grid's learning rates whose mean score is within 5 % of the grid's best; ``None`` until all have
    been tried on all subjects that there are references of, or where nothing is learnt at any."""
    score_of, subjects = scores(rows, contender), {row["subject"] for row in rows if row["contender"] == "base"}
    tried = {row["subject"] for own in by_rate(rows, contender).values() for row in own}
    if not set(RATES) <= score_of.keys() or tried != subjects:
        return None
    inside = [score_of[rate] for rate in RATES]
    return sum(score >= CLOSE * max(inside) for score in inside) / len(inside) if max(inside) > 0 else None


def by_group(values: Sequence[float], groups: Sequence[int]) -> NDArray[np.float64]:
    """The mean of each group's values: a subject that more seeds were tried on counts no more than another."""
    together: dict[int, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        together[group].append(value)
    return np.array([np.mean(own) for own in together.values()])


def interval(values: Sequence[float], groups: Sequence[int], draws: int = 2000) -> tuple[float, float] | None:
    """95 % interval of the mean: whole subjects are drawn with replacement (Efron 1979, percentile bootstrap); ``None``
    of a single subject, which says nothing about others.

    Args:
        groups: The subject of each value.
    """
    means = by_group(values, groups)
    if len(means) < 2:
        return None
    rng = np.random.default_rng(0)
    drawn = rng.choice(means, (draws, len(means))).mean(1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def line(rows: Sequence[Row], contender: str) -> dict[str, Any] | None:
    """A contender at its best learning rate, over all subjects and seeds that there are."""
    rate = best_rate(rows, contender)
    if rate is None:
        return None
    references = References(rows)
    own = [row for row in by_rate(rows, contender, None)[rate] if references.knows(row["subject"])]
    sums: dict[str, Any] = {
        "contender": contender,
        "rate": rate,
        "parameters": own[0]["parameters"],
        "subjects": len({row["subject"] for row in own}),
        "trials": len(own),
    }
    measures = {
        "likeness": [row["likeness"] for row in own],
        "gain": [references.gain(row) for row in own],
        "prompt": [row["prompt"] for row in own],
        "drop": [references.drop(row) for row in own],
        "agreement": [row["agreement"] for row in own],
        "diversity": [row["diversity"] for row in own],
        "drift": [references.drift(row) for row in own],
        "score": [references.score(row) for row in own],
        "seconds": [row["seconds"] for row in own],
    }
    subjects = [row["subject"] for row in own]
    for name, values in measures.items():
        sums[name] = float(by_group(values, subjects).mean())
        sums[f"{name} 95 %"] = interval(values, subjects)
    score_of = scores(rows, contender)
    sums["stability"] = stability(rows, contender)
    inside = [score for rate, score in score_of.items() if rate in RATES]
    sums["spread"] = float(np.std(inside)) if inside else None
    sums["rates"] = len(score_of)
    sums["is at the edge"] = len(score_of) > 1 and rate in (min(score_of), max(score_of))
    return sums


def at_best(rows: Sequence[Row], contender: str) -> dict[tuple[int, int], Row]:
    """Subject and seed to row, at the contender's best learning rate."""
    rate, references = best_rate(rows, contender), References(rows)
    own = by_rate(rows, contender, None).get(rate, []) if rate is not None else []
    return {(row["subject"], row["seed"]): row for row in own if references.knows(row["subject"])}


def difference(rows: Sequence[Row], contender: str, other: str) -> tuple[float, tuple[float, float] | None] | None:
    """How much better a contender's score is than another's, subject by subject, and the interval;
    each at its best learning rate."""
    references, one, two = References(rows), at_best(rows, contender), at_best(rows, other)
    shared = sorted(one.keys() & two.keys())
    if not shared:
        return None
    values = [references.score(one[at]) - references.score(two[at]) for at in shared]
    subjects = [subject for subject, _ in shared]
    return float(by_group(values, subjects).mean()), interval(values, subjects)


def smallest_as_like(rows: Sequence[Row], candidates: Sequence[str], other: str) -> int | None:
    """Parameters of the smallest candidate that closes at least as much of the gap as another contender, on the trials
    that both have; ``None`` where none does.

    Each at its best learning rate.
    """
    references, two = References(rows), at_best(rows, other)
    enough = []
    for name in candidates:
        one = at_best(rows, name)
        shared = one.keys() & two.keys()
        better = [references.gain(one[at]) - references.gain(two[at]) for at in shared]
        if better and by_group(better, [subject for subject, _ in shared]).mean() >= 0:
            enough.append(next(iter(one.values()))["parameters"])
    return min(enough, default=None)


def lora_parameters_as_like(
    rows: Sequence[Row], contender: str, loras: Sequence[str], draws: int = 2000
) -> tuple[float, tuple[float, float]] | None:
    """Parameters that a LoRA would need to close as much of the gap as a contender, each at its best learning rate,
    and their 95 % interval.

    Ranks are whole numbers: between two of them the difference in gain, on the trials that both have, is taken as
    linear in the logarithm of the parameters. The interval is `interval`'s bootstrap over subjects, and ends at the
    smallest and largest rank. ``None`` where the contender lies outside of the ranks that were tried.
    """
    references, one = References(rows), at_best(rows, contender)
    ahead: dict[float, dict[int, float]] = {}
    for name in loras:
        two = at_best(rows, name)
        shared = sorted(one.keys() & two.keys())
        if shared:
            values = [references.gain(two[at]) - references.gain(one[at]) for at in shared]
            subjects = [subject for subject, _ in shared]
            ahead[float(two[shared[0]]["parameters"])] = dict(
                zip(dict.fromkeys(subjects), by_group(values, subjects), strict=True)
            )
    sizes = sorted(ahead)
    everywhere = sorted(set.intersection(*(set(own) for own in ahead.values()))) if ahead else []
    if len(sizes) < 2 or not everywhere:
        return None
    table, logs = np.array([[ahead[size][s] for s in everywhere] for size in sizes]), np.log(sizes)
    crossing = _crossing(logs, table.mean(1))
    if not logs[0] < crossing < logs[-1]:
        return None
    rng = np.random.default_rng(0)
    drawn = [
        _crossing(logs, table[:, rng.integers(len(everywhere), size=len(everywhere))].mean(1)) for _ in range(draws)
    ]
    low, high = np.exp(np.quantile(drawn, (0.025, 0.975)))
    return float(np.exp(crossing)), (float(low), float(high))


def _crossing(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Where a piecewise linear curve first rises to 0; its ends where it never does or always has."""
    if y[0] >= 0:
        return float(x[0])
    at = next((number for number in range(1, len(y)) if y[number] >= 0), None)
    return float(x[-1]) if at is None else float(np.interp(0, y[at - 1 : at + 1], x[at - 1 : at + 1]))


def headline(
    rows: Sequence[Row], paper: str, ours: Sequence[str], theirs: str, other_loras: Sequence[str] = ()
) -> dict[str, Any]:
    """The few numbers that are quoted.

    Args:
        paper: The Kronecker adapter whose stability is told, and how many parameters a LoRA needs to be as good.
        ours: The Kronecker adapters of all sizes.
        theirs: The LoRA that they are compared with.
        other_loras: LoRAs of other ranks: one that is smaller may be as good.
    """
    references = References(rows)
    lora = next(iter(at_best(rows, theirs).values()), None)
    own_paper = next(iter(at_best(rows, paper).values()), None)
    as_like = lora_parameters_as_like(rows, paper, list(dict.fromkeys((theirs, *other_loras))))
    small = smallest_as_like(rows, ours, theirs)
    smallest_lora = smallest_as_like(rows, (theirs, *other_loras), theirs)
    own = [row for row in as_they_come(rows) if references.knows(row["subject"])]
    gains = [references.gain(row) for row in own]
    return {
        "subjects": len(own),
        "subject_gain": float(np.mean(gains)) if own else None,
        "subject_gain_least": min(gains, default=None),
        "prompt_drop": float(np.mean([references.drop(row) for row in own])) if own else None,
        "prompt_drop_most": max((references.drop(row) for row in own), default=None),
        "params_vs_lora": own_paper["parameters"] / as_like[0] if own_paper and as_like else None,
        "params_vs_lora 95 %": [own_paper["parameters"] / size for size in reversed(as_like[1])]
        if own_paper and as_like
        else None,
        "params_vs_lora_4": small / lora["parameters"] if small and lora else None,
        "params_vs_smallest_lora": small / smallest_lora if small and smallest_lora else None,
        "stability_krona": stability(rows, paper),
        "stability_lora": stability(rows, theirs),
    }


def mosa_headline(rows: Sequence[Row], whole: str, mosa: str) -> dict[str, float]:
    """The subjects of which training in parts has the smaller gap between the loss on the pictures that it was trained on
    and on others, in the mean of the seeds that both have, and how large the gaps are; empty until something is measured.

    Args:
        whole: The contender that is trained whole.
        mosa: The same in parts.
    """
    gaps = {
        name: {
            (row["subject"], row["seed"]): row["held_out_loss"] - row["train_loss"]
            for own in by_rate(rows, name, None).values() for row in own
        }
        for name in (whole, mosa)
    }  # fmt: skip
    shared = sorted(gaps[whole].keys() & gaps[mosa].keys())
    if not shared:
        return {}
    subjects = [subject for subject, _ in shared]
    one, other = (by_group([gaps[name][at] for at in shared], subjects) for name in (whole, mosa))
    return {
        "mosa_gap_subjects": int((other < one).sum()),
        "mosa_subjects": len(one),
        "mosa_gap_whole": float(one.mean()),
        "mosa_gap": float(other.mean()),
    }


def branch_headline(rows: Sequence[Row]) -> dict[str, float]:
    """The few numbers that are quoted of parallel branches, as far as they are measured.

    Args:
        rows: Of `benchmarks.world.judge_branches`.
    """
    parts = {part: [row for row in rows if row["part"] == part] for part in ("base", "reference", "first", "views")}
    means = {
        (part, name): float(np.mean([row[name] for row in own]))
        for part, own in parts.items()
        for name in ("likeness", "within", "across", "prompt")
        if own
    }
    numbers = {
        "reference_likeness": means.get(("reference", "likeness")),
        "reference_least": min((row["likeness"] for row in parts["reference"]), default=None),
        "first_frame_likeness": means.get(("first", "likeness")),
        "views_likeness": means.get(("views", "within")),
        "views_across": means.get(("views", "across")),
        "steps_alone": steps_to_close(rows, "alone"),
        "steps_with_branch": steps_to_close(rows, "with"),
    }
    drops = [means["base", "prompt"] - means[part, "prompt"] for part in ("reference", "first", "views") if parts[part]]
    if drops and parts["base"]:
        numbers["branch_prompt_drop"] = max(drops)
    return {name: value for name, value in numbers.items() if value is not None}


def distilled_headline(rows: Sequence[Row]) -> dict[str, float]:
    """The few numbers that are quoted of distilled adapters, as far as they are measured; frequencies and diversity as
    shares of the teacher's.

    Args:
        rows: Of `benchmarks.world.judge_distilled`.
    """
    parts = {row["part"]: row for row in rows}
    numbers: dict[str, float] = {}
    teacher, guided, scores, pairs = map(parts.get, ("teacher", "guidance", "scores", "pairs-magnitude-3"))
    if guided is not None:
        numbers |= {
            "agd_error": max(guided["guidance_errors"].values()),
            "agd_accuracy": guided["accuracy"],
            "agd_calls": guided["calls"],
        }
    if teacher is not None and scores is not None:
        numbers |= {
            "sim_accuracy": scores["accuracy"],
            "sim_frequencies": scores["frequencies"] / teacher["frequencies"],
            "sim_diversity": scores["diversity"] / teacher["diversity"],
        }
    if teacher is not None and pairs is not None:
        numbers["hipa_frequencies"] = pairs["frequencies"] / teacher["frequencies"]
    return numbers


def resolution_headline(rows: Sequence[Row]) -> dict[str, float]:
    """The few numbers that are quoted of an adapter for other sizes, as far as they are measured: the share of the mean
    accuracy that the base loses at a size and the adapter brings back, and what the adapter loses at the base's own.

    Args:
        rows: Of `benchmarks.world.judge_resolutions`.
    """
    means = {(row["part"], row["side"]): row["mean"] for row in rows}
    numbers: dict[str, float] = {}
    own, own_adapted = means.get(("base", SIDE)), means.get(("both", SIDE))
    if own is None:
        return numbers
    for side in (96, 48):
        base, adapted = means.get(("base", side)), means.get(("both", side))
        if base is not None and adapted is not None and base < own:
            numbers[f"resadapter_gain_{side}"] = (adapted - base) / (own - base)
    if own_adapted is not None:
        numbers["resadapter_cost_64"] = own - own_adapted
    return numbers


def steps_to_close(rows: Sequence[Row], adapter: str, share: float = 0.6) -> float | None:
    """Steps of a subject's own training after which this share of the gap between base and real likeness is closed, in
    the mean of all subjects; between two moments that were measured, on the line between them."""
    means: dict[str, float] = {
        part: float(np.mean([row["likeness"] for row in own]))
        for part in ("base", "real")
        if (own := [row for row in rows if row["part"] == part])
    }
    moments: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["part"] == "both" and row["adapter"] == adapter:
            moments[row["steps"]].append(row["likeness"])
    without = [row["likeness"] for row in rows if row["part"] == ("reference" if adapter == "with" else "base")]
    if len(means) < 2 or not moments or not without:
        return None
    steps = np.array([0.0, *sorted(moments)])
    reached = np.array([np.mean(without), *(np.mean(moments[step]) for step in sorted(moments))])
    wanted = means["base"] + share * (means["real"] - means["base"])
    return _crossing(steps, reached - wanted) if (reached >= wanted).any() else None
