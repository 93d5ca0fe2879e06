"""What an adapted layer costs a processor that only gives commands, as beside a GPU: KronA and its peers, in turns.

    python3 tools/host.py run benchmarks/calls.py [--rounds 9]

A GPU at batch 1 often waits for Python, so what counts is how many operations a layer takes and how long it takes to
ask for them. Both are measured without one: the layer is so small that its numbers cost nothing (2 tokens, 64 to 64 by
16 × 4), on one thread. ``operations`` are those that a GPU would be given, views and allocations left out; ``µs`` is a
forward and a backward pass. SDXL has 560 such layers: 10 µs are 5.6 ms of each of its steps.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # instead of benchmarks/, so that `benchmarks` is a package

from benchmarks import host
from benchmarks.contest import arguments, finish, table, take_turns
from benchmarks.layer import Run, check, contestants
from benchmarks.operations import operations

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REPEATS = 200
"""Of the layer in one run; 1 in a rehearsal."""
Entry = tuple[Run, tuple[Tensor, ...]]


def train(entry: Entry, x: Tensor, dy: Tensor) -> None:
    """A forward pass and the gradients of the input and the factors."""
    run, factors = entry
    torch.autograd.grad(run(x), (x, *factors), dy)


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__.partition("\n")[0], threads=1, rounds=9)
    host.start()
    torch.manual_seed(0)
    rows, cells, repeats = [], {}, 1 if options.rehearse else REPEATS
    for kind, dtype in DTYPES.items():
        base = nn.Linear(64, 64).requires_grad_(False)
        field = contestants(base, torch.randn(16, 4), torch.randn(4, 16))
        x, dy = torch.randn(1, 2, 64, requires_grad=True), torch.randn(1, 2, 64)
        check(field, base, x, dy)
        base.to(dtype)
        x, dy = x.detach().to(dtype).requires_grad_(), dy.to(dtype)
        # What trains in float32 only stays out of the half-precision round.
        field = {name: entry for name, entry in field.items() if takes(entry, x, dy)}

        def repeat(entry: Entry, x: Tensor = x, dy: Tensor = dy) -> None:
            for _ in range(repeats):
                train(entry, x, dy)

        times = take_turns({name: partial(repeat, entry) for name, entry in field.items()}, options.rounds)
        counts = {name: operations(partial(train, entry, x, dy)) for name, entry in field.items()}
        for name in field:
            t = times[name]
            rows.append(
                (f"{kind}: {name}", counts[name], *(f"{1e6 * s / repeats:.1f}" for s in (t.median, t.low, t.high)))
            )
        cells[kind] = {"operations": counts, f"seconds of {repeats}": {name: t.as_row() for name, t in times.items()}}
    print("\n" + table(("layer", "operations", "µs", "least", "most"), rows))
    finish("calls", cells, options, threads=options.threads, rounds=options.rounds)


def takes(entry: Entry, x: Tensor, dy: Tensor) -> bool:
    """Whether a contestant trains float32 factors beside a layer of this dtype."""
    try:
        train(entry, x, dy)
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
        return False
    return True


if __name__ == "__main__":
    main()
