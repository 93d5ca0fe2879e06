"""Adapter files by a grammar of all methods and dialects, broken in every way (tests/support/hostile_adapters.py),
read and used as users do."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from tools.comfyui.server import PACK

from ..driver import Bench, Outcome

sys.path.append(str(PACK / "tests" / "support"))
import hostile_adapters

WORDS = {"ok": "a file that was read and used", "refused": "a file that was refused", "violation": "a file"}


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """File by file, in one folder."""
    for number in numbers:
        made = hostile_adapters.case(bench.seed, number)
        verdict = hostile_adapters.run(made, bench.folder)
        yield Outcome(number, WORDS[verdict.kind], (verdict.what,) if verdict.kind == "violation" else ())
