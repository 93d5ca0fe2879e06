"""Train this world's judges and say how good they are.

    python3 tools/host.py run benchmarks/world/train_judges.py --folder FOLDER [--out samples/world/judges.safetensors] [--scale 1.0]

They see rendered pictures, some a little blurred and noisy, because what they judge is drawn by a model. Error rates
are those on pictures of characters that nothing was trained on.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks.world.autoencoder import pixels  # noqa: E402
from benchmarks.world.command import arguments, say  # noqa: E402
from benchmarks.world.grammar import vocabulary  # noqa: E402
from benchmarks.world.judges import HEADS, attributes_loss, image_text_loss, spelled, subject_loss  # noqa: E402
from benchmarks.world.pictures import Shot, for_judges, held_out, rendered  # noqa: E402
from benchmarks.world.stage import Stage, device, fast, optimise, order  # noqa: E402
from krona_train.evaluation.small_world import Attributes, ImageText, SubjectEncoder  # noqa: E402

PICTURES, VIEWS = 24_000, 8
STAGES = {
    "attributes": Stage("judge-attributes", steps=1600, batch=64, rate=1.5e-3, decay=0.99, weight_decay=0.02),
    "subject": Stage("judge-subject", steps=2000, batch=96, rate=1.5e-3, decay=0.99, weight_decay=0.02),
    "image-text": Stage("judge-image-text", steps=1600, batch=96, rate=1.5e-3, decay=0.99, weight_decay=0.02),
}
GALLERY = 50
"""Characters among whom the right one is to be found."""


def truths(shots: list[Shot]) -> dict[str, Tensor]:
    """What the pictures show, as numbers of values: ``(N,)`` for each attribute."""
    numbers: dict[str, list[int]] = {name: [] for name in HEADS}
    for each in shots:
        someone = each.character
        values = {"kind": someone.kind, "paint": someone.paint, **each.scene.__dict__}
        for name, list_ in numbers.items():
            list_.append(HEADS[name].index(values[name]))
    return {name: torch.tensor(list_) for name, list_ in numbers.items()}


def disturbed(x: Tensor, rng: torch.Generator) -> Tensor:
    """Some blur and some noise, differing from picture to picture."""
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(len(x), 1, 1, 1, generator=rng)
    strength = 0.08 * torch.rand(len(x), 1, 1, 1, generator=rng)
    return x + share * (blurred - x) + strength * torch.randn(x.shape, generator=rng)


def train(folder: Path, scale: float) -> dict[str, torch.nn.Module]:
    """All three."""
    count = max(800, round(PICTURES * min(1.0, scale)) // 800 * 800)
    images = rendered(folder / "judges.rgb", for_judges, count, say)
    shots = [for_judges(n) for n in range(count)]
    truth, words = truths(shots), spelled([each.caption for each in shots])
    torch.manual_seed(0)
    judges: dict[str, torch.nn.Module] = {
        "attributes": Attributes(HEADS),
        "subject": SubjectEncoder(),
        "image-text": ImageText(len(vocabulary())),
    }

    def seen(chosen: np.ndarray, rng: torch.Generator) -> Tensor:
        return disturbed(pixels(images[chosen]), rng).to(device())

    for name, judge in judges.items():
        stage = dataclasses.replace(STAGES[name], steps=max(2, round(STAGES[name].steps * scale)))

        def loss(step: int, judge: torch.nn.Module = judge, stage: Stage = stage) -> Tensor:
            rng = torch.Generator().manual_seed(step)
            if isinstance(judge, SubjectEncoder):
                who = order(count // VIEWS, stage.batch, step, 4)
                views = torch.stack([torch.randperm(VIEWS, generator=rng)[:2] for _ in who]).numpy()
                with fast():
                    return subject_loss(
                        judge, seen(who * VIEWS + views[:, 0], rng), seen(who * VIEWS + views[:, 1], rng)
                    )
            chosen = order(count, stage.batch, step, 3)
            with fast():
                x = seen(chosen, rng)
                if isinstance(judge, ImageText):
                    return image_text_loss(judge, x, words[chosen].to(device()))
                assert isinstance(judge, Attributes)
                return attributes_loss(judge, x, {key: values[chosen].to(device()) for key, values in truth.items()})

        optimise(stage, judge.to(device()), loss, folder, say)
        judge.cpu()
    return judges


@torch.no_grad()
def rates_on(judge: Any, images: np.ndarray, shots: list[Shot]) -> dict[str, float]:
    """Shares of right answers.

    Args:
        judge: Has the networks ``attributes``, ``subject`` and ``image_text``.
        images: ``(N, 64, 64, 3)``, characters in fours, a multiple of `GALLERY` characters.
        shots: Of each.
    """
    x, truth = pixels(images), truths(shots)
    scores = judge.attributes(x)
    rates = {name: float((scores[name].argmax(1) == truth[name]).float().mean()) for name in HEADS}

    vectors = judge.subject(x).view(-1, 4, 64)  # held-out characters come in fours
    first = []
    for start in range(0, len(vectors) - GALLERY + 1, GALLERY):
        group = vectors[start : start + GALLERY]
        nearest = (group[:, 3] @ group[:, :3].mean(1).mT).argmax(1)  # three pictures are known, as of a subject's four
        first.append((nearest == torch.arange(GALLERY)).float().mean())
    rates[f"subject, first among {GALLERY}"] = float(torch.stack(first).mean())

    seen, captions = judge.image_text.pictures(x), judge.image_text.captions(spelled([each.caption for each in shots]))
    right = [
        (seen[n : n + GALLERY] @ captions[n : n + GALLERY].mT).argmax(1) == torch.arange(GALLERY)
        for n in range(0, len(shots), GALLERY)
    ]
    rates[f"caption, first among {GALLERY}"] = float(torch.cat(right).float().mean())
    return rates


def main() -> None:
    """Train, judge the judges, write."""
    options = arguments(__doc__, ROOT / "samples" / "world" / "judges.safetensors")
    judges = train(options.folder, options.scale)
    count = 2000
    images = rendered(options.folder / "held-out.rgb", held_out, count, say)
    named = SimpleNamespace(**{name.replace("-", "_"): judge for name, judge in judges.items()})
    right = rates_on(named, images, [held_out(n) for n in range(count)])
    for name, rate in right.items():
        say(f"{name}: {100 * rate:.1f} % right")
    tensors = {
        f"{name}.{key}": tensor.half().contiguous()
        for name, judge in judges.items()
        for key, tensor in judge.state_dict().items()
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors,
        options.out,
        metadata={"right": json.dumps(right), "heads": json.dumps(HEADS), "words": json.dumps(vocabulary())},
    )
    say(f"written {options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
