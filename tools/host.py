"""Finds a ComfyUI, or installs one, and runs Python on top of it.

    python3 tools/host.py setup        install what is missing
    python3 tools/host.py run ARGS…    Python with ComfyUI's packages, this pack's and the tests', given ARGS
    python3 tools/host.py where        the places, as JSON

The ComfyUI is the one that COMFYUI_PATH names; else the one in whose custom_nodes this pack stands; else one that is
installed in the user's cache folder (KRONA_CACHE to choose another). Needs nothing but Python 3.10 and the standard
library. Into a user's own ComfyUI nothing is installed but requirements.txt.
"""

import sys

# Before everything that an older Python could not read; no `from __future__ import annotations` for the same reason.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        "error: Python {}.{} is too old, 3.10 or newer is needed.\n"
        "Choose another: make setup PYTHON=/path/to/python3.12".format(*sys.version_info)
    )

import argparse
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parents[1]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from tools.install import cache, command, managed, own  # noqa: E402
from tools.install.errors import HostError  # noqa: E402
from tools.install.lock import locked  # noqa: E402
from tools.install.overlay import Overlay  # noqa: E402
from tools.install.recipe import COMFYUI_VERSION  # noqa: E402
from tools.install.steps import Say, Steps  # noqa: E402

REQUIREMENTS = (PACK / "requirements.txt", PACK / "requirements-test.txt")


@dataclass(frozen=True)
class Host:
    """A ComfyUI, ready to run."""

    comfyui: Path
    """The folder with main.py."""
    python: Path
    """ComfyUI's own Python."""
    env_python: Path
    """The same packages, and this pack's and the tests' on top."""
    managed: bool
    """Whether it is the install in the cache folder, not the user's own."""


@dataclass(frozen=True)
class _Place:
    """Where a ComfyUI is or will be."""

    comfyui: Path
    python: Path
    install: managed.Managed | None
    """The managed install that has to be there first; None where ComfyUI is a finished one."""
    is_managed: bool

    def host(self) -> Host | None:
        """The host, if nothing is missing."""
        if self.install and not self.install.is_ready():
            return None
        overlay = self.overlay()
        if overlay is None or not overlay.is_ready():
            return None
        return Host(self.comfyui, self.python, overlay.python, self.is_managed)

    def overlay(self) -> Overlay | None:
        """The environment on top; None where ComfyUI's Python does not run."""
        return Overlay.over(cache.cache_folder(), self.python, REQUIREMENTS)


def _place() -> _Place:
    comfyui = own.find_comfyui(PACK)
    if comfyui is None:
        install = managed.Managed(cache.cache_folder())
        return _Place(install.comfyui, install.python, install, True)
    return _Place(comfyui, own.find_python(comfyui), None, managed.is_managed(comfyui))


def find() -> Host:
    """The ComfyUI to use; changes nothing.

    Raises:
        HostError: There is none yet, or something that it needs is missing.
    """
    host = _place().host()
    if host is None:
        raise HostError("ComfyUI is not set up for this pack yet. Run: make setup")
    return host


def comfyui_folder() -> Path:
    """The folder with main.py; quicker than ``find`` where its place is given.

    Raises:
        HostError: As ``find``.
    """
    return own.find_comfyui(PACK) or find().comfyui


def setup(say: Say = print) -> Host:
    """The ComfyUI to use; installs what is missing, one line to ``say`` per step.

    Raises:
        HostError: It cannot be done; the text says why and what helps.
    """
    place = _place()
    host = place.host()
    if host is None:
        folder = cache.make_folder(cache.cache_folder())
        with locked(folder / "setup.lock", lambda: say(f"another setup is at work in {folder}; waiting for it ...")):
            host = place.host() or _install(place, say)
    kind = f"ComfyUI {COMFYUI_VERSION}" if place.install else "ComfyUI"
    say(f"ready: {kind} in {host.comfyui}")
    return host


def _install(place: _Place, say: Say) -> Host:
    if place.install:
        steps = Steps(managed.STEPS + 1, say)
        _install_managed(place.install, steps)
    elif place.is_managed:
        steps = Steps(1, say)
    else:
        steps = Steps(2, say)
        _install_into_own(_overlay(place), steps)
    overlay = _overlay(place)  # looked at anew: the step before has changed the host
    with steps.step("installing this pack's requirements and the tests' on top"):
        overlay.install()
    return Host(place.comfyui, place.python, overlay.python, place.is_managed)


def _install_managed(install: managed.Managed, steps: Steps) -> None:
    if install.is_ready() and Overlay.over(install.cache, install.python, REQUIREMENTS):
        for what in ("Python environment", f"ComfyUI {COMFYUI_VERSION}", "PyTorch", "what ComfyUI requires"):
            steps.skip(what)
    else:
        install.install(steps)


def _overlay(place: _Place) -> Overlay:
    overlay = place.overlay()
    if overlay is None:
        raise HostError(f"{place.python} does not run. Set COMFYUI_PYTHON to the Python that starts ComfyUI.")
    return overlay


def _install_into_own(overlay: Overlay, steps: Steps) -> None:
    with steps.step(f"installing requirements.txt into ComfyUI's Python {overlay.host_python}"):
        log = overlay.cache / "own-python.log"
        pins = overlay.write_pins(overlay.cache / "own-python-pins.txt")  # it is the user's: nothing in it is replaced
        wanted: list[str | Path] = ["-r", REQUIREMENTS[0], "-c", pins]
        command.pip(overlay.host_python, ["install", *wanted], log, "Installing requirements.txt")


def run(args: list[str]) -> int:
    """Become Python with ``args``, after setting up what is missing; the exit code where a process cannot be replaced.

    ``COMFYUI_PATH`` and ``COMFYUI_PYTHON`` are set for it, so that whatever it starts finds the same ComfyUI.
    """
    host = _quiet_setup()
    environment = {**os.environ, "COMFYUI_PATH": str(host.comfyui), "COMFYUI_PYTHON": str(host.python)}
    argv = [str(host.env_python), *args]
    if sys.platform == "win32":  # exec there returns to the shell at once
        return subprocess.call(argv, env=environment)
    sys.stdout.flush()
    os.execve(argv[0], argv, environment)


def _quiet_setup() -> Host:
    try:
        return find()
    except HostError:
        return setup(lambda line: print(line, file=sys.stderr, flush=True))


def where() -> dict:
    """The places as JSON values, whether or not anything is there yet."""
    place = _place()
    host = place.host()
    return {
        "comfyui": str(place.comfyui),
        "python": str(place.python),
        "env_python": str(host.env_python) if host else None,
        "managed": place.is_managed,
        "ready": host is not None,
    }


def main(argv: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="install what is missing")
    commands.add_parser("where", help="print the places as JSON")
    commands.add_parser("run", help="run Python on top of ComfyUI, with the arguments that follow", add_help=False)
    if argv[:1] == ["run"]:  # whatever follows is Python's: argparse would take -m for its own
        return run(argv[1:])
    options = parser.parse_args(argv)
    if options.command == "where":
        print(json.dumps(where(), indent=2))
    else:
        setup(lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    # As an exception, which ends a running pip too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; run the same command again to go on from here"))
    try:
        sys.exit(main(sys.argv[1:]))
    except HostError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command again to go on from here")
