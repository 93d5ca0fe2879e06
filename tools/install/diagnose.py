"""From a failed command's output to a sentence that a person can act on."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

AGAIN = "Then run the same command again: it goes on where it stopped."


@dataclass(frozen=True)
class Diagnosis:
    """One known way to fail."""

    pattern: str
    """Regular expression, searched in the whole output."""
    found: str
    remedy: str
    is_network: bool = False
    """Whether trying again may help."""


# The order matters: pip warns of every retry, so that a network warning may stand above the true cause.
DIAGNOSES = (
    Diagnosis(
        r"No space left on device|Errno 28\b|WinError 112|not enough space on the disk",
        "the disk is full.",
        f"About 7 GB are needed; free some space or set KRONA_CACHE to a folder on another disk. {AGAIN}",
    ),
    Diagnosis(
        r"DO NOT MATCH THE HASHES",
        "the package index delivered a file that is not the expected one (its sha256 differs), so it was not used.",
        "Check which package index pip is set to use; a proxy may also have changed the file.",
    ),
    Diagnosis(
        r"externally-managed-environment",
        "this Python belongs to the operating system, which does not let pip install into it.",
        "Give ComfyUI a virtual environment of its own and set COMFYUI_PYTHON to the Python in it.",
    ),
    Diagnosis(
        r"ensurepip\s+is\s+not\s+available|No module named '?(ensurepip|venv)|ensurepip.* returned non-zero",
        "this Python cannot make virtual environments.",
        "On Debian and Ubuntu: apt-get install python3-venv. Elsewhere use the Python of python.org or of conda, "
        "as in: make setup PYTHON=/path/to/python3",
    ),
    Diagnosis(
        r"ResolutionImpossible|conflicting dependencies",
        "a package asks for other versions than those that ComfyUI has.",
        "The log names both. In ComfyUI's own environment, update the older of the two.",
    ),
    Diagnosis(
        r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|ProtocolError"
        r"|SSLError|CERTIFICATE_VERIFY_FAILED|Max retries exceeded|Temporary failure in name resolution"
        r"|Network is unreachable|Connection refused|Connection reset|Connection aborted|Connection broken"
        r"|IncompleteRead|RemoteDisconnected|Read timed out|HTTP error 5\d\d|5\d\d (Server|Service) ",
        "could not reach the package index.",
        f"Check the network, the proxy settings and pip's own settings (python3 -m pip config list). {AGAIN}",
        is_network=True,
    ),
    Diagnosis(
        # All that pip says of an index out of reach when it is set not to retry.
        r"from versions: none|No matching distribution found",
        "could not reach the package index, or it has no file that fits this Python and system.",
        "Check the network and pip's own settings (python3 -m pip config list). If there are no packages for Python "
        f"{sys.version_info[0]}.{sys.version_info[1]} yet, choose another: make setup PYTHON=/path/to/python3.12",
    ),
    Diagnosis(
        r"Permission denied|Access is denied|Read-only file system",
        "a file could not be written.",
        "Check who owns the folder, or set KRONA_CACHE to a folder that can be written to.",
    ),
)
UNKNOWN = Diagnosis("", "the command failed.", f"See the log. {AGAIN}")


def diagnose(output: str) -> Diagnosis:
    """The first known cause that ``output`` shows, or ``UNKNOWN``."""
    for diagnosis in DIAGNOSES:
        if re.search(diagnosis.pattern, output):
            return diagnosis
    return UNKNOWN


def last_words(output: str, lines: int = 8) -> str:
    """The lines worth showing: pip's ERROR lines if there are some, otherwise the last ones."""
    kept = [line for line in output.splitlines() if line.strip() and not line.startswith("WARNING: Location")]
    errors = [line for line in kept if line.lstrip().startswith(("ERROR", "error:"))]
    return "\n".join(f"    {line[:300]}" for line in (errors or kept)[-lines:])
