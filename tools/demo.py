"""The demo: train on a few pictures inside a real ComfyUI, save, load, apply, render before and after.

    make demo                                                          # the pack's own small world, three minutes on two cores
    make demo CHECKPOINT=model.safetensors IMAGES=folder PROMPT="a photo of sks dog"   # your own

Settings are environment variables: CHECKPOINT, IMAGES, PROMPT, STEPS, LEARNING_RATE, SEED, SAMPLER_STEPS, OUT.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

PACK = Path(__file__).absolute().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from tqdm import tqdm  # noqa: E402

from krona_ops import read_header  # noqa: E402
from krona_train import TrainConfig  # noqa: E402
from tools.comfyui.server import Client, ClientError, Event, Result, Server, ServerFailed  # noqa: E402
from tools.comfyui.workflow import Graph, to_api  # noqa: E402
from tools.generate.workflows import APPLY, FOLDER, TRAIN, WORLD_BLEND, WORLD_REFERENCE, WORLD_TRAIN, world_prompt  # noqa: E402

DEFAULTS = TrainConfig()
ONE_PICTURE = "one-picture.png"


@dataclass(frozen=True)
class Settings:
    """What a user can replace."""

    checkpoint: Path | None
    images: Path
    prompt: str
    steps: int
    learning_rate: float
    seed: int
    sampler_steps: int | None
    """Of each picture; the workflow's own without it."""
    out: Path

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Settings:
        """From the environment; the trainer's defaults for what is not said."""
        checkpoint = Path(env["CHECKPOINT"]).expanduser().absolute() if env.get("CHECKPOINT") else None
        sample = PACK / "samples" / ("krobot" if checkpoint else "world/robot")
        images = Path(env.get("IMAGES") or sample).expanduser().absolute()
        if checkpoint is not None and not checkpoint.is_file():
            raise SystemExit(f"CHECKPOINT={checkpoint}: there is no such file.")
        if not images.is_dir():
            raise SystemExit(f"IMAGES={images}: there is no such folder.")
        return cls(
            checkpoint=checkpoint,
            images=images,
            prompt=env.get("PROMPT") or world_prompt("robot"),
            steps=int(env.get("STEPS") or DEFAULTS.steps),
            learning_rate=float(env.get("LEARNING_RATE") or DEFAULTS.optimizer.learning_rate),
            seed=int(env.get("SEED") or 0),
            sampler_steps=int(env["SAMPLER_STEPS"]) if env.get("SAMPLER_STEPS") else None,
            out=Path(env.get("OUT") or PACK / "demo-output").expanduser().absolute(),
        )

    def sampler(self) -> dict[str, int]:
        """Inputs of the sampler that the settings replace."""
        return {"seed": self.seed} | ({} if self.sampler_steps is None else {"steps": self.sampler_steps})


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


Changes = dict[str, Mapping[str, object]]
"""Inputs by the class of the node."""


def graph_of(name: str, client: Client, changes: Changes) -> Graph:
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


def labelled(columns: Mapping[str, Sequence[Image.Image]], path: Path, side: int = 256) -> None:
    """Columns of pictures, each below its name."""
    rows = max(map(len, columns.values()))
    sheet = Image.new("RGB", (len(columns) * (side + 12) - 12, rows * (side + 12) + 18), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (label, pictures) in enumerate(columns.items()):
        left = number * (side + 12)
        pen.text((left + 4, 6), label, fill="black", font=ImageFont.load_default(size=16))
        for row, image in enumerate(pictures):
            how = Image.Resampling.NEAREST if image.height < side else Image.Resampling.LANCZOS
            sheet.paste(image.resize((side, side), how), (left, 30 + row * (side + 12)))
    sheet.save(path)


def train(client: Client, settings: Settings, graph: Graph, base: Path) -> Result:
    """Run a training graph; what its first training leaves is copied to where the user looks."""
    trained = follow(client, graph, "KronaTrain", "training")
    picture(
        client, trained, next(k for k, e in graph.items() if e["class_type"] == "KronaTrain"), settings.out / "loss.png"
    )
    picture(
        client,
        trained,
        next(k for k, e in graph.items() if e["class_type"] == "PreviewImage"),
        settings.out / "dataset.png",
    )
    shutil.copy(saved_by(trained, graph, base)[0], settings.out / "adapter.safetensors")
    return trained


def saved_by(result: Result, graph: Graph, base: Path) -> list[Path]:
    """The adapter files of a graph's save nodes."""
    nodes = [key for key, entry in graph.items() if entry["class_type"] == "KronaSave"]
    return [
        base / "output" / file["subfolder"] / file["filename"] for key in nodes for file in result.outputs[key]["files"]
    ]


def of_your_own(client: Client, settings: Settings, base: Path, clock: Clock) -> dict[str, list[Image.Image]]:
    """Train on a checkpoint, load, apply; pictures before and after."""
    assert settings.checkpoint is not None
    loader: Changes = {"CheckpointLoaderSimple": {"ckpt_name": settings.checkpoint.name}}
    training = {"steps": settings.steps, "learning_rate": settings.learning_rate, "seed": settings.seed, "name": "demo"}
    with clock.step(f"training on {settings.images.name}, {settings.steps} steps, and saving"):
        changes: Changes = {
            "KronaDataset": {"prompt": settings.prompt, "folder": str(settings.images)},
            "KronaTrain": training,
            "KronaSave": {"filename_prefix": "loras/demo"},
        }
        graph = graph_of(TRAIN, client, loader | changes)
        [adapter] = saved_by(train(client, settings, graph, base), graph, base)
    with clock.step("loading and applying the adapter, rendering before and after"):
        side = trained_side(adapter)
        changes = {
            "KronaLoadApply": {"file": adapter.name},
            "EmptyLatentImage": {"width": side, "height": side},
            "KSampler": settings.sampler(),
        }
        graph = graph_of(APPLY, client, loader | changes)
        graph["3"]["inputs"]["text"] = settings.prompt
        rendered = follow(client, graph, "KSampler", "sampling")
    names = {"before: the base model": ("10", "before.png"), "after: with the adapter": ("11", "after.png")}
    return {label: [picture(client, rendered, node, settings.out / file)] for label, (node, file) in names.items()}


def of_the_small_world(client: Client, settings: Settings, base: Path, clock: Clock) -> dict[str, list[Image.Image]]:
    """Draw what one picture shows in other places; train on two subjects, save, load, apply one and a blend of both."""
    with clock.step("one picture in, that character in four places out, nothing trained on it"):
        rendered = follow(
            client, graph_of(WORLD_REFERENCE, client, {"KSampler": settings.sampler()}), "KSampler", "sampling"
        )
        strip = picture(client, rendered, "24", settings.out / ONE_PICTURE)
        strip.resize((4 * strip.width, 4 * strip.height), Image.Resampling.NEAREST).save(settings.out / ONE_PICTURE)
    training = {"steps": settings.steps, "learning_rate": settings.learning_rate, "seed": settings.seed}
    with clock.step(f"training on two subjects, {settings.steps} steps each, and saving"):
        graph = graph_of(WORLD_TRAIN, client, {"KronaTrain": training})
        graph["2"]["inputs"] |= {"folder": str(settings.images), "prompt": settings.prompt}
        graph["3"]["inputs"]["name"] = "demo"
        first, second = saved_by(train(client, settings, graph, base), graph, base)
    with clock.step("loading, applying and blending the adapters, rendering"):
        graph = graph_of(WORLD_BLEND, client, {"KSampler": settings.sampler()})
        graph["2"]["inputs"]["file"], graph["3"]["inputs"]["file"] = first.name, second.name
        graph["7"]["inputs"]["text"] = f"{settings.prompt} waving with a hat on the beach by day"
        columns = {
            "the base model": "15",
            "with the adapter": "16",
            "a blend of two": "17",
            "the blend's other one": "18",
        }
        graph = {key: entry for key, entry in graph.items() if int(key) < 19}
        graph |= {f"3{node}": save(node) for node in columns.values()}
        rendered = follow(client, graph, "KSampler", "sampling")
    folders = {}
    for label, node in columns.items():
        folders[label] = [
            Image.open(BytesIO(client.view(**file))).convert("RGB") for file in rendered.files(f"3{node}")
        ]
    for name, label in (
        ("before.png", "the base model"),
        ("after.png", "with the adapter"),
        ("blended.png", "a blend of two"),
    ):
        folders[label][0].save(settings.out / name)
    return folders


def save(node: str) -> dict:
    """A node that keeps the pictures of another one."""
    return {"class_type": "SaveImage", "inputs": {"images": [node, 0], "filename_prefix": f"krona/demo-{node}"}}


def main() -> int:
    """Run the demo; the exit status."""
    settings = Settings.read(os.environ)
    clock = Clock()
    base = settings.out / "comfyui"
    checkpoints = base / "models" / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)

    print("KronA demo")
    if settings.checkpoint is None:
        print(
            "  There is no CHECKPOINT, so the model is the pack's own small world: it draws robots, cats, bears and birds of 64 × 64 pixels,\n"
            '  and has never seen the two subjects that it learns now. With yours: make demo CHECKPOINT=/path/to/model.safetensors [IMAGES=… PROMPT="…"]'
        )
    else:
        (checkpoints / settings.checkpoint.name).symlink_to(settings.checkpoint)
    with clock.step("starting ComfyUI"):
        server = Server(base, packs={"krona": PACK})
        server.start()
    try:
        run = of_the_small_world if settings.checkpoint is None else of_your_own
        columns = run(server.client, settings, base, clock)
    finally:
        server.stop()
    labelled(columns, settings.out / "side-by-side.png", 192 if settings.checkpoint is None else 512)

    rows = [json.loads(line) for line in metrics_of(base).read_text(encoding="utf-8").splitlines()]
    losses = [row["loss"] for row in rows if row["event"] == "step"]
    tail = max(1, len(losses) // 5)
    before, after = (np.asarray(pictures[0], dtype=float) for pictures in list(columns.values())[:2])
    print(
        f"\nThe loss went from {np.mean(losses[:tail]):.3f} (first fifth) to {np.mean(losses[-tail:]):.3f} (last fifth)."
    )
    print(
        f"The adapter changes the picture by {np.abs(before - after).mean():.1f} of 255 on average, {np.abs(before - after).max():.0f} at most."
    )
    print("\nResults:")
    for name, what in (
        ("side-by-side.png", " | ".join(columns)),
        *(((ONE_PICTURE, "a picture, and its character in four places"),) if settings.checkpoint is None else ()),
        ("adapter.safetensors", f"the adapter, {(settings.out / 'adapter.safetensors').stat().st_size:,} bytes"),
        ("dataset.png", "what it was trained on"),
        ("loss.png", "the loss curve"),
        ("before.png", "the base model"),
        ("after.png", "with the adapter, same seed and prompt"),
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
