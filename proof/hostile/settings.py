"""A run.yaml from a stranger: a job comes of it, or a word of the pack's own;
and the page shows its settings, or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml

from krona_train.run.job import Job, load_job
from krona_train.run.reading import settings_of
from krona_train.settings.codec import to_dict

from ..driver import Bench, Outcome
from ..judge import foreign
from .dice import json_token, mutated

_TAGS = (
    "timestamp",
    "bool",
    "int",
    "float",
    "null",
    "binary",
    "set",
    "omap",
    "pairs",
    "seq",
    "map",
    "str",
    "merge",
    "value",
    "python/name:os.system",
)
_NINE = "[" + ",".join(["x"] * 9) + "]"
BOMB = f"[&a0 {_NINE}" + "".join(f", &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 11)) + "]"
_PLAIN = (
    *(
        "",
        "~",
        "x",
        "yes",
        "2024-13-45",
        "2024-02-30 99:00:00",
        "1:2:3",
        "190:20:30.5",
        "0x" + "f" * 5000,
        "9" * 400,
        "9" * 9000,
        ".nan",
        ".inf",
        "-0",
    ),
    *(
        "1e999",
        "0b" + "1" * 3000,
        "0o7",
        "'x'",
        '"\\ud800"',
        '"\\e[2J"',
        '"\\x"',
        "*a",
        "&a [*a]",
        "&a x",
        "{? [a] : b}",
        "{<<: {a: 1}}",
        "{<<: 5}",
        "<<",
        "=",
    ),
    *(
        "[" * 300,
        "{a: " * 300,
        "- " * 300,
        "|\n x",
        ">\n x",
        "x: y: z",
        "\t",
        "%YAML 9.9",
        "--- x",
        "@",
        "`",
        "!<x> y",
        "!x y",
        BOMB,
        "[" + "1," * 30000 + "]",
    ),
)


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Grammar and mutation in turn."""
    leaves = list(_leaves(to_dict(Job())))
    for number in numbers:
        rng = bench.rng(number)
        fault, text = _grammar(leaves, rng) if rng.random() < 0.7 else _mutation(leaves, rng)
        folder = bench.place(number)
        path = folder / "run.yaml"
        path.write_bytes(text)
        yield Outcome(number, fault, tuple(filter(None, (foreign(partial(load_job, path)), _shown(folder)))))
        path.unlink()
        folder.rmdir()


def _shown(folder: Path) -> str | None:
    wrong = foreign(lambda: settings_of(folder))
    return None if wrong is None else f"for the page: {wrong}"


def _grammar(leaves: list[tuple[tuple[str, ...], Any]], rng: Random) -> tuple[str, bytes]:
    path, _ = rng.choice(leaves)
    path = path[: rng.randint(1, len(path))]
    kind = rng.randrange(4)
    if kind == 0:
        value, fault = f"!!{rng.choice(_TAGS)} {rng.choice(('x', '5', '[a]', '{a: b}', '', '2024-01-01'))}", "a tag"
    elif kind == 1:
        value, fault = json_token(rng), "a value as JSON"
    else:
        value, fault = rng.choice(_PLAIN), "a value as YAML"
    text = value
    for name in reversed(path):
        text = f"{{{name}: {text}}}" if not text.startswith(("|", ">")) else f"{name}: {text}"
    return fault, text.encode("utf-8", "surrogatepass")


def _mutation(leaves: list[tuple[tuple[str, ...], Any]], rng: Random) -> tuple[str, bytes]:
    tree: dict = {}
    for path, value in rng.sample(leaves, 6):
        inside = tree
        for name in path[:-1]:
            inside = inside.setdefault(name, {})
        inside[path[-1]] = value
    return "bytes changed", mutated(yaml.safe_dump(tree, sort_keys=False).encode(), rng)


def _leaves(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value
