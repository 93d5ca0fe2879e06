"""How well the small world's base with two levels draws at sizes that it was not trained at, without and with adapters.

    python3 tools/host.py run benchmarks/world/judge_resolutions.py --adapters FOLDER [--parts real,autoencoder,base,both] [--sides 48,64,96]

``real`` are rendered pictures, ``autoencoder`` the same through the autoencoder: no drawing can be judged better.
``base`` draws without an adapter; any other part is a recipe of ``train_resolutions.py``. All draw the same scenes,
which nothing was trained on, from the same noises. The judges look at 64 pixels, so pictures of other sizes are
resampled for them. A part replaces its rows of the same sides in ``results/resolutions-<machine>.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of benchmarks/world/, so that `benchmarks` is a package

from benchmarks import host  # noqa: E402
from benchmarks.command import RESULTS  # noqa: E402
from benchmarks.contest import circumstances, commit, keep_among, machine  # noqa: E402
from benchmarks.quality import WITH_TWO_LEVELS, judged_by  # noqa: E402
from benchmarks.world.autoencoder import pixels  # noqa: E402
from benchmarks.world.command import say  # noqa: E402
from benchmarks.world.draw import draw  # noqa: E402
from benchmarks.world.grammar import caption, who  # noqa: E402
from benchmarks.world.judge_branches import short_hash  # noqa: E402
from benchmarks.world.judges import HEADS  # noqa: E402
from benchmarks.world.pictures import Shot, held_out, picture  # noqa: E402
from benchmarks.world.render import SIDE  # noqa: E402
from benchmarks.world.train_judges import truths  # noqa: E402
from benchmarks.world.train_resolutions import RECIPES  # noqa: E402
from krona_ops import load  # noqa: E402
from krona_train.evaluation.small_world import SmallWorldJudge  # noqa: E402

WAYS = ("real", "autoencoder", "base")
"""Without an adapter."""
SIDES = (48, 64, 96, 128)
Row = dict[str, Any]


def for_the_judges(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(N, side, side, 3)`` to ``(N, 64, 64, 3)``: larger ones by their mean over areas, smaller ones bicubic."""
    side = pictures.shape[1]
    if side == SIDE:
        return pictures
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, SIDE, mode="area") if side > SIDE else F.interpolate(x, SIDE, mode="bicubic")
    return x.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


class Gallery:
    """The world's model, its judges, and the scenes that are asked for.

    Args:
        count: Of scenes, each of a character of its own.
    """

    def __init__(self, count: int) -> None:
        from krona_host.model.small_world import load_world

        self.model: Any
        self.clip: Any
        self.vae: Any
        with torch.inference_mode():
            self.model, self.clip, self.vae = load_world(base="two levels")
        self.judge = SmallWorldJudge()
        self.shots: list[Shot] = [held_out(4 * n) for n in range(count)]

    def real(self, side: int) -> NDArray[np.uint8]:
        """The scenes as the renderer shows them."""
        return np.stack([picture(shot, side) for shot in self.shots])

    @torch.inference_mode()
    def through_the_autoencoder(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Encoded and decoded."""
        again = self.vae.decode(self.vae.encode(torch.from_numpy(pictures).float() / 255))
        return (again.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()

    def drawn(self, model: Any, side: int) -> NDArray[np.uint8]:
        """The scenes as a model draws them."""
        captions = [caption(each.scene, who(each.character.kind, each.character.paint)) for each in self.shots]
        return draw(model, self.clip, self.vae, captions, range(len(captions)), side=side)

    @torch.inference_mode()
    def row(self, pictures: NDArray[np.uint8]) -> dict[str, float]:
        """Share of pictures that show what was asked for: by attribute, their ``mean``, and ``all`` of them at once."""
        scores, truth = self.judge.attributes(pixels(for_the_judges(pictures))), truths(self.shots)
        right = {name: scores[name].argmax(1) == truth[name] for name in HEADS}
        shares = {name: float(values.float().mean()) for name, values in right.items()}
        everything = torch.stack(list(right.values())).all(0)
        values = {"mean": float(np.mean(list(shares.values()))), "all": float(everything.float().mean()), **shares}
        return {name: round(value, 6) for name, value in values.items()}


def adapted(gallery: Gallery, file: Path) -> Any:
    """The model with a recipe's adapter."""
    from krona_host.patching.apply import apply_adapter

    return apply_adapter(load(file), gallery.model, None, 1.0).model


def written(file: Path, rows: Sequence[Row], about: Row) -> None:
    """The rows in the place of those of the same part and side that were there."""
    order = [*WAYS, *RECIPES]
    keep_among(file, about, rows, ("part", "side"), lambda row: (order.index(row["part"]), row["side"]))


def main() -> None:
    """Judge what is asked for, size by size; every row is kept as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=Path, default=ROOT / "world-work" / "resolutions")
    parser.add_argument("--parts", default=",".join([*WAYS, *RECIPES]))
    parser.add_argument("--sides", default="48,64,96")
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    host.start()
    gallery = Gallery(options.count)
    shared = {"pictures": options.count, "commit": commit()}
    for part in options.parts.split(","):
        about: Row = {}
        model = gallery.model
        if part in RECIPES:
            file = options.adapters / f"{part}.safetensors"
            adapter = load(file)
            steps = json.loads(adapter.metadata["krona.config"])["steps"]
            model, about = (
                adapted(gallery, file),
                {"adapter": short_hash(file), "numbers": adapter.parameters, "steps": steps},
            )
        for side in map(int, options.sides.split(",")):
            if part in ("real", "autoencoder"):
                pictures = gallery.real(side)
                if part == "autoencoder":
                    pictures = gallery.through_the_autoencoder(pictures)
            else:
                pictures = gallery.drawn(model, side)
            row = {"part": part, "side": side, **gallery.row(pictures), **about, **shared}
            say(json.dumps(row))
            where = {**circumstances("resolutions"), "judged by": judged_by(names=WITH_TWO_LEVELS)}
            written(options.results / f"resolutions-{machine()}.json", [row], where)


if __name__ == "__main__":
    main()
