"""Parallel branches on the small world: trained on many characters, judged on those that nothing was trained on.

    python3 tools/host.py run benchmarks/world/branches.py train --mode reference --folder FOLDER [--steps 700]
    python3 tools/host.py run benchmarks/world/branches.py judge --mode reference --folder FOLDER

A training that was stopped goes on. Characters have numbers below those of the subjects, five pictures each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.world.command import say  # noqa: E402
from benchmarks.world.draw import GUIDANCE, STEPS  # noqa: E402
from benchmarks.world.grammar import Scene, caption, draw_scene, who  # noqa: E402
from benchmarks.world.measure import PROMPT, Judges  # noqa: E402
from benchmarks.world.pictures import Shot, rendered  # noqa: E402
from benchmarks.world.render import SIDE  # noqa: E402
from benchmarks.world.subjects import SCENES, Subject, subjects  # noqa: E402
from krona_ops import Adapter, TargetRule, load, save  # noqa: E402
from krona_ops.names.branches import Mode  # noqa: E402

CHARACTERS, PICTURES = 2500, 5
"""To learn from: so many characters, so many pictures of each."""
COLOUR = 0.5
"""How often a caption says the colour; the rest must come from what the branch looks at."""
GROUPS = 4
"""Of a step."""
RATE = 5e-4
FASTER = 20.0
"""Factors learn at 1e-2, gates at 2e-2."""
SEEDS = 4
"""Pictures of each prompt."""


def shot(n: int) -> Shot:
    """The n-th picture: even characters, as for pre-training, each in several scenes."""
    number = 2 * (n // PICTURES)
    rng = np.random.default_rng([20_30, n])
    from benchmarks.world.characters import character

    someone, scene = character(number), draw_scene(rng)
    paint = someone.paint if rng.uniform() < COLOUR else None
    return Shot(number, scene, caption(scene, who(someone.kind, paint)), int(rng.integers(2**31)))


def settings(mode: Mode, steps: int, seed: int = 0) -> Any:
    """How the branches of the world are trained."""
    from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
    from krona_train.objectives.branch_config import BranchConfig

    return TrainConfig(
        steps=steps,
        batch_size=GROUPS,
        seed=seed,
        save_every=100,
        adapter=AdapterConfig(targets=(TargetRule((4, 4), rate=FASTER),)),
        optimizer=OptimizerConfig(learning_rate=RATE, rate_by_width=0.0, schedule="cosine", warmup=steps // 20),
        objective=BranchConfig(mode=mode, embedded_guidance=0.0),
    )


@torch.inference_mode()
def groups(clip: Any, vae: Any, pictures: NDArray[np.uint8]) -> list[Any]:
    """The characters' pictures, encoded."""
    from krona_train.batches.examples import Example, Group, Item
    from krona_train.comfyui.encode import PictureSize, TextCondition

    latents = torch.cat(
        [
            vae.encode(torch.from_numpy(part).float() / 255)
            for part in np.array_split(pictures, max(1, len(pictures) // 250))
        ]
    )
    texts: dict[str, Any] = {}
    size = PictureSize(SIDE, SIDE, 0, 0, SIDE, SIDE)
    examples = []
    for n, latent in enumerate(latents):
        said = shot(n).caption
        if said not in texts:
            embedding, pooled = clip.encode_from_tokens(clip.tokenize(said), return_pooled=True)
            texts[said] = TextCondition(embedding, {} if pooled is None else {"pooled_output": pooled}, size)
        examples.append(Item((Example(latent.clone(), texts[said], said),)))
    return [Group(tuple(examples[n : n + PICTURES])) for n in range(0, len(examples), PICTURES)]


def train(mode: Mode, folder: Path, steps: int, characters: int) -> Adapter:
    """A branch of a mode, from where an earlier run has stopped."""
    from krona_host.model.small_world import load_world
    from krona_train import fit
    from krona_train.comfyui.encode import ComfyEncoder
    from krona_train.comfyui.model import ComfyBackbone
    from krona_train.run.events import Event, Stepped, to_all
    from krona_train.run.folder import Run
    from krona_train.run.state import newest_whole

    model, clip, vae = load_world()
    pictures = rendered(folder / "groups.u8", shot, characters * PICTURES, say)
    data = groups(clip, vae, pictures)
    say(f"{len(data)} groups")
    config = settings(mode, steps)
    place = folder / f"{mode}-{steps}"
    losses, began = [], time.monotonic()

    def tell(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.loss)
            if event.step % 50 == 0:
                each = (time.monotonic() - began) / len(losses)
                say(f"step {event.step} of {steps}: loss {np.mean(losses[-50:]):.4f}, {each:.2f} s each")

    resume = newest_whole(place) if place.exists() else None
    empty = ComfyEncoder(clip, vae).encode_captions([""])[""]
    backbone = ComfyBackbone(model, without=empty, guidance=0.0)
    adapter = fit(backbone, data, config, to_all(Run(place, config, {}), tell), resume)
    save(adapter.with_metadata(**{"krona.branch": mode}), folder / f"{mode}.safetensors")
    return adapter


@torch.inference_mode()
def drawn(
    model: Any, clip: Any, vae: Any, said: str, seeds: Sequence[int], start: torch.Tensor | None = None
) -> NDArray[np.uint8]:
    """Pictures of one prompt by the host's own sampler, one batch."""
    import comfy.sample

    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (said, ""))
    space = model.get_model_object("latent_format")
    shape = (space.latent_channels, *(SIDE // space.spacial_downscale_ratio,) * 2)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    latents = comfy.sample.sample(
        model, noise, STEPS, GUIDANCE, "dpmpp_2m", "karras", positive, negative, torch.zeros_like(noise) if start is None else start,
        disable_pbar=True, seed=0,
    )  # fmt: skip
    return (vae.decode(latents).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def judge(mode: Mode, adapter: Adapter | None, of: Sequence[Subject], seeds: int, **use: Any) -> list[dict[str, Any]]:
    """Rows by subject: likeness to its pictures, and whether prompts are kept."""
    from krona_host.branches.apply import Use, apply_branches
    from krona_host.model.small_world import load_world

    model, clip, vae = load_world()
    judges, rows = Judges(), []
    for subject in of:
        real = subject.training_pictures()
        with torch.inference_mode():
            reference = vae.encode(torch.from_numpy(real[:1]).float() / 255)
        looks = mode in ("reference", "first")
        patched = model
        if adapter is not None:
            patched, _ = apply_branches(adapter, model, Use(reference=reference if looks else None, **use))
        pictures = []
        for number, said in enumerate(subject.class_prompts()):
            noises = [number * seeds + n for n in range(seeds)]
            if mode == "first" and adapter is not None:
                pictures.append(drawn(patched, clip, vae, said, [10_000, *noises])[1:])
            else:
                pictures.append(drawn(patched, clip, vae, said, noises))
        scenes = [Scene(*scene) for scene in SCENES for _ in range(seeds)]
        together = np.concatenate(pictures)
        accuracy = judges.accuracy(together, scenes)
        row = {
            "subject": subject.number,
            "likeness": judges.likeness(together, real),
            "prompt": float(np.mean([accuracy[name] for name in PROMPT])),
        }
        if mode not in ("reference", "first"):
            # Two groups of different noise: how alike are views within one, and across them?
            who_ = [judges._who(group) for group in pictures]
            within = [float((w @ w.mT).sum() - len(w)) / (len(w) * (len(w) - 1)) for w in who_]
            across = [float((a @ b.mT).mean()) for i, a in enumerate(who_) for b in who_[:i]]
            row |= {"within": float(np.mean(within)), "across": float(np.mean(across))}
        rows.append(row)
        say(json.dumps(row))
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "judge", "base"))
    parser.add_argument("--mode", choices=get_args(Mode), default="reference")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--characters", type=int, default=CHARACTERS)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--end", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    host.start()
    if options.what == "train":
        train(options.mode, options.folder, options.steps, options.characters)
        return
    adapter = None if options.what == "base" else load(options.folder / f"{options.mode}.safetensors")
    more = {"strength": options.strength, "end": options.end}
    rows = judge(
        options.mode, adapter, subjects(options.subjects), options.seeds, **(more if adapter is not None else {})
    )
    names = [name for name in rows[0] if name != "subject"]
    say(", ".join(f"{name} {np.mean([row[name] for row in rows]):.4f}" for name in names))
    say(f"least likeness {min(row['likeness'] for row in rows):.4f}")


if __name__ == "__main__":
    main()
