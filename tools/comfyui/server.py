"""A real ComfyUI server as a subprocess, for the demo, the tests and ``make serve``.

    python tools/comfyui/server.py serve [--base DIR] [--port N]

Runs in the Python of ``tools/host.py run``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from tools import host  # noqa: E402
from tools.comfyui.client import (  # noqa: E402
    Client,
    ClientError,
    Event,
    PromptRejected,
    Result,
    RunFailed,
    RunInterrupted,
    RunTimeout,
    ServerLost,
)

__all__ = [
    "Client",
    "ClientError",
    "Event",
    "PromptRejected",
    "Result",
    "RunFailed",
    "RunInterrupted",
    "RunTimeout",
    "Server",
    "ServerFailed",
    "ServerLost",
]

PORT_TRIES = 3


class ServerFailed(Exception):  # noqa: N818
    """The server did not start; the text holds the end of its log."""


class Server:
    """A running ComfyUI with a base folder of its own: models, input, output and custom nodes are below it.

    >>> with Server(folder, packs={"krona": PACK}) as server:
    ...     result = server.client.run(graph)
    """

    def __init__(
        self,
        base: Path | str,
        *,
        packs: Mapping[str, Path] | None = None,
        cpu: bool | None = None,
        port: int | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        comfyui: Path | None = None,
        python: Path | None = None,
        ready_seconds: float = 180.0,
    ):
        """Nothing starts yet.

        Args:
            base: Its folder, made where missing.
            packs: Folder name to custom node pack, linked into ``base/custom_nodes``; without any the server is plain.
            cpu: Whether to use the processor; None: where torch finds no accelerator.
            port: None: a free one.
            args: Further arguments of ComfyUI's main.py.
            env: Further environment variables.
            comfyui: The folder with main.py; None: the one that ``tools/host.py`` finds.
            python: What runs it; None: this Python.
            ready_seconds: How long it may take to answer.
        """
        self.base = Path(base).absolute()
        self.log_file = self.base / "server.log"
        self.port = 0
        """Where it listens; 0 until it is started."""
        self._packs = dict(packs or {})
        self._cpu = cpu
        self._wanted_port = port
        self._args = tuple(args)
        self._env = dict(env or {})
        self._comfyui = comfyui
        self._python = Path(python or sys.executable)
        self._ready_seconds = ready_seconds
        self._log_start = 0
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process.

        Raises:
            ServerFailed: It is not running.
        """
        if self.process is None:
            raise ServerFailed("ComfyUI is not running.")
        return self.process.pid

    @property
    def client(self) -> Client:
        """A client for it."""
        return Client(self.url)

    def log(self) -> str:
        """Everything that it has printed since this start."""
        with open(self.log_file, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ServerFailed: It ended, or did not answer in time; with the end of its log.
            HostError: There is no ComfyUI to start.
        """
        comfyui = Path(self._comfyui) if self._comfyui else host.comfyui_folder()
        cpu = not has_accelerator() if self._cpu is None else self._cpu
        lay_out(self.base, self._packs)
        for remaining in reversed(range(1 if self._wanted_port else PORT_TRIES)):
            self.port = self._wanted_port or free_port()
            try:
                self._wait(self._launch(comfyui, cpu))
                return
            except BaseException as error:
                self.stop()
                # Between choosing a port and listening on it, another process may have taken it.
                if remaining and isinstance(error, ServerFailed) and "is already in use" in str(error):
                    continue
                raise

    def _launch(self, comfyui: Path, cpu: bool) -> subprocess.Popen:
        argv = [
            *(self._python, comfyui / "main.py", *arguments(self.base, self.port, cpu)),
            # No calls to the outside, and the same attention on every machine.
            *("--disable-auto-launch", "--disable-api-nodes", "--use-pytorch-cross-attention"),
            *self._args,
        ]
        with open(self.log_file, "ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                [str(arg) for arg in argv],
                cwd=comfyui,
                # Unbuffered: what it said last is in the log when it dies.
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, so that what it starts ends with it
            )
        return self.process

    def _wait(self, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + self._ready_seconds
        while not self._answers():
            try:
                code = process.wait(0.1)
                raise ServerFailed(f"ComfyUI ended with code {code} while starting.\n{self._log_end()}")
            except subprocess.TimeoutExpired:
                pass
            if time.monotonic() > deadline:
                raise ServerFailed(f"ComfyUI did not answer within {self._ready_seconds:g} s.\n{self._log_end()}")

    def _answers(self) -> bool:
        try:
            stats = Client(self.url, seconds=5).get_json("/system_stats")
        except (ClientError, urllib.error.HTTPError, ValueError):
            return False
        # Another ComfyUI could have taken the port.
        return str(self.base) in stats["system"]["argv"]

    def _log_end(self, lines: int = 30) -> str:
        return "\n".join([f"The end of {self.log_file}:", *self.log().splitlines()[-lines:]])

    def stop(self) -> None:
        """End it and everything that it started; does nothing if it is not running."""
        if self.process is None:
            return
        self._signal("SIGTERM")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self._signal("SIGKILL")  # whoever of the group is left
        self.process.wait()
        self.process = None

    def _signal(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            if sys.platform == "win32":
                subprocess.run(["taskkill", "/F", "/T", "/PID", str(self.pid)], capture_output=True, check=False)
            else:
                os.killpg(self.pid, getattr(signal, name))


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_accelerator() -> bool:
    """Whether torch can use anything but the processor here (ComfyUI has to be told when it cannot)."""
    import torch

    backends = (torch.cuda, torch.backends.mps, getattr(torch, "xpu", None))
    return any(backend is not None and backend.is_available() for backend in backends)


def link(path: Path, target: Path) -> None:
    """Make ``path`` lead to the folder ``target``; an older link there is replaced.

    Raises:
        FileExistsError: ``path`` is a folder of its own.
    """
    target = target.absolute()
    if path.is_symlink():
        path.unlink()
    elif path.exists() and path.resolve() != path.parent.resolve() / path.name:
        path.rmdir()  # a junction: this removes the link, not what it leads to
    try:
        path.symlink_to(target, target_is_directory=True)
    except OSError:
        if sys.platform != "win32" or path.exists():
            raise
        # There symbolic links need a privilege; junctions do not.
        import _winapi

        _winapi.CreateJunction(str(target), str(path))


def arguments(base: Path, port: int, cpu: bool) -> list[str]:
    """The arguments of main.py for a server on this machine alone whose every file is below ``base``."""
    return [
        *("--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)),
        # Two servers with one database would be in each other's way.
        *("--database-url", f"sqlite:///{(base / 'comfyui.db').as_posix()}"),
        *(["--cpu"] if cpu else []),
    ]


def lay_out(base: Path, packs: Mapping[str, Path]) -> None:
    """Make the base folder of a server, with links to ``packs`` as its custom nodes."""
    for folder in ("custom_nodes", "models/checkpoints", "input", "output"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, pack in packs.items():
        link(base / "custom_nodes" / name, Path(pack))


def serve(base: Path | None, port: int) -> int:
    """Run ComfyUI in the foreground until Ctrl-C; its exit code.

    This project's own install gets a base folder with the pack in it. A user's ComfyUI runs as its owner runs it.
    """
    place = host.find()
    cpu = not has_accelerator()
    if place.managed:
        python = place.env_python
        base = (base or host.cache.cache_folder() / "serve").absolute()
        lay_out(base, {"krona": PACK})  # one name, whichever clone served last
        args = arguments(base, port, cpu)
        print(f"models, pictures and results: {base}", flush=True)
    else:
        python = place.python
        args = ["--port", str(port), *(["--cpu"] if cpu else [])]
        args += ["--base-directory", str(base.absolute())] if base else []
        if PACK.parent.name != "custom_nodes":
            print(
                f"note: this pack is not in {place.comfyui / 'custom_nodes'}; put or link it there to use it",
                flush=True,
            )
    return _foreground([str(python), "main.py", *args], place.comfyui)


def _foreground(argv: list[str], folder: Path) -> int:
    os.chdir(folder)
    if sys.platform == "win32":  # exec there returns to the shell at once
        return subprocess.call(argv)
    os.execv(argv[0], argv)


def main(argv: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    serving = parser.add_subparsers(dest="command", required=True).add_parser(
        "serve", help="run ComfyUI with this pack"
    )
    serving.add_argument("--base", type=Path, help="folder for models, input and output (default: in the cache folder)")
    serving.add_argument("--port", type=int, default=8188)
    options = parser.parse_args(argv)
    return serve(options.base, options.port)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except host.HostError as error:
        sys.exit(f"error: {error}")
