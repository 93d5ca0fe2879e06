"""Each node brought to each outcome, in the host's own executor: afterwards everything is as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from random import Random

from krona_ops.errors import KronaError

from ..driver import Bench, Outcome
from ..inside import End, Graph, Inside, inside, places
from ..words import unfit
from . import surroundings, trap
from .nodes import BAD, GRAPHS, TARGET, lay_out

HOWS = (
    "success",
    "an error inside",
    "an interrupt",
    "out of memory",
    "out of memory again and again",
    "out of memory on the CPU",
    "a refusal",
)
ACTS: dict[str, tuple[trap.Act, int]] = {
    "an error inside": (trap.error, 1),
    "an interrupt": (trap.interrupt, 1),
    "out of memory": (trap.out_of_memory, 1),
    "out of memory again and again": (trap.out_of_memory, 6),
    "out of memory on the CPU": (trap.out_of_memory_on_the_cpu, 1),
}


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Node by node; each is run in peace once, to see how long its way is."""
    logging.getLogger().setLevel(logging.CRITICAL)  # the host tells each failure with its traceback
    host = inside()
    pairs = [(name, how) for how in HOWS for name in GRAPHS if how != "a refusal" or name in BAD]
    Random(bench.seed).shuffle(pairs)  # so that a short draw has other ones every day
    counted: dict[str, tuple[int, int]] = {}
    with places(bench.folder):
        lay_out(bench.folder, host.models)
        for number in numbers:
            name, how = pairs[number % len(pairs)]
            if name not in counted:
                counted[name] = _ways(host, name)
            yield Outcome(number, how, tuple(_one(host, name, how, counted[name], bench.rng(number))))


def _ways(host: Inside, name: str) -> tuple[int, int]:
    """Operations of torch on the node's way in peace, or else calls inside the pack."""
    with trap.Operations(TARGET) as operations:
        end = host.run(GRAPHS[name](), TARGET)
    if end.how != "success":
        raise RuntimeError(f"{name} does not even work in peace: {end}")
    if operations.count:
        return operations.count, 0
    with trap.Calls(TARGET) as calls:  # slow, so only where nothing is computed
        host.run(GRAPHS[name](), TARGET)
    return 0, calls.count


def _one(host: Inside, name: str, how: str, ways: tuple[int, int], rng: Random) -> list[str]:
    graph = GRAPHS[name]()
    models, process, counts = surroundings.models(host.models), surroundings.process(), surroundings.counts()
    end = _brought_to(host, graph, name, how, ways, rng)
    after = surroundings.process()
    if name.startswith(("KronaTrain", "KronaDistill")):  # the host's preview of the loss curve rolls dice for the name of its file
        after["Python's random numbers"] = process["Python's random numbers"]
    violations = surroundings.different(process, after)
    violations += surroundings.different(models, surroundings.models(host.models))
    violations += surroundings.more(counts, surroundings.counts())
    violations += _unexpected(end, how)
    return [f"{name}: {violation}" for violation in violations]


def _brought_to(host: Inside, graph: Graph, name: str, how: str, ways: tuple[int, int], rng: Random) -> End:
    if how == "success":
        return host.run(graph, TARGET)
    if how == "a refusal":
        graph[TARGET]["inputs"].update(BAD[name][1])
        return host.run(graph, TARGET)
    act, times = ACTS[how]
    operations, calls = ways
    by_operation = operations > 0
    at = rng.randrange(operations if by_operation else calls)
    watch: Callable = (
        (lambda: trap.Operations(TARGET, at, act, times)) if by_operation else (lambda: trap.Calls(TARGET, at, act))
    )
    with watch():
        return host.run(graph, TARGET)


def _unexpected(end: End, how: str) -> list[str]:
    """An outcome that this way cannot have, or words that are not fit for a user.
    A memory that was full once may have been enough in a smaller way."""
    if how == "success":
        return [] if end.how == "success" else [f"it ended with {end}"]
    if how == "a refusal":
        ours = {kind.__name__ for kind in _kinds(KronaError)}
        if end.how != "error" or end.kind.rpartition(".")[2] not in ours:
            return [f"not one of the pack's errors but {end}"]
        return [wrong] if (wrong := unfit(end.words)) else []
    if how == "an interrupt":
        return [] if end.how in ("interrupted", "success") else [f"after an interrupt it ended with {end}"]
    return [] if end.how in ("error", "success") else [f"it ended with {end}"]


def _kinds(kind: type) -> Iterator[type]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
