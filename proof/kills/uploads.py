"""A real server, killed while uploads come in; the next one on the same folder takes the file and sweeps what was
left."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import torch

from krona_ops import Adapter, Full, Kron, LayerName, load, save
from tools.comfyui.server import PACK, Server

from ..driver import Bench, Outcome

sys.path.append(str(PACK / "tests" / "support"))
import graphs

AGE = 120.0
"""Seconds that pass until somebody starts it again."""


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """A server and a kill for each case; each server also sees what the one before has left."""
    base = graphs.lay_out(bench.folder / "base")
    for number in numbers:
        data = _adapter(bench.folder, number)
        yield Outcome(
            number, "a server killed in an upload", tuple(_one(base, data, bench.rng(number), f"{number}.safetensors"))
        )


def _one(base: Path, data: bytes, rng: Random, name: str) -> list[str]:
    folder = base / "models" / "krona"
    with Server(base, packs={"krona": PACK}, cpu=True) as server:
        with suppress(OSError):
            _part_of_an_upload(server, data, name, rng)
        os.kill(server.pid, signal.SIGKILL)
    violations = _not_whole(folder)
    for path in folder.iterdir() if folder.exists() else ():
        if path.name.startswith("."):
            os.utime(path, (time.time() - AGE,) * 2)
    with Server(base, packs={"krona": PACK}, cpu=True) as server:
        try:
            answer = urllib.request.urlopen(_request(server, data, name), timeout=60)
            answer.read()
        except urllib.error.URLError as error:
            violations.append(f"the next server does not take it: {error}")
        violations += [f"{path.name} is left over" for path in folder.iterdir() if path.name.startswith(".")]
    if not (folder / name).exists() or (folder / name).read_bytes() != data:
        violations.append("the file is not there whole after it was sent again")
    return violations + _not_whole(folder)


def _part_of_an_upload(server: Server, data: bytes, name: str, rng: Random) -> None:
    """Send some of the bytes, or all of them, and wait for no answer."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /krona/adapters?name={name} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/octet-stream\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode())
        connection.sendall(data[: rng.choice((rng.randrange(len(data)), len(data)))])
        time.sleep(rng.random() * 0.2)


def _request(server: Server, data: bytes, name: str) -> urllib.request.Request:
    return urllib.request.Request(
        f"{server.url}/krona/adapters?name={name}",
        data,
        {"Content-Type": "application/octet-stream", "Host": f"127.0.0.1:{server.port}"},
    )


def _not_whole(folder: Path) -> list[str]:
    wrong = []
    for path in folder.glob("[!.]*.safetensors"):
        try:
            load(path)
        except Exception as error:
            wrong.append(f"{path.name} is not whole: {error}"[:300])
    return wrong


def _adapter(folder: Path, number: int) -> bytes:
    """Eight megabytes, so that a kill meets it on its way;
    other ones each time, for what is there already is not taken twice."""
    rng = torch.Generator().manual_seed(number)
    layers = {
        LayerName(f"diffusion_model.{n}.to_q"): Kron(
            Full(torch.randn(8, 8, generator=rng)), Full(torch.randn(512, 512, generator=rng))
        )
        for n in range(8)
    }
    return save(Adapter(layers), folder / "sent.safetensors").read_bytes()
