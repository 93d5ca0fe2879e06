"""A process that trains, saves, converts, caches or makes class pictures,
killed again and again at moments of the dice's choice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from random import Random

from krona_ops import load, save
from krona_ops.__main__ import main as convert
from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.objectives.score_matching_config import ScoreMatchingConfig

from .. import toy
from ..disk.full import WRITERS, Saving, Training, Writer
from ..driver import Bench, Outcome
from ..forks import Fork

MOST_KILLS = 4
SHELL_FORMATS = ("kohya", "peft", "lokr")
LEFT_OVER = " is left over"


class Converting(Saving):
    """The command line: one file into every other format, over what is there."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.source = bench.folder / "source.safetensors"
        save(self.adapter, self.source)

    def write(self, folder: Path) -> object:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            for name in SHELL_FORMATS:
                target = folder / name / "adapter_model.safetensors"
                if convert(
                    ["convert", str(self.source), "-o", str(target), "--overwrite", "--keep-names", "--format", name]
                ):
                    raise RuntimeError(f"convert to {name} failed")
        return None

    def wrong(self, folder: Path, whole: bool) -> list[str]:
        there = {path.parent.name: load(path).layers for path in folder.rglob("*.safetensors")}
        missing = [f"{name} is missing" for name in SHELL_FORMATS if whole and name not in there]
        return toy.wrong_in(folder) + missing


DISTILLED = (GuidanceConfig(), ScoreMatchingConfig(), PairsConfig())
"""What learns from the model itself: with two adapters and turns (score matching), and from drawings."""
KINDS: dict[str, Callable[[Bench], Writer]] = {
    **WRITERS,
    "converting": Converting,
    **{each.kind: partial(Training, objective=each) for each in DISTILLED},
}


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Each kind in turn: killed one to four times, then in peace."""
    writers = {name: make(bench) for name, make in KINDS.items()}
    seconds = {name: _seconds(writer, bench.folder / f"in peace {name}") for name, writer in writers.items()}
    for number in numbers:
        name = tuple(writers)[number % len(writers)]
        kills, violations = _one(writers[name], bench.place(number), bench.rng(number), seconds[name])
        yield Outcome(number, f"{name}, killed {kills} times", tuple(violations))


def _seconds(writer: Writer, folder: Path) -> float:
    start = time.monotonic()
    Fork(lambda: writer.write(folder)).end()
    return time.monotonic() - start


def _one(writer: Writer, folder: Path, rng: Random, seconds: float) -> tuple[int, list[str]]:
    kills, violations = 0, []
    for _ in range(rng.randint(1, MOST_KILLS)):
        fork = Fork(lambda: writer.write(folder))
        time.sleep(rng.random() * seconds)
        fork.kill()
        end = fork.end()
        kills += end.how == "killed"
        violations += end.violations
        # What was being written may still lie there; nothing that has its name may be half.
        violations += [wrong for wrong in writer.wrong(folder, False) if not wrong.endswith(LEFT_OVER)]
    end = Fork(lambda: writer.write(folder)).end()
    if end.how != "fine":
        return kills, [*violations, f"after the kills it ended as {end.how}: {end.words}"]
    return kills, violations + [f"after the kills: {wrong}" for wrong in writer.wrong(folder, True)]
