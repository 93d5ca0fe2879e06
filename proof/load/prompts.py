"""One real server, prompt after prompt: pictures with twenty adapters in both ways and stacked, cancels, errors and
trainings between; each picture is that of a fresh server."""

from __future__ import annotations

import io
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import psutil
import torch
from PIL import Image

from krona_ops import Adapter, Full, Kron, LayerName, load, save
from krona_train.run.layout import METRICS
from krona_train.run.metrics import read
from tools import tiny_models
from tools.comfyui.server import PACK, ClientError, Event, RunFailed, RunInterrupted, Server

from ..driver import Bench, Outcome

sys.path.append(str(PACK / "tests" / "support"))
import graphs

ADAPTERS = 20
LOOKS = 12
"""Different graphs that draw a picture; each is drawn by a fresh server first,
and then again and again by the one that works."""
SETTLED = 20
"""The prompt after which memory is measured first."""
MORE_ALLOWED = 0.03
TRAININGS = (0.05, 0.7)
"""Where in the batch a training is queued, as parts of it:
the first one before memory is settled, for the libraries that it loads stay loaded."""
Graph = dict[str, dict]


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """One server for the whole batch."""
    numbers = list(numbers)
    base = _lay_out(bench.folder / "base")
    looks = [_look(bench.rng(-1 - n)) for n in range(min(LOOKS, 1 + len(numbers) // 4))]
    trainings = {numbers[int(part * len(numbers))] for part in TRAININGS}
    is_short = len(numbers) < 50  # a short draw starts one server, not two
    fresh = [] if is_short else _by_a_fresh_server(base, looks)
    with Server(base, packs={"krona": PACK}, cpu=True) as server:
        fresh = fresh or _fresh(server, looks)
        settled = None
        for done, number in enumerate(numbers, 1):
            rng = bench.rng(number)
            if number in trainings:
                name, violations = "a training", _training(server, base, number)
            else:
                name, violations = rng.choices(KINDS, WEIGHTS)[0](server, looks, fresh, rng, number)
            memory = _memory(server)
            settled = memory if done == min(SETTLED, len(numbers)) else settled
            if done == len(numbers) and settled is not None and memory > settled * (1 + MORE_ALLOWED):
                violations.append(f"{memory / 1e6:.0f} MB after {done} prompts, {settled / 1e6:.0f} MB after {SETTLED}")
            yield Outcome(number, name, tuple(violations))


def _lay_out(base: Path) -> Path:
    graphs.lay_out(base)
    shutil.copytree(PACK / "samples" / "krobot", base / "input" / "krobot")
    folder = base / "models" / "krona"
    folder.mkdir()
    for number in range(ADAPTERS):
        save(adapter(number), folder / f"{number}.safetensors")
    return base


def adapter(number: int) -> Adapter:
    """Kronecker products and LoRAs in turn, for the tiny model's attention."""
    from safetensors import safe_open

    rng = torch.Generator().manual_seed(number)
    layers = {}
    with safe_open(tiny_models.cached("sd15"), "pt") as file:
        for name in sorted(file.keys()):
            if (
                name.endswith(".weight")
                and any(part in name for part in (".to_q.", ".to_k.", ".to_v.", ".to_out.0."))
                and "diffusion_model" in name
            ):
                out, into = file.get_slice(name).get_shape()
                layer = LayerName(name.removeprefix("model.").removesuffix(".weight"))
                layers[layer] = _update(number, out, into, rng)
    return Adapter(layers)


def _update(number: int, out: int, into: int, rng: torch.Generator) -> Kron:
    def draw(*shape: int, size: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) * size

    if number % 2:
        return Kron(Full(draw(8, 4)), Full(draw(out // 8, into // 4, size=0.3 / (out * into) ** 0.25)))
    return Kron(Full(draw(16, 16)), Full(draw(out // 16, into // 16, size=0.3 / (out * into) ** 0.25)))


def _look(rng: Random) -> Graph:
    """A picture with one to three adapters in a row, each in one of the two ways."""
    graph: Graph = {"1": graphs.checkpoint(graphs.CHECKPOINT)}
    model = ("1", 0)
    for place in range(rng.randint(1, 3)):
        graph[f"{30 + place}"] = graphs.load(f"{rng.randrange(ADAPTERS)}.safetensors")
        way = rng.choice(("merge", "bypass"))
        graph[f"{40 + place}"] = graphs.apply(
            (f"{30 + place}", 0), model=model, strength=round(rng.uniform(-1, 1.5), 2), mode=way
        )
        model = (f"{40 + place}", 0)
    return {**graph, **graphs.render(model)}


def _by_a_fresh_server(base: Path, looks: list[Graph]) -> list[np.ndarray]:
    with Server(base, packs={"krona": PACK}, cpu=True) as server:
        return _fresh(server, looks)


def _fresh(server: Server, looks: list[Graph]) -> list[np.ndarray]:
    """Each picture by a server whose models and caches are let go before it,
    so that nothing of another prompt is in it."""
    pictures = []
    for graph in looks:
        server.client.post_json("/free", {"unload_models": True, "free_memory": True})
        server.client.run(
            _another(
                {"1": graph["1"], "2": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}, "3": _EMPTY}, 0
            )
        )
        pictures.append(_pixels(server, graph))
    return pictures


_EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}


def _another(graph: Graph, number: int) -> Graph:
    """The same with another name for the picture's file, so that the host executes its last node again."""
    changed = {key: {**entry, "inputs": dict(entry["inputs"])} for key, entry in graph.items()}
    for entry in changed.values():
        if "filename_prefix" in entry["inputs"]:
            entry["inputs"]["filename_prefix"] = f"picture {number}"
    return changed


def _pixels(server: Server, graph: Graph, number: int = 0) -> np.ndarray:
    result = server.client.run(_another(graph, number))
    [file] = result.files("24")
    return np.asarray(Image.open(io.BytesIO(server.client.view(**file))))


def draw(
    server: Server, looks: list[Graph], fresh: list[np.ndarray], rng: Random, number: int
) -> tuple[str, list[str]]:
    """A picture, which must be the fresh one bit for bit."""
    which = rng.randrange(len(looks))
    try:
        same = np.array_equal(_pixels(server, looks[which], number), fresh[which])
    except ClientError as error:
        return "a picture", [f"it was not drawn: {error}"[:500]]
    return "a picture", [] if same else [f"look {which} is another picture than the fresh one"]


def cancel(
    server: Server, looks: list[Graph], fresh: list[np.ndarray], rng: Random, number: int
) -> tuple[str, list[str]]:
    """A picture of many steps, cancelled while it samples."""
    graph = _another(looks[rng.randrange(len(looks))], number)
    graph["22"]["inputs"].update(steps=60, seed=number)
    client, asked, moment = server.client, threading.Event(), rng.randint(1, 6)

    def stop(event: Event) -> None:
        if event.type == "progress" and event.data["value"] >= moment and not asked.is_set():
            asked.set()
            client.interrupt(event.data["prompt_id"])

    with suppress(RunInterrupted):
        try:
            client.run(graph, stop)
        except ClientError as error:
            if not isinstance(error, RunInterrupted):
                return "a cancel", [f"{error}"[:500]]
    return "a cancel", []


def fail(
    server: Server, looks: list[Graph], fresh: list[np.ndarray], rng: Random, number: int
) -> tuple[str, list[str]]:
    """A node that fails in the middle of a graph with adapters on the model: a strength for an adapter that is none."""
    graph = _another(looks[rng.randrange(len(looks))], number)
    graph["90"] = graphs.node("KronaWeights", preset="all", rules=f"q=much{number}")
    graph["91"] = graphs.node("KronaScale", krona=["30", 0], strength=1.0, weights=["90", 0])
    graph["40"]["inputs"]["krona"] = ["91", 0]
    try:
        server.client.run(graph)
    except RunFailed:
        return "an error", []
    except ClientError as error:
        return "an error", [f"{error}"[:500]] if "ServerLost" in type(error).__name__ else []
    return "an error", ["the graph did not fail"]


KINDS, WEIGHTS = (draw, cancel, fail), (8, 1, 1)


def _training(server: Server, base: Path, number: int) -> list[str]:
    graph = {
        "1": graphs.checkpoint(graphs.CHECKPOINT),
        "2": graphs.dataset(folder="krobot"),
        "3": graphs.train(steps=6, name=f"trained {number}", seed=3, resume="(new run)"),
    }
    try:
        server.client.run(graph)
    except ClientError as error:
        return [f"it was not trained: {error}"[:500]]
    folders = sorted((base / "output" / "krona").glob("trained *"))
    first, *others = [dict(load(folder / "adapter.safetensors").layers) for folder in folders]
    steps = [row["step"] for row in read(folders[-1] / METRICS) if row["event"] == "step"]
    wrong = [] if steps == [1, 2, 3, 4, 5, 6] else [f"its metrics tell of the steps {steps}"]
    return wrong + (["another adapter than the first training's"] if any(other != first for other in others) else [])


def _memory(server: Server) -> int:
    """Resident bytes of the server and whatever it has started."""
    process = psutil.Process(server.pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
