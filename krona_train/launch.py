"""A training in a process of its own, or in one per GPU: started, followed, stopped."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from krona_ops.errors import TrainingError

from .events import Ended, Event, Sink
from .wire import from_line

STOP = "stop"
"""A file of this name in a run's folder asks its training to stop after the step that it is in."""
LOG = "log.txt"
_ROOT = Path(__file__).resolve().parents[1]
_SECONDS_TO_STOP = 120
"""A step and a look take this long at most on anything that can train at all; after it the process is ended."""
_POLL = 0.2


def command(
    run_yaml: Path,
    folder: Path,
    *,
    processes: int = 1,
    resume: bool = False,
    encoded: Path | None = None,
    host_arguments: Sequence[str] = (),
) -> list[str]:
    """The command line of a training.

    Args:
        folder: The run's.
        processes: One per GPU; more than one start through ``accelerate launch``.
        encoded: What `Material.save` wrote, where the pictures are encoded already.
        host_arguments: Of ComfyUI, such as ``--cpu`` or ``--fp32-vae``.
    """
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1"]
        start += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the trainer's own settings decide
        start += ["--multi_gpu", "-m"]  # also without GPUs: accelerate's --cpu starts several only through MPI
    options = ["--folder", str(folder), "--events", *(["--resume"] if resume else [])]
    options += ["--encoded", str(encoded)] if encoded else []
    return [*start, "krona_train", str(run_yaml), *options, *(["--", *host_arguments] if host_arguments else [])]


def follow(arguments: Sequence[str], folder: Path, sink: Sink, poll: Callable[[], None] = lambda: None) -> None:
    """Run a training to its end and hand on its events. What it prints otherwise goes into ``log.txt`` of its folder.

    Args:
        poll: Called several times a second; an exception that it raises (an interrupt) stops the training, which saves its
            state first, and is raised again.

    Raises:
        TrainingError: The training failed; the text is its own, or the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            list(arguments), stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=_ROOT
        )
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
        reader.start()
        ended: Ended | None = None
        try:
            while (line := _next(lines, poll)) is not None:
                event = _told(line, log)
                if isinstance(event, Ended):
                    ended = event
                if event is not None:
                    sink(event)
        except BaseException:
            _stop(process, folder)
            raise
        finally:
            process.wait()
            reader.join()
            (folder / STOP).unlink(missing_ok=True)
    if ended is not None and ended.error is not None:
        raise ended.error
    if process.returncode != 0:
        raise TrainingError(
            f"The training's process ended with code {process.returncode}: {_tail(folder / LOG)}",
            layer=str(folder),
            found=process.returncode,
            expected=0,
            remedy=f"All that it said is in {folder / LOG}. The newest saved state is kept: choose the run in 'resume' to go on.",
        )


def _told(line: str, log: object) -> Event | None:
    event = from_line(line)
    if event is None:
        log.write(line.encode())  # type: ignore[attr-defined]
        log.flush()  # type: ignore[attr-defined]
    return event


def _read(process: subprocess.Popen, lines: queue.Queue[str | None]) -> None:
    for line in process.stdout or ():
        lines.put(line.decode(errors="replace"))
    lines.put(None)


def _next(lines: queue.Queue[str | None], poll: Callable[[], None]) -> str | None:
    while True:
        poll()
        try:
            return lines.get(timeout=_POLL)
        except queue.Empty:
            continue


def _stop(process: subprocess.Popen, folder: Path) -> None:
    """Ask first: a training that stops by itself has saved its state."""
    (folder / STOP).touch()
    try:
        process.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _tail(log: Path, lines: int = 8) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return " | ".join(line.strip() for line in text[-lines:]) or "it said nothing"
