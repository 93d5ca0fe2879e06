"""How good the small world's parallel branches are, on characters that nothing was trained on.

    python3 tools/host.py run benchmarks/world/judge_branches.py [--parts real,base,reference,first,views]
    python3 tools/host.py run benchmarks/world/judge_branches.py --parts both --seeds 2 [--subjects 0,1,2,3,4,5,6,7]

Likeness and prompts are measured as in docs/quality.md: the twelve scenes of eight subjects, four pictures each. A part
of a subject replaces its rows in ``results/branches-<machine>.json``; ``both`` is a subject's own adapter while it is
trained, with the branch ``reference`` and without it, and takes 25 minutes of one core with two pictures each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.command import RESULTS  # noqa: E402
from benchmarks.contest import circumstances, commit, keep_among, machine  # noqa: E402
from benchmarks.quality import judged_by  # noqa: E402
from benchmarks.world.command import say  # noqa: E402
from benchmarks.world.draw import GUIDANCE, STEPS  # noqa: E402
from benchmarks.world.grammar import Scene  # noqa: E402
from benchmarks.world.measure import PROMPT, Judges  # noqa: E402
from benchmarks.world.render import SIDE  # noqa: E402
from benchmarks.world.subjects import COUNT, SCENES, Subject  # noqa: E402
from benchmarks.world.trial import SEEDS, Studio, as_it_comes  # noqa: E402
from krona_ops import Adapter, load  # noqa: E402

PARTS = ("real", "base", "reference", "first", "views", "both")
FRAME = 10_000
"""Seed of the noise of a clip's first picture, which is not looked at."""
MOMENTS = (50, 100, 200, 400)
"""Steps of a subject's own training at which it is drawn."""
Row = dict[str, Any]


class Gallery:
    """The world's model, its judges, and what they are asked about.

    Args:
        seeds: Pictures of each prompt.
    """

    def __init__(self, seeds: int = SEEDS) -> None:
        from krona_host.model.small_world import load_world

        self.model, self.clip, self.vae = load_world()
        self.judges, self.seeds = Judges(), seeds

    def with_branch(self, branch: Adapter, subject: Subject, model: Any = None, **use: Any) -> Any:
        """A model with a branch beside it that looks at the first of the subject's pictures, if it looks at any."""
        from krona_host.branches.apply import Use, apply_branches

        with torch.inference_mode():
            reference = self.vae.encode(torch.from_numpy(subject.training_pictures(1)).float() / 255)
        return apply_branches(branch, model or self.model, Use(reference=reference, **use))[0]

    def drawn(
        self,
        prompts: Sequence[str],
        model: Any,
        clip: Any = None,
        *,
        frames: bool = False,
        guidance: float = GUIDANCE,
    ) -> list[NDArray[np.uint8]]:
        """A batch of pictures ``(seeds, 64, 64, 3)`` for each prompt.

        Args:
            frames: A batch begins with the reference, which is left out.
            guidance: 1 is none, and half of the passes.
        """
        groups = []
        for number, prompt in enumerate(prompts):
            noises = [number * self.seeds + n for n in range(self.seeds)]
            seeds = [FRAME, *noises] if frames else noises
            drawn = self._drawn(model, clip or self.clip, prompt, seeds, guidance)
            groups.append(drawn[1:] if frames else drawn)
        return groups

    def row(self, subject: Subject, groups: Sequence[NDArray[np.uint8]]) -> Row:
        """Likeness to the subject's pictures, whether prompts are kept, and how alike pictures of one batch are,
        beside those of others."""
        together = np.concatenate(groups)
        accuracy = self.judges.accuracy(together, [Scene(*scene) for scene in SCENES for _ in range(self.seeds)])
        within, across = self.judges.alike(groups)
        measured = {
            "likeness": self.judges.likeness(together, subject.training_pictures()),
            "prompt": float(np.mean([accuracy[name] for name in PROMPT])),
            "within": within,
            "across": across,
        }
        return {"subject": subject.number, **{name: round(value, 6) for name, value in measured.items()}}

    @torch.inference_mode()
    def _drawn(
        self, model: Any, clip: Any, prompt: str, seeds: Sequence[int], guidance: float
    ) -> NDArray[np.uint8]:
        """Pictures of one prompt by the host's own sampler, one batch: ``(len(seeds), 64, 64, 3)``."""
        import comfy.sample

        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, ""))
        space = model.get_model_object("latent_format")
        shape = (space.latent_channels, *(SIDE // space.spacial_downscale_ratio,) * 2)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        latents = comfy.sample.sample(
            model, noise, STEPS, guidance, "dpmpp_2m", "karras", positive, negative, torch.zeros_like(noise),
            disable_pbar=True, seed=0,
        )  # fmt: skip
        return (self.vae.decode(latents).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def of_part(gallery: Gallery, part: str, branches: Path, subject: Subject) -> Iterator[Row]:
    """Rows of a subject."""
    if part == "real":
        real = subject.real_pictures(gallery.seeds)
        yield {"subject": subject.number, "likeness": gallery.judges.likeness(real, subject.training_pictures())}
    elif part == "base":
        yield gallery.row(subject, gallery.drawn(subject.class_prompts(), gallery.model))
    elif part == "both":
        yield from while_trained(gallery, load(branches / "reference.safetensors"), subject)
    else:
        model = gallery.with_branch(load(branches / f"{part}.safetensors"), subject)
        yield gallery.row(subject, gallery.drawn(subject.class_prompts(), model, frames=part == "first"))


def while_trained(gallery: Gallery, branch: Adapter, subject: Subject) -> Iterator[Row]:
    """A subject's own adapter, trained with the pack's default settings, at some of its steps: alone, and with the
    branch looking at one of its pictures."""
    from krona_host.patching.apply import apply_adapter

    for steps, adapter in trained(gallery, subject).items():
        applied = apply_adapter(adapter, gallery.model, gallery.clip)
        for name, model in (("alone", applied.model), ("with", gallery.with_branch(branch, subject, applied.model))):
            row = gallery.row(subject, gallery.drawn(subject.prompts(), model, applied.clip))
            yield {**row, "adapter": name, "steps": steps}


def trained(gallery: Gallery, subject: Subject) -> dict[int, Adapter]:
    """The subject's adapter at `MOMENTS` and at its end, by steps."""
    from krona_train import fit
    from krona_train.run.events import Event, Saved
    from krona_train.run.requests import Ask

    material = Studio(gallery.seeds).material(subject, as_it_comes(subject.number))
    kept: dict[int, Adapter] = {}
    step = count()

    def keep_it(event: Event) -> None:
        if isinstance(event, Saved) and event.adapter is not None:
            kept[event.state.step] = event.adapter

    def at_moments() -> Ask:
        return Ask.SAVE if next(step) in MOMENTS else Ask.NOTHING

    kept[material.config.steps] = fit(material.backbone, material.items, material.config, keep_it, asked=at_moments)
    return dict(sorted(kept.items()))


def short_hash(file: Path) -> str:
    """Of a branch's file: which one a row is about."""
    return sha256(file.read_bytes()).hexdigest()[:12]


def written(file: Path, rows: Sequence[Row], about: Row) -> None:
    """The rows in the place of those of the same parts and subjects that were there."""
    keep_among(
        file,
        about,
        rows,
        ("part", "subject"),
        lambda row: (PARTS.index(row["part"]), row["subject"], row.get("steps", 0)),
    )


def main() -> None:
    """Judge what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--branches", type=Path, default=ROOT / "samples" / "world")
    parser.add_argument("--subjects", default=",".join(map(str, range(COUNT))))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    host.start()
    gallery, made_by = Gallery(options.seeds), commit()
    for part in [part for part in PARTS if part in options.parts.split(",")]:
        rows, file = [], options.branches / f"{'reference' if part == 'both' else part}.safetensors"
        branch = {"branch": short_hash(file)} if file.is_file() else {}
        for subject in map(Subject, map(int, options.subjects.split(","))):
            for row in of_part(gallery, part, options.branches, subject):
                rows.append({"part": part, **row, "seeds": options.seeds, **branch, "commit": made_by})
                say(json.dumps(rows[-1]))
        about = {**circumstances("branches"), "judged by": judged_by()}
        written(options.results / f"branches-{machine()}.json", rows, about)
        say(
            f"{part}: likeness {np.mean([r['likeness'] for r in rows]):.4f}, least {min(r['likeness'] for r in rows):.4f}"
        )


if __name__ == "__main__":
    main()
