"""Running Python and pip, with their chatter in a log file and their failures explained."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.install.diagnose import diagnose, last_words
from tools.install.errors import HostError

# Seconds to wait before the second and third try of a download; pip itself has retried for several seconds by then.
RETRY_PAUSES = (2.0, 5.0)


def run(argv: Sequence[str | Path], log: Path, doing: str) -> str:
    """Run a command, its output in ``log``; returns the output.

    Raises:
        HostError: It failed; with the cause, the remedy, the last lines and the log's place.
    """
    code, output = _run(argv, log)
    if code:
        raise _failure(output, log, doing)
    return output


def pip(python: Path, args: Sequence[str | Path], log: Path, doing: str) -> str:
    """Run pip of ``python`` with the user's own pip settings; tries again after network errors.

    Raises:
        HostError: As ``run``.
    """
    # -E: a PYTHONPATH would count as installed here, and be gone when ComfyUI runs.
    argv = [python, "-E", "-m", "pip", *args, "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    for pause in (*RETRY_PAUSES, None):
        code, output = _run(argv, log)
        if not code:
            return output
        if pause is None or not diagnose(output).is_network:
            break
        time.sleep(pause)
    raise _failure(output, log, doing)


def ask(python: Path, code: str) -> Any:
    """What ``code`` prints as JSON under ``python``; None if that Python does not run or the code fails."""
    try:
        done = subprocess.run([python, "-E", "-c", code], capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError):
        return None


def _run(argv: Sequence[str | Path], log: Path) -> tuple[int, str]:
    with open(log, "ab") as file:
        file.write(f"\n$ {' '.join(map(str, argv))}\n".encode())
        file.flush()
        start = file.tell()
        # The log's folder as working folder: with -m the working folder is on sys.path, and the caller's may hold
        # anything.
        # close_fds: with the lock file left open, a pip whose parent was killed still keeps the next set-up waiting.
        code = subprocess.call(
            [str(arg) for arg in argv], stdout=file, stderr=subprocess.STDOUT, cwd=log.parent, close_fds=False
        )
    with open(log, "rb") as file:
        file.seek(start)
        return code, file.read().decode("utf-8", "replace")


def _failure(output: str, log: Path, doing: str) -> HostError:
    diagnosis = diagnose(output)
    return HostError(f"{doing}: {diagnosis.found}\n{diagnosis.remedy}\n{last_words(output)}\nThe whole log: {log}")
