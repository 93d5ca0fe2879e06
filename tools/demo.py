"""The demo: train on a few pictures inside a real ComfyUI, save, load, apply, render before and after.

    make demo                                                          # a tiny random model, a minute on two cores
    make demo CHECKPOINT=model.safetensors IMAGES=folder PROMPT="a photo of sks dog"   # your own

Settings are environment variables: CHECKPOINT, IMAGES, PROMPT, STEPS, LEARNING_RATE, SEED, OUT.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACK = Path(__file__).absolute().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of tools/, whose server.py would hide ComfyUI's

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from tqdm import tqdm  # noqa: E402

from krona_ops import read_header  # noqa: E402
from tools import tiny_models  # noqa: E402
from tools.make_workflows import APPLY, FOLDER, TRAIN  # noqa: E402
from tools.server import Client, ClientError, Event, Result, Server, ServerFailed  # noqa: E402
from tools.workflow import Graph, to_api  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """What a user can replace."""

    checkpoint: Path | None
    images: Path
    prompt: str
    steps: int
    learning_rate: float
    seed: int
    out: Path

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Settings:
        """From the environment; without a checkpoint, what suits the tiny random model."""
        checkpoint = Path(env["CHECKPOINT"]).expanduser().absolute() if env.get("CHECKPOINT") else None
        images = Path(env.get("IMAGES") or PACK / "samples" / "krobot").expanduser().absolute()
        if checkpoint is not None and not checkpoint.is_file():
            raise SystemExit(f"CHECKPOINT={checkpoint}: there is no such file.")
        if not images.is_dir():
            raise SystemExit(f"IMAGES={images}: there is no such folder.")
        return cls(
            checkpoint=checkpoint,
            images=images,
            prompt=env.get("PROMPT") or "a photo of sks robot",
            steps=int(env.get("STEPS") or (500 if checkpoint else 100)),
            learning_rate=float(env.get("LEARNING_RATE") or (5e-4 if checkpoint else 1e-2)),
            seed=int(env.get("SEED") or 0),
            out=Path(env.get("OUT") or PACK / "demo-output").expanduser().absolute(),
        )

    @property
    def is_random(self) -> bool:
        return self.checkpoint is None


class Clock:
    """Prints a line for each step and how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        print(f"[{len(self.seconds) + 1}] {what} ...", flush=True)
        start = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - start
        print(f"    done in {self.seconds[what]:.1f} s", flush=True)


def graph_of(name: str, client: Client, changes: Mapping[str, Mapping[str, object]]) -> Graph:
    """One of the shipped workflows with some inputs changed, by the class of the node."""
    workflow = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    graph = to_api(workflow, client.object_info())
    for entry in graph.values():
        entry["inputs"].update(changes.get(entry["class_type"], {}))
    return graph


def follow(client: Client, graph: Graph, kind: str, label: str) -> Result:
    """Run a graph with a progress bar for the nodes of one class."""
    ours = {key for key, entry in graph.items() if entry["class_type"] == kind}
    often = 0.2 if sys.stdout.isatty() else 10  # a log file keeps every redrawn line
    bar = tqdm(desc=f"    {label}", unit="step", dynamic_ncols=True, file=sys.stdout, mininterval=often, miniters=0)
    done: dict[str, int] = {}

    def show(event: Event) -> None:
        if event.type == "progress" and event.data["node"] in ours:
            done[event.data["node"]] = event.data["value"]
            bar.total = event.data["max"] * len(ours)
            bar.update(sum(done.values()) - bar.n)

    with bar:
        return client.run(graph, show, timeout=24 * 3600)


def picture(client: Client, result: Result, node: str, path: Path) -> Image.Image:
    """Fetch the one picture that a node made and keep a copy."""
    [file] = result.files(node)
    path.write_bytes(client.view(**file))
    return Image.open(path).convert("RGB")


def side_by_side(before: Image.Image, after: Image.Image, path: Path) -> None:
    """Both pictures in one, labelled."""
    side = max(256, before.height)
    sheet = Image.new("RGB", (2 * side + 12, side + 30), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (image, label) in enumerate(((before, "before: the base model"), (after, "after: with the adapter"))):
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (column * (side + 12), 30))
        pen.text((column * (side + 12) + 4, 6), label, fill="black", font=ImageFont.load_default(size=16))
    sheet.save(path)


def main() -> int:
    """Run the demo; the exit status."""
    settings = Settings.read(os.environ)
    clock = Clock()
    shutil.rmtree(settings.out / "comfyui" / "models" / "checkpoints", ignore_errors=True)
    base = settings.out / "comfyui"
    checkpoints = base / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)

    print("KronA demo")
    if settings.is_random:
        print(
            "  There is no CHECKPOINT, so a tiny RANDOM model of the SD1.5 kind is used. It cannot draw. What you can see with it:\n"
            "  the whole way works, the loss falls, and the adapter changes the picture. It learns at a rate of 0.01, twenty times\n"
            '  the default for real models. For a real result: make demo CHECKPOINT=/path/to/model.safetensors [IMAGES=… PROMPT="…"]'
        )
        with clock.step("building the random model (once)"):
            source = tiny_models.cached("sd15")
    else:
        source = settings.checkpoint
    (checkpoints / source.name).symlink_to(source)
    sides = {"resolution": 128} if settings.is_random else {}

    with clock.step("starting ComfyUI"):
        server = Server(base, packs={"krona": PACK})
        server.start()
    try:
        client = server.client
        loader = {"CheckpointLoaderSimple": {"ckpt_name": source.name}}
        with clock.step(f"training on {settings.images.name}, {settings.steps} steps, and saving"):
            graph = graph_of(
                TRAIN,
                client,
                loader
                | {
                    "KronaDataset": {"prompt": settings.prompt, "folder": str(settings.images), **sides},
                    "KronaTrain": {
                        "steps": settings.steps,
                        "learning_rate": settings.learning_rate,
                        "seed": settings.seed,
                        "name": "demo",
                    },
                    "KronaSave": {"filename_prefix": "krona/demo"},
                },
            )
            trained = follow(client, graph, "KronaTrain", "training")
        [saved] = trained.outputs["4"]["files"]
        adapter = base / "output" / saved["subfolder"] / saved["filename"]
        curve = picture(client, trained, "3", settings.out / "loss.png")
        picture(client, trained, "5", settings.out / "dataset.png")
        shutil.copy(adapter, settings.out / "adapter.safetensors")

        with clock.step("loading and applying the adapter, rendering before and after"):
            side = 256 if settings.is_random else trained_side(adapter)
            size = {"width": side, "height": side}
            graph = graph_of(
                APPLY,
                client,
                loader
                | {"KronaLoadApply": {"file": adapter.name}, "EmptyLatentImage": size, "KSampler": {"seed": settings.seed}},
            )
            graph["3"]["inputs"]["text"] = settings.prompt
            rendered = follow(client, graph, "KSampler", "sampling")
        before = picture(client, rendered, "10", settings.out / "before.png")
        after = picture(client, rendered, "11", settings.out / "after.png")
        side_by_side(before, after, settings.out / "before-after.png")
    finally:
        server.stop()

    rows = [json.loads(line) for line in metrics_of(base).read_text(encoding="utf-8").splitlines()]
    losses = [row["loss"] for row in rows if row["event"] == "step"]
    tail = max(1, len(losses) // 5)
    difference = np.abs(np.asarray(before, dtype=float) - np.asarray(after, dtype=float))
    print(f"\nThe loss went from {np.mean(losses[:tail]):.3f} (first fifth) to {np.mean(losses[-tail:]):.3f} (last fifth).")
    print(f"The adapter changes the picture by {difference.mean():.1f} of 255 on average, {difference.max():.0f} at most.")
    print("\nResults:")
    for name, what in (
        ("adapter.safetensors", f"the adapter, {adapter.stat().st_size:,} bytes"),
        ("dataset.png", "what it was trained on"),
        ("loss.png", f"the loss curve, {curve.width} × {curve.height}"),
        ("before.png", "the base model"),
        ("after.png", "with the adapter, same seed and prompt"),
        ("before-after.png", "both"),
    ):
        print(f"  {settings.out / name}   {what}")
    print("\nSeconds: " + ", ".join(f"{what} {seconds:.1f}" for what, seconds in clock.seconds.items()))
    return 0


def trained_side(adapter: Path) -> int:
    """The side of the training pictures, as the adapter's file says: what the model was made for."""
    return int(read_header(adapter).metadata["ss_resolution"].strip("()").split(",")[0])


def metrics_of(base: Path) -> Path:
    """The metrics of the newest run."""
    return max((base / "output" / "krona").glob("demo*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ClientError, ServerFailed) as error:
        sys.exit(f"\nThe demo failed: {error}")
