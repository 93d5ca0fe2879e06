"""A folder that may not be written, files that somebody takes away in the middle, a clock that was set back."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

from krona_train.data.cache import Cache, entry_key
from krona_train.run.events import Event, Stepped

from .. import toy
from ..driver import Bench, Outcome
from ..forks import Fork
from .full import Caching, ClassPictures, Saving, Writer, encoded

Wanted = dict
Write = Callable[[Path], object]
DAYS = 86400.0


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """The faults in turn."""
    wanted = dict(toy.train(bench.folder / "in peace").layers)
    writers: dict[str, Write] = {"a training": toy.train}
    writers |= {name: kind(bench).write for name, kind in WRITERS.items()}
    for number in numbers:
        fault = FAULTS[number % len(FAULTS)]
        name, violations = fault(bench.place(number), bench.rng(number), wanted, writers)
        yield Outcome(number, name, tuple(violations))


WRITERS: dict[str, Callable[[Bench], Writer]] = {
    "an adapter": Saving,
    "the cache": Caching,
    "class pictures": ClassPictures,
}


def read_only(folder: Path, rng: Random, wanted: Wanted, writers: dict[str, Write]) -> tuple[str, list[str]]:
    """Somebody without root's rights in a folder without the right to write."""
    name = rng.choice(sorted(writers))
    for above in (folder, folder.parent):
        above.chmod(0o755)
    folder.chmod(0o555)
    end = Fork(lambda: writers[name](folder), as_nobody=True).end()
    violations = end.violations
    expected = "fine" if name == "the cache" else "refused"  # a cache that cannot be kept costs a warning
    if end.how not in (expected, "foreign"):
        violations.append(f"it ended as {end.how}, not {expected}: {end.words}")
    if left := list(folder.rglob("*")):
        violations.append(f"{left[0].name} is there")
    return f"{name} in a read-only folder", violations


def vanish(folder: Path, rng: Random, wanted: Wanted, writers: dict[str, Write]) -> tuple[str, list[str]]:
    """Something of the run's folder is taken away at some step; afterwards the same training gives the same result."""
    what = rng.choice(("run*", "run*/state-*", "run*/metrics.jsonl", "run*/run.yaml", "run*/previews", "run*/*"))
    moment = rng.randint(1, toy.CONFIG.steps)

    def take_away(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == moment:
            for path in sorted(folder.glob(what)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    end = Fork(lambda: toy.train(folder, take_away)).end()
    violations = [*end.violations, *toy.wrong_in(folder)]
    if end.how == "fine" and what not in ("run*/metrics.jsonl", "run*/*") and (lost := _not(wanted, folder)):
        violations.append(lost)
    return f"{what} taken away in a training", [*violations, *_again(folder, wanted)]


def vanishing_entries(folder: Path, rng: Random, wanted: Wanted, writers: dict[str, Write]) -> tuple[str, list[str]]:
    """Two runs with one cache: what one prunes is missing to the other, which reads and writes all the time."""
    tensors = encoded()

    def use() -> None:
        cache = Cache(folder)
        for turn in range(60):
            key = entry_key(turn % 7)
            if cache.get(key) is None:
                cache.put(key, tensors, {"n": turn})

    def prune() -> None:
        for _ in range(60):
            Cache(folder, limit_bytes=rng.randint(0, 8000)).prune()

    ends = [fork.end() for fork in (Fork(use), Fork(prune), Fork(use))]
    return "entries taken out of a cache in use", [w for end in ends for w in end.violations] + toy.wrong_in_cache(
        folder
    )


def clock(folder: Path, rng: Random, wanted: Wanted, writers: dict[str, Write]) -> tuple[str, list[str]]:
    """A run that stopped in the middle, with files of tomorrow, as a clock leaves them that was set back;
    or of long ago."""
    moment, days = rng.randint(1, toy.CONFIG.steps - 1), rng.choice((-20000, -1, 1, 400))

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == moment:
            os._exit(9)  # as a power cut

    Fork(lambda: toy.train(folder, stop)).end()
    dated = max(0.0, time.time() + days * DAYS)
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (dated, dated))
    return f"files of {'tomorrow' if days > 0 else 'long ago'}", _again(folder, wanted)


FAULTS = (read_only, vanish, clock, vanish, vanishing_entries, vanish)


def _again(folder: Path, wanted: Wanted) -> list[str]:
    """What is wrong when the same training is started once more, in peace."""
    end = Fork(lambda: toy.train(folder)).end()
    if end.how != "fine":
        return [f"started again it ended as {end.how}: {end.words}"]
    lost = _not(wanted, folder)
    return [f"started again: {wrong}" for wrong in (*([lost] if lost else []), *toy.wrong_in(folder))]


def _not(wanted: Wanted, folder: Path) -> str | None:
    """``None`` where one of the runs has the wanted result, and none another."""
    from krona_ops import load

    results = [dict(load(file).layers) for file in folder.rglob(toy.RESULT)]
    return (
        None
        if results and all(result == wanted for result in results)
        else f"{len(results)} results, not all as in peace"
    )
