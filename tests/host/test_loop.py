"""No route keeps the server's loop from its work for long, whatever strangers have left for it to read.

A pack beside ours measures it in the real server (tests/support/loop_probe). Each case is tried a few times and the best counts: a
route that blocks does so each time, a busy machine only sometimes.
"""

import base64
import http.client
import json
import os
import urllib.parse
from pathlib import Path

import pytest
from graphs import lay_out

from tools.comfyui.server import PACK, Server

LONGEST = 0.05
"""Seconds."""
TRIES = 15
RUNS = 10_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = lay_out(tmp_path_factory.mktemp("probed"))
    with Server(base, packs={"krona": PACK, "loop_probe": PACK / "tests" / "support" / "loop_probe"}, cpu=True) as running:
        yield running


def ask(server, path, method="GET", body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    answered = answer.status, answer.read()
    connection.close()
    return answered


def longest_delay(server, act):
    """Seconds, the least of a few tries; no more of them than are enough."""
    delays = []
    for _ in range(TRIES):
        ask(server, "/loop_probe/start")
        act()
        measured = json.loads(ask(server, "/loop_probe/stop")[1])
        assert measured["looks"] > 0
        delays.append(measured["longest"])
        if delays[-1] < LONGEST:
            break
    return min(delays)


def file(entries, size=0):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * size


def layers(number):
    return {
        f"diffusion_model.blocks.{n}.to_q.diff": {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]}
        for n in range(number)
    }


PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
FILES = {
    "100,000 layers": lambda: file(layers(100_000), 400_000),
    "a text of 15 MB": lambda: file({"__metadata__": {"modelspec.description": "x" * 15_000_000}, **layers(2)}, 8),
    "a picture of 15 MB": lambda: file(
        {
            "__metadata__": {
                "modelspec.thumbnail": "data:image/png;base64," + base64.b64encode(PNG + b"\0" * 11_000_000).decode()
            },
            **layers(2),
        },
        8,
    ),
    "nesting of 15 MB": lambda: (15_000_000).to_bytes(8, "little") + b"[" * 15_000_000,
    "commas of 15 MB": lambda: (15_000_000).to_bytes(8, "little") + b'{"a":[' + b"1," * 7_499_996 + b"1}",
}


@pytest.mark.parametrize("name", FILES)
def test_no_file_keeps_the_loop_from_its_work(server, name):
    folder = server.base / "models" / "krona"
    folder.mkdir(exist_ok=True)
    path, data = folder / "heavy.safetensors", FILES[name]()
    path.write_bytes(data)
    try:
        for route in ("adapter", "adapter/thumbnail"):
            delay = longest_delay(server, lambda route=route: ask(server, f"/krona/{route}?name=heavy.safetensors"))
            assert delay < LONGEST, route
    finally:
        path.unlink()
    headers = {"Content-Type": "application/octet-stream"}

    def upload():
        ask(server, "/krona/adapters?name=uploaded.safetensors", "POST", data, headers)
        (folder / "uploaded.safetensors").unlink(missing_ok=True)

    assert longest_delay(server, upload) < LONGEST


def run(server, name, rows, settings=b"name: x\n"):
    folder = server.base / "output" / "krona" / name
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(rows)
    (folder / "run.yaml").write_bytes(settings)


def steps(number, **more):
    rows = [{"event": "started", "step": 0, "steps": number}]
    rows += [{"event": "step", "step": n, "loss": n / 7, "learning_rate": 1e-3, **more} for n in range(1, number + 1)]
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


ALIASES = (
    "name: [&a0 [x,x,x,x,x,x,x,x,x]" + "".join(f", &a{i} [" + ",".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 11)) + "]"
).encode()
HEAVY_RUNS = {
    "30,000 steps": lambda: (steps(30_000),),
    "a row of 10 MB": lambda: (steps(3) + json.dumps({"event": "note", "step": 3, "text": "x" * 10_000_000}).encode() + b"\n",),
    "numbers of 10 MB": lambda: (steps(3) + b'{"event":"note","step":3,"text":"","x":[' + b"1," * 5_000_000 + b"1]}\n",),
    "rows with nesting": lambda: (
        steps(3) + (b'{"event":"note","step":1,"text":"a","x":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}\n") * 300,
    ),
    "settings of aliases": lambda: (steps(3), ALIASES),
    "settings of 900 kB": lambda: (steps(3), b"name: [" + b"x, " * 300_000 + b"]"),
}


@pytest.mark.parametrize("name", HEAVY_RUNS)
def test_no_run_keeps_the_loop_from_its_work(server, name):
    run(server, name, *HEAVY_RUNS[name]())
    quoted = urllib.parse.quote(name)
    assert longest_delay(server, lambda: ask(server, f"/krona/runs/{quoted}")) < LONGEST
    assert longest_delay(server, lambda: ask(server, "/krona/runs")) < LONGEST


def test_ten_thousand_runs_are_listed_beside_the_loop_and_one_of_them_is_found(server):
    parent: Path = server.base / "output" / "krona"
    run(server, "first", steps(20))
    for number in range(RUNS):
        folder = parent / f"run-{number}"
        folder.mkdir()
        for name in ("metrics.jsonl", "run.yaml"):
            os.link(parent / "first" / name, folder / name)
    assert longest_delay(server, lambda: ask(server, "/krona/runs")) < LONGEST
    assert len(json.loads(ask(server, "/krona/runs")[1])["runs"]) >= RUNS
    assert ask(server, "/krona/runs/run-77")[0] == 200
