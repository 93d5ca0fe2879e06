"""A short draw of each driver of the standing proof. KRONA_SEED repeats one; without it each day has its own."""

import pytest
from draws import seed_of_the_day

from proof import table
from proof.__main__ import repeat
from proof.watch import Worker


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """One process of each kind for all drivers: importing torch and the host takes longer than a short draw."""
    running = {}

    def of(kind):
        if kind not in running:
            running[kind] = Worker(kind, tmp_path_factory.mktemp("proof") / f"{kind}.log")
        return running[kind]

    yield of
    for worker in running.values():
        worker.stop()


DRAWN = [driver for driver in table.DRIVERS if driver.draw]


@pytest.mark.parametrize("driver", DRAWN, ids=lambda driver: f"{driver.part}-{driver.name}")
def test_nothing_is_violated(driver, workers):
    seed, worker = seed_of_the_day(), workers(driver.process)
    outcomes = list(worker.run(driver, seed, range(driver.draw)))
    bad = [
        f"{o.fault}: {'; '.join(o.violations)}\n    again: {repeat(driver, seed, o.number)}" for o in outcomes if o.violations
    ]
    if bad:
        said = worker.log.read_text(encoding="utf-8", errors="replace")[-4000:]
        pytest.fail("\n".join([f"{len(bad)} of {driver.draw} cases, seed {seed}: {driver.claim}", *bad, said]), pytrace=False)
    assert [outcome.number for outcome in outcomes] == list(range(driver.draw))
