"""Writes the tables and plots of docs/quality.md, and the README's,
from benchmarks/results/quality-*.json and the judges' own file.

    python3 tools/host.py run benchmarks/pages/quality.py

tests/tools/test_quality_page.py fails when the page is out of date.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PACK = Path(__file__).absolute().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.command import RESULTS  # noqa: E402
from benchmarks.pages.scaling import table  # noqa: E402
from benchmarks.quality import (  # noqa: E402
    WITH_TWO_LEVELS,
    judged_by,
    of_all_machines,
    of_branches,
    of_distilled,
    of_guidance,
    of_resolutions,
    sums,
)
from benchmarks.shapes import Shape, sdxl_attention  # noqa: E402
from benchmarks.world.contenders import IDEAS, PAPER, SIDES  # noqa: E402
from benchmarks.world.plan import BETWEEN, BEYOND, CORE, FEW, PROMISING, among_few  # noqa: E402
from benchmarks.world.subjects import COUNT  # noqa: E402
from benchmarks.world.summary import (  # noqa: E402
    RATES,
    References,
    as_they_come,
    best_rate,
    by_rate,
    difference,
    interval,
    line,
    scores,
    stability,
)
from benchmarks.world.trial import STEPS, current  # noqa: E402
from krona_ops import Adapter, Delta, Full, Kron, LayerName, LowRank, Matrix, read_header, save  # noqa: E402
from krona_ops.targets.rules import PAPER_FACTORS  # noqa: E402
from krona_ops.updates.shapes import split  # noqa: E402

DOCUMENT, README = PACK / "docs" / "quality.md", PACK / "README.md"
JUDGES = PACK / "samples" / "world" / "judges.safetensors"
IMAGES = PACK / "docs" / "images"
NOTHING = "Not measured yet."
HUES = {"krona": "Blues", "lora": "Oranges", "lokr": "Greens", "full": "Greys"}
Row = Mapping[str, Any]


def percent(value: float | None) -> str:
    """A share in whole percent."""
    return "–" if value is None else f"{100 * value:.0f} %"


def with_interval(mean: float, low_high: Sequence[float] | None, form: str = ".2f") -> str:
    """A mean and its 95 % interval, where there is one."""
    return f"{mean:{form}}" + (f" ({low_high[0]:{form}} to {low_high[1]:{form}})" if low_high else "")


def judges() -> str:
    """What the judges get right on pictures of characters that nothing was trained on."""
    if not JUDGES.exists():
        return NOTHING
    right = json.loads(read_header(JUDGES).metadata["right"])
    return table(
        ("judge", "right", "wrong"), [(name, f"{100 * v:.1f} %", f"{100 * (1 - v):.1f} %") for name, v in right.items()]
    )


def progress(results: Mapping[str, Any]) -> str:
    """Which parts have run."""
    rows = [(part, str(done), str(wanted)) for part, (done, wanted) in results["done"].items()]
    machines = ", ".join(f"{count} on `{name}`" for name, count in results["machines"].items())
    return f"Trials: {machines or 'none'}; model and judges `{results['judged by']}`.\n\n" + table(
        ("part", "trials run", "of"), rows
    )


def headline(results: Mapping[str, Any]) -> str:
    """The few numbers that are quoted."""
    head = results["headline"]
    words = {
        "subjects": "subjects",
        "subject_gain": "gain of the default settings, mean",
        "subject_gain_least": "the same, least of all subjects",
        "prompt_drop": "prompt accuracy lost against the base, mean",
        "prompt_drop_most": "the same, most of all subjects",
        "params_vs_lora": "parameters of KronA 64 × 4 over those of a LoRA that is as like the subjects (between two ranks)",
        "params_vs_lora 95 %": "the same, 95 % interval",
        "params_vs_lora_4": "parameters of the smallest KronA that is as like the subjects as LoRA r4, over LoRA's",
        "params_vs_smallest_lora": "the same, over those of the smallest LoRA that is",
        "stability_krona": "share of the learning rates within 5 % of the best: KronA 64 × 4",
        "stability_lora": "the same: LoRA r4",
        "reference_likeness": "branch `reference`, one picture, nothing trained on it: likeness, mean",
        "reference_least": "the same, least of all subjects",
        "first_frame_likeness": "branch `first`: likeness to the first picture's subject, mean",
        "views_likeness": "branch `views`: likeness among pictures that are drawn together, mean",
        "views_across": "the same, among pictures that are not",
        "branch_prompt_drop": "prompt accuracy lost against the base, most of the three branches",
        "agd_error": "guidance in one pass: error against the guided prediction, 1 without the adapter; most of guidance 2, 3, 5",
        "agd_accuracy": "the same: pictures with all that was asked for",
        "agd_calls": "the same: passes for a picture (24 with guidance)",
        "sim_accuracy": "one step by score matching: pictures with all that was asked for",
        "sim_frequencies": "the same: high frequencies, of the teacher's",
        "sim_diversity": "the same: diversity, of the teacher's",
        "hipa_frequencies": "one step by pairs: high frequencies, of the teacher's",
        "resadapter_gain_96": "adapter for other sizes: share of the accuracy lost at 96 pixels that comes back",
        "resadapter_gain_48": "the same, at 48 pixels",
        "resadapter_cost_64": "the same: accuracy lost at the base's own 64 pixels",
        "mosa_gap_subjects": "training in 4 parts (MoSA): subjects of 8 whose loss on other pictures is nearer to that on their own than "
        "with the same training whole",
        "mosa_gap_whole": "how far apart these losses are, whole",
        "mosa_gap": "the same, in 4 parts",
        "steps_alone": "steps of the default settings until 60 % of the gap is closed",
        "steps_with_branch": "the same, with the branch `reference` beside the adapter",
    }
    return table(("", "value"), [(label, _plain(head.get(name), name)) for name, label in words.items()])


def _plain(value: Any, name: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, Sequence):
        return f"{value[0]:.2f} to {value[1]:.2f}"
    if name.startswith("steps") or name == "agd_calls":
        return f"{value:.0f}"
    if name in ("mosa_gap", "mosa_gap_whole"):
        return f"{value:.4f}"
    if name in ("branch_prompt_drop", "resadapter_cost_64"):
        return f"{100 * value:.1f} %"
    is_ratio = name.startswith(("params", "reference", "first", "views", "agd_error", "sim_freq", "sim_div", "hipa"))
    return f"{value:.2f}" if is_ratio else str(value) if isinstance(value, int) else percent(value)


def branches(results: Mapping[str, Any]) -> str:
    """What is reached without a training."""
    called = {
        "base": "none: the base model", "reference": "`reference`, one picture", "first": "`first`, the first picture",
        "views": "`views`, four drawn together", "real": "real pictures",
    }  # fmt: skip
    body = []
    for part, words in called.items():
        own = [row for row in results["branches"] if row["part"] == part]
        names = ("likeness", "prompt", "within", "across")
        means = {name: np.mean([row[name] for row in own]) for name in names if own and name in own[0]}
        if own:
            cells = [f"{means['likeness']:.2f}", f"{min(row['likeness'] for row in own):.2f}"]
            cells += [f"{means[name]:.2f}" if name in means else "–" for name in ("within", "across")]
            cells.append(f"{100 * means['prompt']:.1f} %" if "prompt" in means else "–")
            body.append((words, *cells, str(len(own))))
    heads = ("branch", "likeness", "least", "within a batch", "across batches", "prompts", "subjects")
    return table(heads, body) if body else NOTHING


def beside(results: Mapping[str, Any]) -> str:
    """A subject's own adapter while it is trained, without and with the branch."""
    own = [row for row in results["branches"] if row["part"] == "both"]
    body = []
    for steps in sorted({row["steps"] for row in own}):
        cells = [str(steps)]
        for name in ("alone", "with"):
            rows = [row for row in own if row["steps"] == steps and row["adapter"] == name]
            cells += [f"{np.mean([row['likeness'] for row in rows]):.2f}", percent(np.mean([row["prompt"] for row in rows]))]
        body.append(tuple(cells))
    heads = ("steps", "likeness", "prompts", "with the branch: likeness", "prompts")
    return table(heads, body) if body else NOTHING


def distilled(results: Mapping[str, Any]) -> str:
    """What distilled adapters draw, beside what they shall replace."""
    called = {
        "teacher": "the model, 12 steps with guidance 3", "plain": "the model, 12 steps without guidance", "base": "the model, one step",
        "guidance": "guidance in one pass, 12 steps", "guidance-plain": "the same, learnt from plain drawings",
        "scores": "one step by score matching", "pairs-mse": "one step by pairs: squared error alone",
        "pairs-magnitude-3": "one step by pairs: magnitudes, weight 3", "pairs-pixels": "one step by pairs: magnitudes in pixels",
    }  # fmt: skip
    rows = {row["part"]: row for row in results["distilled"]}
    if "teacher" not in rows:
        return NOTHING
    body = []
    for part, words in called.items():
        if (row := rows.get(part)) is None:
            continue
        shares = [f"{row[name] / rows['teacher'][name]:.2f}" for name in ("frequencies", "diversity")]
        errors = " / ".join(f"{value:.2f}" for value in row.get("guidance_errors", {}).values()) or "–"
        right, agreement = f"{100 * row['accuracy']:.1f} %", f"{row['agreement']:.3f}"
        if "accuracy 95 %" in row:
            low, high = row["accuracy 95 %"]
            right += f" ({100 * low:.1f} to {100 * high:.1f})"
            agreement += f" ({row['agreement 95 %'][0]:.3f} to {row['agreement 95 %'][1]:.3f})"
        cells = (right, agreement, *shares, f"{row['latents_error']:.3f}", errors)
        body.append((words, str(row["calls"]), *cells, str(row.get("steps", "–"))))
    heads = ("", "passes", "all right", "agreement", "high frequencies", "diversity", "error of latents", "error of guidance 2 / 3 / 5", "steps trained")  # fmt: skip
    return table(heads, body)


def with_others(results: Mapping[str, Any]) -> str:
    """Guidance in an adapter beside a subject's own adapter, and on another checkpoint."""
    models = {"adapter": "with an adapter of the subject", "checkpoint": "the whole model trained on the subject"}
    ways = {
        "guided": "12 steps with guidance 3", "plain": "12 steps without guidance", "with": "12 steps with the adapter for guidance",
    }  # fmt: skip
    body = []
    for part, model in models.items():
        for way, words in ways.items():
            rows = [row for row in results["guidance"] if (row["part"], row["way"]) == (part, way)]
            if rows:
                likeness, prompt = (np.mean([row[name] for row in rows]) for name in ("likeness", "prompt"))
                cells = (str(rows[0]["calls"]), f"{likeness:.2f}", f"{100 * prompt:.1f} %", str(len(rows)))
                body.append((model, words, *cells))
    heads = ("the model", "drawn in", "passes", "likeness", "prompts", "subjects")
    return table(heads, body) if body else NOTHING


def resolutions(results: Mapping[str, Any]) -> str:
    """Accuracy by size: real pictures, the base with two levels, and what learns other sizes."""
    called = {
        "real": "real pictures", "autoencoder": "the same through the autoencoder", "base": "the base, trained at 64",
        "norms": "norms alone", "convolutions": "convolutions alone", "both": "**both (ResAdapter)**",
        "both with 64": "both, four of nine samples at 64 pixels", "attention": "attention instead",
    }  # fmt: skip
    rows = {(row["part"], row["side"]): row for row in results["resolutions"]}
    sides = sorted({side for _, side in rows})
    body = []
    for part, words in called.items():
        own = [rows.get((part, side)) for side in sides]
        known = next((row for row in own if row is not None), None)
        if known is None:
            continue
        cells = [f"{100 * row['mean']:.1f} / {100 * row['kind']:.1f} %" if row else "–" for row in own]
        numbers = f"{known['numbers']:,}" if "numbers" in known else "–"
        body.append((words, numbers, *cells, str(known.get("steps", "–"))))
    heads = ("", "parameters", *(f"{side} pixels: all / kind" for side in sides), "steps trained")
    return table(heads, body) if body else NOTHING


def methods(rows: Sequence[Row], names: Sequence[str] = CORE) -> str:
    """Each contender at its best learning rate."""
    lines = [sums for name in names if (sums := line(rows, name))]
    head = ("", "learning rate", "parameters", "likeness", "gain", "prompts", "agreement", "diversity", "drift", "score", "against 64x4", "stable", "spread", "seconds", "n")  # fmt: skip
    body = [
        (
            sums["contender"], f"{sums['rate']:g}" + (" !" if sums["is at the edge"] else ""), f"{sums['parameters']:,}", with_interval(sums["likeness"], sums["likeness 95 %"]),
            with_interval(sums["gain"], sums["gain 95 %"]), with_interval(sums["prompt"], sums["prompt 95 %"]), f"{sums['agreement']:.2f}",
            f"{sums['diversity']:.3f}", f"{sums['drift']:.2f}", f"{sums['score']:.3f}", against(rows, sums["contender"]), percent(sums["stability"]),
            "–" if sums["spread"] is None else f"{sums['spread']:.2f}",
            f"{sums['seconds']:.0f}", f"{sums['subjects']} / {sums['trials']}",
        )
        for sums in lines
    ]  # fmt: skip
    return table(head, [*_reference_rows(rows), *body]) if lines else NOTHING


def on_all_subjects(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Those whose best learning rate has been tried on every subject."""
    return [name for name in names if (sums := line(rows, name)) and sums["subjects"] == COUNT]


def sizes(rows: Sequence[Row]) -> str:
    """Sizes between the others, as far as they have run; a few subjects alone would be compared with other subjects."""
    names = on_all_subjects(rows, BETWEEN)
    return methods(rows, (PAPER, *names)) if names else NOTHING


def confirmed(rows: Sequence[Row]) -> str:
    """The most promising ideas on all subjects and seeds, as far as they have run there."""
    names = on_all_subjects(rows, PROMISING)
    return methods(rows, (PAPER, *names, "lora 4", "lora 16")) if names else NOTHING


def against(rows: Sequence[Row], name: str) -> str:
    """The paired difference in score to 64 × 4, with its interval."""
    ratio = difference(rows, name, PAPER) if name != PAPER else None
    return "" if ratio is None else with_interval(*ratio, "+.3f")


def _reference_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    lines = []
    for name in ("base", "real"):
        own = [row for row in rows if row["contender"] == name]
        if own:
            mean = {
                key: float(np.mean([row[key] for row in own]))
                for key in ("likeness", "prompt", "agreement", "diversity")
            }
            lines.append(
                (
                    f"*{name}*",
                    "",
                    "",
                    f"{mean['likeness']:.2f}",
                    "",
                    f"{mean['prompt']:.2f}",
                    f"{mean['agreement']:.2f}",
                    f"{mean['diversity']:.3f}",
                    *[""] * 6,
                    str(len(own)),
                )
            )
    return lines


def everyone(rows: Sequence[Row]) -> str:
    """The default settings, subject by subject."""
    references = References(rows)
    body = [
        (
            str(row["subject"]), f"{references.base(row)['likeness']:.2f}", f"{row['likeness']:.2f}", f"{references.real(row)['likeness']:.2f}",
            percent(references.gain(row)), f"{references.base(row)['prompt']:.2f}", f"{row['prompt']:.2f}", f"{100 * references.drop(row):.0f}",
        )
        for row in as_they_come(rows) if references.knows(row["subject"])
    ]  # fmt: skip
    head = ("subject", "likeness: base", "adapted", "real", "gain", "prompts: base", "adapted", "points lost")
    return table(head, body) if body else NOTHING


def rates(rows: Sequence[Row]) -> str:
    """Score by learning rate: the paper's Figure 16 as numbers."""
    body = []
    for name in CORE:
        by_rate = scores(rows, name)
        if by_rate:
            tried = (f"{by_rate[r]:.2f}" if r in by_rate else "" for r in (*RATES, *BEYOND))
            body.append((name, *tried, percent(stability(rows, name))))
    return table(("score at", *(f"{r:g}" for r in (*RATES, *BEYOND)), "within 5 %"), body) if body else NOTHING


def grid(rows: Sequence[Row], layout: str = "") -> tuple[dict[tuple[int, int], dict[str, float]], int]:
    """Out × in to mean gain, prompt accuracy, score and parameters of the factor grid at 64 × 4's best learning rate,
    and of how many subjects.

    Means are over those subjects that all factors have been tried on; of none there is no grid.
    """
    rate, references = best_rate(rows, PAPER), References(rows)
    if rate is None:
        return {}, 0
    own = {
        (a, b): {
            r["subject"]: r
            for r in by_rate(rows, f"krona {a}x{b}{layout}").get(rate, [])
            if r["subject"] < FEW and references.knows(r["subject"])
        }
        for a in SIDES
        for b in SIDES
    }
    subjects = set.intersection(*(set(tried) for tried in own.values()))
    if not subjects:
        return {}, 0
    best = {}
    for sides, tried in own.items():
        cell = [tried[subject] for subject in sorted(subjects)]
        best[sides] = {
            "gain": float(np.mean([references.gain(r) for r in cell])),
            "prompt": float(np.mean([r["prompt"] for r in cell])),
            "score": float(np.mean([references.score(r) for r in cell])),
            "parameters": cell[0]["parameters"],
        }
    return best, len(subjects)


def factors(rows: Sequence[Row], layout: str = "") -> str:
    """Parameters (the paper's Table 6) and score (its Figure 15) by factors."""
    best, subjects = grid(rows, layout)
    if not best:
        return NOTHING
    body = [
        (f"out {a}", *(f"{best[a, b]['score']:.2f} ({best[a, b]['parameters'] / 1000:.1f}k)" for b in SIDES))
        for a in SIDES
    ]
    return f"Subjects: {subjects}.\n\n" + table(("score (parameters)", *(f"in {b}" for b in SIDES)), body)


def compared(rows: Sequence[Row], what: str, values: Sequence[Any]) -> str:
    """Gain, prompts and drift where one setting differs, at each contender's best learning rate."""
    references, body = References(rows), []
    for name in (PAPER, "lora 4"):
        rate = best_rate(rows, name)
        for value in values:
            usual = {"pictures": 4, "prior": 0.0} | {what: value}
            own = [
                row for row in rows
                if "failed" not in row and row["contender"] == name and row["rate"] == rate and row["seed"] == 0 and row["steps"] == STEPS
                and all(row[key] == wanted for key, wanted in usual.items()) and references.knows(row["subject"])
            ]  # fmt: skip
            if own:
                subjects, gains = [row["subject"] for row in own], [references.gain(row) for row in own]
                body.append(
                    (
                        f"{name}, {value:g}",
                        with_interval(float(np.mean(gains)), interval(gains, subjects)),
                        f"{np.mean([r['prompt'] for r in own]):.2f}",
                        f"{np.mean([r['diversity'] for r in own]):.3f}",
                        f"{np.mean([references.drift(r) for r in own]):.2f}",
                        str(len(own)),
                    )
                )
    return table((what, "gain", "prompts", "diversity", "drift", "subjects"), body) if len(body) > 2 else NOTHING


def picture(about: str, name: str, is_there: bool) -> str:
    """A plot's place on the page."""
    return f"![{about}](images/{name}.png)" if is_there else NOTHING


def sections(results: Mapping[str, Any]) -> dict[str, Callable[[], str]]:
    """The page's tables by name."""
    rows = current(results["trials"])
    few = among_few(rows)
    return {
        "judges": judges,
        "progress": lambda: progress(results),
        "headline": lambda: headline(results),
        "methods": lambda: methods(rows),
        "sizes": lambda: sizes(rows),
        "subjects": lambda: everyone(rows),
        "rates": lambda: rates(rows),
        "curves": lambda: picture(
            "Score by learning rate, and gain against prompt accuracy", "quality-rates", bool(rows)
        ),
        "map": lambda: picture("Gain, prompt accuracy and score by factors", "quality-factors", bool(grid(rows)[0])),
        "examples": lambda: picture(
            "What the base model draws, what adapters make of it, and real pictures",
            "quality-subjects",
            (IMAGES / "quality-subjects.png").exists(),
        ),
        "factors": lambda: factors(rows),
        "shuffled": lambda: factors(rows, " shuffled"),
        "pictures": lambda: compared(rows, "pictures", (1, 2, 3, 4)),
        "prior": lambda: compared(rows, "prior", (0.0, 1.0)),
        "ideas": lambda: methods(few, (PAPER, *IDEAS)) if any(row["contender"] in IDEAS for row in rows) else NOTHING,
        "promising": lambda: confirmed(rows),
        "branches": lambda: branches(results),
        "distilled": lambda: distilled(results),
        "guidance": lambda: with_others(results),
        "resolutions": lambda: resolutions(results),
        "beside": lambda: beside(results),
    }


IN_THE_README = {
    PAPER: "**KronA 64 × 4**, the default factors",
    "lora 1": "LoRA, rank 1",
    "lora 4": "LoRA, rank 4",
    "full": "all weights of the UNet",
}
"""Contenders that the README shows."""


def in_short(results: Mapping[str, Any]) -> str:
    """What the README says: size, quality and seconds, without intervals."""
    rows = current(results["trials"])
    lines = {name: own for name in IN_THE_README if (own := line(rows, name))}
    head = results["headline"]
    if not lines or head.get("subject_gain") is None:
        return NOTHING
    files = {PAPER: file_for_sdxl(_kron, "lokr"), **{f"lora {n}": file_for_sdxl(_low_rank(n), "lora") for n in (1, 4)}}
    body = [
        (
            called, f"{own['parameters']:,}", percent(own["gain"]), percent(own["prompt"]), f"{own['seconds']:.0f}",
            f"{files[name] / 2**20:.1f} MiB" if name in files else "",
        )
        for name, own in lines.items() for called in (IN_THE_README[name],)
    ]  # fmt: skip
    columns = ("adapter", "parameters", "of the gap closed", "prompts followed", "seconds", "file for SDXL")
    subjects, trials = ({own[key] for own in lines.values()} for key in ("subjects", "trials"))
    sentences = (
        f"<sub>`make bench-quality`: four pictures, 500 steps, each at its best learning rate; means of {_only(subjects)} subjects and {_only(trials) // _only(subjects)} seeds in "
        "[a small world of our own](docs/quality.md), where the intervals are; seconds on one CPU core. The gap is between what the base model draws and real pictures of the subject; "
        f"the default settings close {percent(head['subject_gain'])} of it ({percent(head['subject_gain_least'])} for the worst subject). Files are those the pack saves for SDXL's 560 "
        "attention layers, 5 to 16 times as wide, so sizes compare differently there. Nothing of this has been measured on a GPU or a large model yet.</sub>"
    )
    return f"{table(columns, body)}\n\n{sentences}"


def _only(values: set[int]) -> int:
    """The number that all rows share.

    Raises:
        ValueError: They do not, and one sentence cannot speak for them.
    """
    if len(values) != 1:
        raise ValueError(
            f"The README's rows are means of {sorted(values)} trials or subjects; they must be of as many each."
        )
    return next(iter(values))


def file_for_sdxl(update: Callable[[Shape], Delta], format: str) -> int:
    """Bytes of the file that the pack saves for all 560 attention layers of SDXL, in float32."""
    adapter = Adapter({LayerName(name): update(shape) for name, shape in sdxl_attention().items()})
    with tempfile.TemporaryDirectory() as folder:
        return save(adapter, Path(folder) / "adapter.safetensors", format).stat().st_size


def _kron(shape: Shape) -> Delta:
    sizes = split(shape, PAPER_FACTORS)
    return Kron(Full(torch.zeros(sizes.out_a, sizes.in_a)), Full(torch.zeros(sizes.out_b, sizes.in_b)))


def _low_rank(rank: int) -> Callable[[Shape], Delta]:
    return lambda shape: Matrix(LowRank(torch.zeros(shape[0], rank), torch.zeros(rank, shape[1])))


def read_results(folder: Path = RESULTS) -> Mapping[str, Any]:
    """What all machines have measured of the shipped model, summed up anew as settings may have changed since;
    "machines" says how many trials are whose."""
    judges = judged_by()
    rows = of_all_machines(folder, judges)
    machines = Counter(row["machine"] for row in current(rows))
    of_the_branches, distilled_rows = of_branches(folder, judges), of_distilled(folder, judges)
    of_the_resolutions = of_resolutions(folder, judged_by(names=WITH_TWO_LEVELS))
    return {
        "trials": rows,
        "branches": of_the_branches,
        "distilled": distilled_rows,
        "guidance": of_guidance(folder, judges),
        "resolutions": of_the_resolutions,
        "judged by": judges,
        "machines": dict(machines.most_common()),
        **sums(rows, of_the_branches, distilled_rows, of_the_resolutions),
    }


def make(text: str, results: Mapping[str, Any]) -> str:
    """The page with its tables made anew.

    Raises:
        ValueError: Page and script do not have the same tables.
    """
    made = sections(results)
    unknown = set(re.findall(r"<!-- quality: (\w+) -->", text)) ^ made.keys()
    if unknown:
        raise ValueError(
            f"docs/quality.md and benchmarks/pages/quality.py do not have the same tables: {', '.join(sorted(unknown))}."
        )
    for name, write in made.items():
        text = put(text, name, write())
    return text


def put(text: str, name: str, what: str) -> str:
    """A page with one of its sections written anew."""
    begin, end = f"<!-- quality: {name} -->", "<!-- /quality -->"
    start = text.index(begin) + len(begin)
    return text[:start] + f"\n\n{what}\n\n" + text[text.index(end, start) :]


def _bars(sums: Mapping[str, Any], name: str) -> list[list[float]] | None:
    """How far the interval reaches down and up from the mean, as matplotlib takes it."""
    reach = sums[f"{name} 95 %"]
    return reach and [[max(0.0, sums[name] - reach[0])], [max(0.0, reach[1] - sums[name])]]


def look(name: str) -> dict[str, Any]:
    """How a contender is drawn: a hue for each family, darker the more parameters,
    broken lines for the shuffled layout."""
    from matplotlib import colormaps

    family = next(family for family in HUES if name.startswith(family))
    own = [other.removesuffix(" shuffled") for other in CORE if other.startswith(family)]
    depth = 0.95 - 0.3 * sorted(set(own), key=own.index, reverse=True).index(name.removesuffix(" shuffled"))
    is_shuffled = name.endswith("shuffled")
    return {
        "color": colormaps[HUES[family]](depth),
        "linestyle": "--" if is_shuffled else "-",
        "marker": "s" if is_shuffled else "o",
    }


def plots(rows: Sequence[Row], folder: Path = IMAGES) -> None:
    """Score over learning rate, gain against prompts, and the factor grid."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4.8), constrained_layout=True)
    for name in CORE:
        points = scores(rows, name)
        if points:
            left.plot(list(points), list(points.values()), label=name, **look(name))
        if sums := line(rows, name):
            right.errorbar(
                sums["gain"], sums["prompt"], capsize=2, label=name, **look(name),
                xerr=_bars(sums, "gain"), yerr=_bars(sums, "prompt"),
            )  # fmt: skip
    left.set(xscale="log", xlabel="learning rate", ylabel="score", title="Score by learning rate, mean over subjects")
    right.set(
        xlabel="gain: share of the gap to real pictures",
        ylabel="prompt accuracy",
        title="Each at its best learning rate",
    )
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(folder / "quality-rates.png", dpi=90)
    pyplot.close(figure)

    cells, _ = grid(rows)
    if cells:
        figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.2), constrained_layout=True)
        for axis, what in zip(axes, ("gain", "prompt", "score"), strict=True):
            values = np.array([[cells[a, b][what] for b in SIDES] for a in SIDES])
            axis.imshow(values, cmap="viridis", vmin=0, vmax=1)
            for y, x in np.ndindex(values.shape):
                axis.text(
                    x,
                    y,
                    f"{values[y, x]:.2f}",
                    ha="center",
                    va="center",
                    color="white" if values[y, x] < 0.6 else "black",
                    fontsize=8,
                )
            axis.set(
                title=what,
                xlabel="in",
                ylabel="out",
                xticks=range(len(SIDES)),
                yticks=range(len(SIDES)),
                xticklabels=SIDES,
                yticklabels=SIDES,
            )
        figure.savefig(folder / "quality-factors.png", dpi=90)
        pyplot.close(figure)


def main() -> None:
    """Write the page and its plots anew."""
    results = read_results()
    DOCUMENT.write_text(make(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")
    README.write_text(put(README.read_text(encoding="utf-8"), "short", in_short(results)), encoding="utf-8")
    if results["trials"]:
        plots(current(results["trials"]))
    sys.stdout.write(f"wrote {DOCUMENT.relative_to(PACK)}\n")


if __name__ == "__main__":
    main()
