"""Finds a Chromium for the browser tests, or installs one.

    python3 tools/comfyui/browser.py           find it, install it where missing, print where it is

One that is there is used: the file that CHROMIUM names, a Chromium or Chrome on the PATH, one that Playwright has
installed. Else Debian's or Ubuntu's package is installed where this user may do that.
Needs nothing but the standard library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
PLAYWRIGHT = ("~/.cache/ms-playwright", "~/Library/Caches/ms-playwright", "~/AppData/Local/ms-playwright")
ITS_OWN = (
    "chromium-*/chrome-linux*/chrome",
    "chromium-*/chrome-mac*/Chromium.app/Contents/MacOS/Chromium",
    "chromium-*/chrome-win*/chrome.exe",
)


class NoBrowser(Exception):  # noqa: N818
    """There is none and it cannot be installed; the text says what to do."""


def find() -> Path | None:
    """A Chromium that is there, or None."""
    named = os.environ.get("CHROMIUM")
    if named:
        if not Path(named).is_file():
            raise NoBrowser(f"CHROMIUM names {named}, which is no file. Set it to the program, or unset it.")
        return Path(named)
    paths = [shutil.which(name) for name in NAMES] + [place for place in PLACES if Path(place).is_file()]
    paths += [
        str(path)
        for folder in PLAYWRIGHT
        for pattern in ITS_OWN
        for path in sorted(Path(folder).expanduser().glob(pattern))
    ]
    return next((Path(path) for path in paths if path), None)


def install() -> Path:
    """A Chromium; Debian's package is installed where there is none.

    Raises:
        NoBrowser: It is not there, and this is no Debian or this user may not install packages.
    """
    there = find()
    if there is not None:
        return there
    apt = shutil.which("apt-get")
    rights = [] if getattr(os, "geteuid", lambda: 1)() == 0 else ["sudo", "-n"]
    if apt is None or (rights and not shutil.which("sudo")):
        raise NoBrowser(_advice("this system has no apt-get that this user may use"))
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    output = ""
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        command = [*rights, apt, *arguments]
        print(f"installing Chromium for the browser tests: {' '.join(command)}", flush=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
    there = find()
    if there is None:
        raise NoBrowser(_advice(" | ".join(output.strip().splitlines()[-5:])))
    return there


def _advice(why: str) -> str:
    return (
        f"The browser tests need Chromium, there is none, and it could not be installed: {why}.\n"
        "Install Chromium or Chrome (Debian: apt-get install chromium), or set CHROMIUM=/path/to/it. "
        'All other tests run with: make test ARGS="--ignore tests/web"'
    )


def main() -> int:
    """The command line."""
    try:
        print(f"browser: {install()}")
    except NoBrowser as error:
        if "ignore" in os.environ.get("ARGS", ""):
            print(f"note: {error}")
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
