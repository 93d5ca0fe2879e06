"""How good the small world's distilled adapters are, beside what they shall replace.

    python3 tools/host.py run benchmarks/world/judge_distilled.py --adapters FOLDER [--parts teacher,plain,base,pairs-mse]

``teacher`` draws with guidance in as many steps as usual, ``plain`` in as many without guidance, ``base`` in one step
without guidance; any other part is a recipe of ``train_distilled.py``, drawn as it is made for. All draw the same
prompts from the same noises; nothing was trained on these noises, while a prompt may have come in training by chance. A part replaces its row in
``results/distilled-<machine>.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.command import RESULTS  # noqa: E402
from benchmarks.contest import circumstances, commit, keep_among, machine  # noqa: E402
from benchmarks.quality import judged_by  # noqa: E402
from benchmarks.world.autoencoder import pixels  # noqa: E402
from benchmarks.world.command import say  # noqa: E402
from benchmarks.world.draw import GUIDANCE, STEPS  # noqa: E402
from benchmarks.world.judge_branches import short_hash  # noqa: E402
from benchmarks.world.measure import Judges  # noqa: E402
from benchmarks.world.render import SIDE  # noqa: E402
from benchmarks.world.summary import interval  # noqa: E402
from benchmarks.world.train_distilled import RECIPES, Asked, asked, prompts  # noqa: E402
from krona_ops import Adapter, load  # noqa: E402
from krona_ops.formats.guidance import KEY, guidance_of  # noqa: E402

if TYPE_CHECKING:
    from krona_train.objectives.rollouts import Rollouts

JUDGED = 1
"""The stream of prompts that nothing is trained on."""
CUT = 0.15
"""Frequencies above it are high, in cycles per pixel."""
TOGETHER = 8
"""Pictures of one batch."""
DRAWN, ASKED_FOR = 24, (2.0, 3.0, 5.0)
"""So many drawings with each of these guidances, to see how far an adapter is from them."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How pictures are drawn."""

    steps: int
    guidance: float = 1.0

    @property
    def calls(self) -> int:
        """Passes of the model for each picture."""
        return self.steps * (1 if self.guidance == 1 else 2)


WAYS = {"teacher": Way(STEPS, GUIDANCE), "plain": Way(STEPS), "base": Way(1)}
"""Without an adapter."""


@dataclass(frozen=True)
class Drawn:
    """Pictures, those of one prompt together."""

    latents: Tensor
    """``(N, C, h, w)`` in the model's own scale."""
    pictures: NDArray[np.uint8]
    """``(N, 64, 64, 3)``."""


class Gallery:
    """The world's model, its judges, and what they are asked about.

    Args:
        prompts: So many of them.
        seeds: Pictures of each.
    """

    def __init__(self, prompts: int, seeds: int) -> None:
        from krona_host.model.small_world import load_world

        self.model: Any
        self.clip: Any
        self.vae: Any
        self.model, self.clip, self.vae = load_world()
        self.judges, self.seeds = Judges(), seeds
        self.asked: list[Asked] = [asked(JUDGED, n) for n in range(prompts) for _ in range(seeds)]

    @torch.inference_mode()
    def draw(self, model: Any, way: Way) -> Drawn:
        """Every prompt, by the host's own sampler."""
        import comfy.sample

        space = model.get_model_object("latent_format")
        shape = (space.latent_channels, *(SIDE // space.spacial_downscale_ratio,) * 2)
        texts = {text: self.clip.encode_from_tokens(self.clip.tokenize(text)) for text in {a.text for a in self.asked}}
        none = self.clip.encode_from_tokens(self.clip.tokenize(""))
        latents = []
        for start in range(0, len(self.asked), TOGETHER):
            here = range(start, min(start + TOGETHER, len(self.asked)))
            noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in here])
            positive = torch.cat([texts[self.asked[n].text] for n in here])
            latents.append(
                comfy.sample.sample(
                    model, noise, way.steps, way.guidance, "dpmpp_2m", "karras", [[positive, {}]],
                    [[none.expand_as(positive), {}]], torch.zeros_like(noise), disable_pbar=True, seed=0,
                )
            )  # fmt: skip
        drawn = torch.cat(latents)
        shown = (self.vae.decode(drawn).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return Drawn(model.model.process_latent_in(drawn), shown)

    def row(self, drawn: Drawn, teacher: Drawn) -> Row:
        """What the judges and the numbers say."""
        from krona_train.objectives.frequencies import high_share

        x = pixels(drawn.pictures)
        right = self.all_right(x)
        texts = [each.text for each in self.asked]
        agreement = [self.judges.agreement(drawn.pictures[n : n + 1], [text]) for n, text in enumerate(texts)]
        values = {
            "frequencies": float(high_share((x + 1) / 2, CUT).mean()),
            "mirrored": float(high_share(mirrored((x + 1) / 2), CUT).mean()),
            "latents_error": float((drawn.latents - teacher.latents).square().mean()),
            "pixels_error": float((x - pixels(teacher.pictures)).square().mean() / 4),
            "accuracy": float(np.mean(right)),
            "agreement": float(np.mean(agreement)),
            "diversity": self.varied(x),
        }
        of_prompt = [n // self.seeds for n in range(len(self.asked))]
        intervals = {
            "accuracy 95 %": interval(right, of_prompt),
            "agreement 95 %": interval(agreement, of_prompt),
        }
        return {name: round(value, 6) for name, value in values.items()} | {
            name: [round(end, 6) for end in ends] for name, ends in intervals.items() if ends is not None
        }

    @torch.inference_mode()
    def all_right(self, x: Tensor) -> list[float]:
        """Of each picture, 1 where it shows everything that was asked for; a colour counts where the prompt says it."""
        scores = self.judges.attributes(x)
        is_right = torch.ones(len(x), dtype=torch.bool)
        for name, values in self.judges.heads.items():
            truth = [getattr(each.scene if hasattr(each.scene, name) else each, name) for each in self.asked]
            said = torch.tensor([value is not None for value in truth])
            numbers = torch.tensor([values.index(value) if value is not None else 0 for value in truth])
            is_right &= (scores[name].argmax(1) == numbers) | ~said
        return is_right.double().tolist()

    def varied(self, x: Tensor) -> float:
        """Variance over the pictures of one prompt, pixel by pixel in [0, 1]; 0 of single pictures."""
        if self.seeds < 2:
            return 0.0
        return float((x / 2).unflatten(0, (-1, self.seeds)).var(1).mean())


def mirrored(x: Tensor) -> Tensor:
    """Pictures ``(..., H, W)`` with their mirror images beside and below, so that opposite borders fit together.

    The Fourier transform takes a picture as one tile of many, and where its left border is another colour than its right
    one, the jump has high frequencies that nobody sees: a tenth of the teacher's share, and four tenths of the base's in one
    step.
    """
    x = torch.cat([x, x.flip(-1)], -1)
    return torch.cat([x, x.flip(-2)], -2)


def adapted(gallery: Gallery, part: str, adapter: Adapter) -> tuple[Any, Way]:
    """The model with a recipe's adapter, and how it is drawn with: one that has learnt guidance at the teacher's."""
    from krona_host.patching.apply import apply_adapter

    strength = guidance_of(adapter.metadata).strength(GUIDANCE) if KEY in adapter.metadata else 1.0
    return apply_adapter(adapter, gallery.model, None, strength).model, Way(RECIPES[part].calls)


def drawn_as_learnt(adapter: Adapter, guidance: float) -> Rollouts:
    """Drawings by the sampler and the scheduler of those that an adapter has learnt from; files from before they could be
    chosen name none."""
    from krona_train.objectives.rollouts import Rollouts

    objective = json.loads(adapter.metadata["krona.config"])["objective"]
    chosen: dict[str, Any] = {name: objective[name] for name in ("sampler", "scheduler") if name in objective}
    return Rollouts(DRAWN, STEPS, guidance, guidance, **chosen)


@torch.no_grad()
def guidance_errors(gallery: Gallery, adapter: Adapter) -> dict[str, float]:
    """How far one pass with the adapter is from the guided prediction, on the states of guided drawings of prompts that
    it has not seen, by the sampler of its training; 1 is the model without the adapter. By guidance."""
    from krona_host.patching.apply import apply_adapter
    from krona_train.comfyui.model import ComfyBackbone
    from krona_train.comfyui.rollouts import roll_out
    from krona_train.comfyui.sampling import encode_prompts

    guided, texts = guidance_of(adapter.metadata), [asked(JUDGED, n).text for n in range(DRAWN)]
    items = prompts(gallery.model, gallery.clip, gallery.vae, texts)
    [negative] = encode_prompts(gallery.clip, [guided.negative])
    errors = {}
    for guidance in ASKED_FOR:
        how = drawn_as_learnt(adapter, guidance)
        rolled = roll_out(
            gallery.model, items, negative, how, seed=JUDGED, at_once=TOGETHER, identity=None, cache=None, told=_quietly
        )
        squared = []
        adapted: Any = apply_adapter(adapter, gallery.model, None, guided.strength(guidance)).model
        for model in (adapted, gallery.model):
            backbone = ComfyBackbone(model, guidance=0.0)
            with backbone.ready(), torch.no_grad():
                total = 0.0
                for item in rolled:
                    batch = backbone.collate(item.forms)
                    assert batch.seen is not None
                    x0 = backbone.predict(batch.seen.x_t, batch.seen.sigma, batch.conditions)
                    each = (x0 - batch.seen.x0).square().flatten(1).mean(1)
                    total += float((each * backbone.loss_weight(batch.seen.sigma)).sum())
            squared.append(total)
        errors[f"{guidance:g}"] = round(squared[0] / squared[1], 6)
    return errors


def _quietly(done: int, total: int, what: str) -> None:
    """Tell nobody."""


def written(file: Path, rows: Sequence[Row], about: Row) -> None:
    """The rows in the place of those of the same parts that were there."""
    order = [*WAYS, *RECIPES]
    keep_among(file, about, rows, ("part",), lambda row: order.index(row["part"]))


def main() -> None:
    """Judge what is asked for; the teacher is drawn always."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--parts", default=",".join([*WAYS, *RECIPES]))
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    host.start()
    gallery, rows = Gallery(options.prompts, options.seeds), []
    teacher = gallery.draw(gallery.model, WAYS["teacher"])
    shared = {"prompts": options.prompts, "seeds": options.seeds, "commit": commit()}
    for part in options.parts.split(","):
        about: Row = {}
        if part in WAYS:
            way = WAYS[part]
            drawn = teacher if part == "teacher" else gallery.draw(gallery.model, way)
        else:
            file = options.adapters / f"{part}.safetensors"
            adapter = load(file)
            model, way = adapted(gallery, part, adapter)
            drawn = gallery.draw(model, way)
            steps = json.loads(adapter.metadata["krona.config"])["steps"]
            about = {"adapter": short_hash(file), "numbers": adapter.parameters, "steps": steps}
            if KEY in adapter.metadata:
                about["guidance_errors"] = guidance_errors(gallery, adapter)
        rows.append({"part": part, "calls": way.calls, **gallery.row(drawn, teacher), **about, **shared})
        say(json.dumps(rows[-1]))
    written(
        options.results / f"distilled-{machine()}.json",
        rows,
        {**circumstances("distilled"), "judged by": judged_by(), "cut": CUT},
    )


if __name__ == "__main__":
    main()
