"""Two real servers with one output folder, which train under one name,
go on with one run and read one list at the same moment."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from krona_ops import load
from krona_train.run.layout import METRICS
from krona_train.run.metrics import read
from tools.comfyui.server import PACK, RunFailed, Server

from .. import toy
from ..driver import Bench, Outcome
from ..words import unfit

sys.path.append(str(PACK / "tests" / "support"))
import graphs

PICTURES = PACK / "samples" / "krobot"


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Rounds of two prompts that are queued together."""
    with servers(bench.folder) as both, ThreadPoolExecutor(2) as pool:
        wanted = _train(both[0], graph(4, "alone"))[1]
        longer = _train(both[0], graph(7, "alone"))[1]
        for number in numbers:
            name = f"round {number}"
            faults = ("two trainings of one name at once", "two servers go on with one run at once")
            if number % 2:
                _train(both[0], graph(4, name))
            steps, right = (7, longer) if number % 2 else (4, wanted)
            # A seed of the sampler that is the server's own keeps the host from answering from its cache.
            ends = list(
                pool.map(_train, both, (graph(steps, name, save_every=n + 2) for n in (number, number + 10_000)))
            )
            yield Outcome(
                number, faults[number % 2], tuple(_wrong(bench.folder / "output" / "krona", name, ends, right, steps))
            )


class servers:  # noqa: N801 (reads as what it is: with servers(folder) as both)
    """Two servers with models, input and output of one folder, and everything else of their own."""

    def __init__(self, folder: Path) -> None:
        shared = graphs.lay_out(folder / "a")
        shutil.copytree(PICTURES, shared / "input" / "krobot")
        (folder / "output").mkdir()
        graphs.lay_out(folder / "b")
        shutil.copytree(PICTURES, folder / "b" / "input" / "krobot")
        arguments = ("--output-directory", str(folder / "output"))
        self._all = [Server(folder / which, packs={"krona": PACK}, cpu=True, args=arguments) for which in "ab"]

    def __enter__(self) -> list[Server]:
        for server in self._all:
            server.start()
        return self._all

    def __exit__(self, *_: object) -> None:
        for server in self._all:
            server.stop()


def graph(steps: int, name: str, **changes: object) -> dict:
    """A training of a few steps."""
    return {
        "1": graphs.checkpoint(graphs.CHECKPOINT),
        "2": graphs.dataset(folder="krobot"),
        "3": graphs.train(steps=steps, name=name, **changes),
        "6": {"class_type": "PreviewAny", "inputs": {"source": ["3", 3]}},
    }


def _train(server: Server, prompt: dict) -> tuple[str, dict | str]:
    """How a prompt ends: ``fine`` and the layers of the run's result, or ``failed`` and the words."""
    try:
        folder = Path(server.client.run(prompt).outputs["6"]["text"][0])
    except RunFailed as error:
        return f"{error.data.get('exception_type')}", f"{error.data.get('exception_message')}"
    return "fine", dict(load(folder / toy.RESULT).layers)


def _wrong(output: Path, name: str, ends: list, right: object, steps: int) -> list[str]:
    wrong = []
    for how, what in ends:
        if how == "fine":
            wrong += [] if what == right else ["a result is not that of a training alone"]
        elif "krona_" not in how:
            wrong.append(f"{how}: {what}")
        elif bad := unfit(what):
            wrong.append(bad)
    if not any(how == "fine" for how, _ in ends):
        wrong.append(f"neither came to its end: {[what for _, what in ends]}")
    for folder in output.iterdir():
        if re.fullmatch(rf"{re.escape(name)}(-\d+)?", folder.name):
            wrong += toy.wrong_in(folder)
            written = [row["step"] for row in read(folder / METRICS) if row["event"] == "step"]
            if written != list(range(1, len(written) + 1)) or len(written) not in (0, steps):
                wrong.append(f"{folder.name} tells of the steps {written}")
    return wrong
