"""A disk that becomes full while a training, a save, a conversion, a cache or class pictures are written to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from krona_ops import Adapter, Full, Kron, LayerName, load, save
from krona_ops.errors import KronaError
from krona_train.data.cache import Cache, entry_key
from krona_train.data.class_pictures import make_class_pictures
from krona_train.settings.codec import OfKind

from .. import toy
from ..driver import Bench, Outcome
from ..judge import foreign
from ..words import in_short
from .small import small_disk

PAGE = 4096
FORMATS = ("lokr", "kohya", "peft", "lora", "kohya-lora")


class Writer(Protocol):
    """Something that is written to a folder, and can be written there again."""

    def write(self, folder: Path) -> object:
        """All of it; a second time goes on, or replaces."""

    def wrong(self, folder: Path, whole: bool) -> list[str]:
        """What must not be there.

        Args:
            whole: Whether all of it must be there.
        """


class Training:
    """On the toy model: goes on bitwise as soon as there is room."""

    def __init__(self, bench: Bench, objective: OfKind = toy.CONFIG.objective) -> None:
        self.config = replace(toy.CONFIG, objective=objective)
        self.data = toy.examples() if objective == toy.CONFIG.objective else toy.drawings()
        self.wanted = toy.train(bench.folder / f"alone {objective.kind}", config=self.config, data=self.data).layers

    def write(self, folder: Path) -> object:
        return toy.train(folder, config=self.config, data=self.data)

    def wrong(self, folder: Path, whole: bool) -> list[str]:
        wrong = toy.wrong_in(folder)
        if not whole:
            return wrong
        results = list(folder.rglob(toy.RESULT))
        if [dict(load(file).layers) for file in results] != [dict(self.wanted)]:
            return [*wrong, f"{len(results)} results, not the one of a training in peace"]
        return wrong + toy.wrong_with_rows(results[0].parent)


class Saving:
    """An adapter in every format, one over the other: the old file or the new one is there."""

    def __init__(self, bench: Bench) -> None:
        rng = torch.Generator().manual_seed(2)

        def factor(*shape: int) -> Full:
            return Full(torch.randn(*shape, generator=rng))

        names = [LayerName(f"unet.down.{n}.attn1.to_q") for n in range(4)]
        self.adapter = Adapter({name: Kron(factor(8, 8), factor(40, 24)) for name in names})

    def write(self, folder: Path) -> object:
        for name in FORMATS:
            save(self.adapter, folder / name / "adapter_model.safetensors", name, rank=8 if "lora" in name else None)
        return None

    def wrong(self, folder: Path, whole: bool) -> list[str]:
        there = {path.parent.name for path in folder.rglob("*.safetensors")}
        return toy.wrong_in(folder) + [f"{name} is missing" for name in FORMATS if whole and name not in there]


class Caching:
    """Encoded pictures: a full disk costs a warning, never an error, and no entry is half."""

    def __init__(self, bench: Bench) -> None:
        self.tensors = encoded()

    def write(self, folder: Path) -> object:
        cache = Cache(folder / "cache")
        for number in range(40):
            cache.put(entry_key(number), self.tensors, {"number": number})
        return None

    def wrong(self, folder: Path, whole: bool) -> list[str]:
        wrong = toy.wrong_in_cache(folder / "cache")
        count = len(list(folder.rglob("*.safetensors")))
        return wrong + ([f"{count} entries of 40"] if whole and count != 40 else [])


def encoded() -> dict[str, torch.Tensor]:
    """What stands for a picture in the cache."""
    return {"latent": torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(3))}


class ClassPictures:
    """Whole pictures; a second time goes on."""

    def __init__(self, bench: Bench) -> None:
        pass

    def write(self, folder: Path) -> object:
        return make_class_pictures(folder / "class", 6, _noise, prompt="a photo of a robot")

    def wrong(self, folder: Path, whole: bool) -> list[str]:
        count = len(list(folder.rglob("class-*.png")))
        return toy.wrong_in(folder) + ([f"{count} pictures of 6"] if whole and count != 6 else [])


def _noise(number: int) -> Image.Image:
    pixels = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


WRITERS: dict[str, Callable[[Bench], Writer]] = {
    "training": Training,
    "saving": Saving,
    "caching": Caching,
    "class pictures": ClassPictures,
}


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Each on a disk of another size, from one page to just enough."""
    writers = {name: make(bench) for name, make in WRITERS.items()}
    pages = {name: _pages(writer, bench.folder / f"in peace {name}") for name, writer in writers.items()}
    for number in numbers:
        name = tuple(writers)[number % len(writers)]
        writer = writers[name]
        size = PAGE * bench.rng(number).randint(1, pages[name])
        with small_disk(bench.folder / f"{number}", size) as (what, grow):
            yield _one(number, name, what, writer, bench.folder / f"{number}", grow)


def _pages(writer: Writer, folder: Path) -> int:
    """How many pages of a disk its files and folders take."""
    writer.write(folder)
    return sum(-(-path.stat().st_size // PAGE) if path.is_file() else 1 for path in folder.rglob("*"))


def _one(number: int, name: str, what: str, writer: Writer, folder: Path, grow: Callable[[], None]) -> Outcome:
    violations = []
    if wrong := foreign(lambda: writer.write(folder)):
        violations.append(wrong)
    violations += writer.wrong(folder, False)
    was_full = bool(writer.wrong(folder, True))
    grow()
    try:
        writer.write(folder)
        violations += [f"with room again: {wrong}" for wrong in writer.wrong(folder, True)]
    except KronaError as error:
        violations.append(f"with room again it cannot go on: {error}")
    except Exception as error:
        violations.append(f"with room again: {in_short(error)}")
    return Outcome(number, f"{name} on {what if was_full else 'a disk with just enough room'}", tuple(violations))
