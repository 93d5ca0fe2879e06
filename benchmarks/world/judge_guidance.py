"""Whether an adapter that has learnt guidance works beside other adapters, and on another checkpoint of its family.

    python3 tools/host.py run benchmarks/world/judge_guidance.py --adapter guidance.safetensors [--parts adapter,checkpoint]

``adapter``: each subject's own adapter, trained with the pack's default settings. ``checkpoint``: the whole model
trained on the subject (DreamBooth), which is another checkpoint of the family. Both draw the subject in its twelve
scenes in three ways: ``guided`` in two passes a step, ``plain`` in one, and ``with`` the adapter for guidance in one.
Rows of a part and a subject replace those in ``results/guidance-<machine>.json``. Three minutes of one core for a part
of a subject with two pictures of each prompt.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.command import RESULTS  # noqa: E402
from benchmarks.contest import circumstances, commit, keep_among, machine  # noqa: E402
from benchmarks.quality import judged_by  # noqa: E402
from benchmarks.world.command import say  # noqa: E402
from benchmarks.world.contenders import CONTENDERS, SETTINGS  # noqa: E402
from benchmarks.world.draw import GUIDANCE, STEPS  # noqa: E402
from benchmarks.world.judge_branches import Gallery, short_hash  # noqa: E402
from benchmarks.world.subjects import COUNT, Subject  # noqa: E402
from benchmarks.world.trial import Studio, Trial, as_it_comes  # noqa: E402
from krona_ops import Adapter, load  # noqa: E402
from krona_ops.formats.guidance import guidance_of  # noqa: E402

PARTS = ("adapter", "checkpoint")
WAYS = ("guided", "plain", "with")
CHECKPOINT = "full"
"""The contender that trains the whole model."""
RATE = 5e-4
"""Its best learning rate in docs/quality.md."""
Row = dict[str, Any]


def trial_of(part: str, subject: int) -> Trial:
    """How a part's model is trained."""
    return as_it_comes(subject) if part == "adapter" else Trial(CHECKPOINT, rate=RATE, subject=subject)


def of_part(gallery: Gallery, studio: Studio, part: str, subject: Subject, guidance: Adapter) -> Iterator[Row]:
    """A row for each way of drawing."""
    from krona_host.patching.apply import apply_adapter

    trial = trial_of(part, subject.number)
    contender = CONTENDERS[SETTINGS if part == "adapter" else CHECKPOINT]
    trained = contender.train(studio.material(subject, trial))
    applied: Any = apply_adapter(trained.adapter, gallery.model, gallery.clip)
    strength = guidance_of(guidance.metadata).strength(GUIDANCE)
    with_guidance: Any = apply_adapter(guidance, applied.model, None, strength).model
    drawn_as = {
        "guided": (applied.model, GUIDANCE, 2 * STEPS),
        "plain": (applied.model, 1.0, STEPS),
        "with": (with_guidance, 1.0, STEPS),
    }
    for way in WAYS:
        model, scale, calls = drawn_as[way]
        row = gallery.row(subject, gallery.drawn(subject.prompts(), model, applied.clip, guidance=scale))
        yield {"part": part, "way": way, "calls": calls, **row, "steps": trial.steps}


def written(file: Path, rows: Sequence[Row], about: Row) -> None:
    """The rows in the place of those of the same parts and subjects that were there."""
    keep_among(
        file,
        about,
        rows,
        ("part", "subject"),
        lambda row: (PARTS.index(row["part"]), row["subject"], WAYS.index(row["way"])),
    )


def main() -> None:
    """Judge what is asked for; a subject's rows are written as soon as they are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--subjects", default=",".join(map(str, range(COUNT))))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    host.start()
    guidance, made_by = load(options.adapter), commit()
    gallery, studio = Gallery(options.seeds), Studio(options.seeds)
    shared = {"seeds": options.seeds, "adapter": short_hash(options.adapter), "commit": made_by}
    file = options.results / f"guidance-{machine()}.json"
    for part in [part for part in PARTS if part in options.parts.split(",")]:
        for subject in map(Subject, map(int, options.subjects.split(","))):
            rows = [{**row, **shared} for row in of_part(gallery, studio, part, subject, guidance)]
            for row in rows:
                say(json.dumps(row))
            written(file, rows, {**circumstances("guidance"), "judged by": judged_by()})


if __name__ == "__main__":
    main()
