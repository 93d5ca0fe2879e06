"""The table of hostile requests (tests/support/attacks.py) on a real server, in the order of the dice:
each is refused rightly and changes no file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from random import Random

from tools.comfyui.server import PACK, Server

from ..driver import Bench, Outcome

sys.path.append(str(PACK / "tests" / "support"))
import attacks
import graphs


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """One server for the batch; every file below its folders is looked at after each request."""
    base = graphs.lay_out(bench.folder / "base")
    attacks.lay_out(base)
    table = attacks.table()
    Random(bench.seed).shuffle(table)
    with Server(base, packs={"krona": PACK}, cpu=True) as server:
        before = attacks.everything(base)
        for number in numbers:
            attack = table[number % len(table)]
            violations = [f"{attack.name}: {wrong}" for wrong in attacks.wrong(base, server.port, attack)]
            after = attacks.everything(base)
            if changed := sorted(name for name in {**before, **after} if before.get(name) != after.get(name)):
                violations.append(f"{attack.name}: {changed[0]} changed on the disk")
            before = after
            yield Outcome(number, attack.name.partition(":")[0], tuple(violations))
