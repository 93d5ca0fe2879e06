"""Hostile requests on the routes of a real server: see tests/support/attacks.py. KRONA_SEED repeats a draw."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import attacks
import graphs
import pytest
from graphs import link, node
from PIL import Image

SEED = int(os.environ.get("KRONA_SEED") or f"{date.today():%Y%m%d}")
DRAW = 100


@pytest.fixture(scope="module")
def target(server):
    attacks.lay_out(server.base)
    return server


def carried_out(server, chosen):
    """What went wrong, and that nothing on the disk has changed."""
    before = attacks.everything(server.base)
    mistakes = {attack.name: wrong for attack in chosen if (wrong := attacks.wrong(server.base, server.port, attack))}
    after = attacks.everything(server.base)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return mistakes, changed


def test_a_draw_of_hostile_requests_is_refused_and_changes_nothing(target):
    chosen = random.Random(SEED).sample(attacks.table(), DRAW)
    assert carried_out(target, chosen) == ({}, set()), f"KRONA_SEED={SEED}"


@pytest.mark.slow
def test_every_hostile_request_is_refused_and_changes_nothing(target):
    assert len(attacks.table()) >= 200
    assert carried_out(target, attacks.table()) == ({}, set())


@pytest.mark.slow
def test_bodies_that_hardly_come_are_not_waited_for(target):
    before = attacks.everything(target.base)
    chosen = list(attacks.slow())
    with ThreadPoolExecutor(len(chosen)) as threads:
        mistakes = list(threads.map(lambda attack: attacks.wrong(target.base, target.port, attack), chosen))
    assert mistakes == [[]] * len(chosen)
    deadline = time.monotonic() + 20
    while attacks.everything(target.base) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert attacks.everything(target.base) == before


def test_names_of_strangers_reach_the_log_without_escape_codes(target):
    folder = target.base / "input" / "strange"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "good.png")
    (folder / "\x1b]0;pwned\x07.heic").write_bytes(b"no picture")
    for attack in attacks.table():
        if "escape code" in attack.name:
            attacks.wrong(target.base, target.port, attack)
    sheet = node("PreviewImage", images=link("2", 1))
    target.client.run({"2": graphs.dataset(folder="strange"), "3": sheet})
    log = target.log()
    assert "?]0;pwned?.heic" in log
    assert "\x1b]0;pwned" not in log
