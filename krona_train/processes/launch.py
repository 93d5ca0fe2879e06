"""A training in a process of its own, or in one per GPU: started, followed, stopped."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from krona_ops.errors import TrainingError

from ..run.events import Ended, Event, Sink
from ..run.requests import Ask, ask, forget
from ..run.state import newest
from .wire import from_line

LOG = "log.txt"
_ROOT = Path(__file__).resolve().parents[2]
SECONDS_TO_STOP = 120.0
"""A step and a look take this long at most on anything that can train at all; after it the process is ended."""
_SECONDS_TO_END = 40.0
"""A launcher gives its processes 30 to end."""
_POLL = 0.2


def command(
    run_yaml: Path,
    folder: Path,
    *,
    processes: int = 1,
    resume: bool = False,
    encoded: Path | None = None,
    comfyui: Path | None = None,
    claimed: str = "",
    host_arguments: Sequence[str] = (),
) -> list[str]:
    """The command line of a training.

    Args:
        folder: The run's.
        processes: One per GPU; more than one start through ``accelerate launch``.
        encoded: What `Material.save` wrote, where the pictures are encoded already.
        comfyui: The one whose code loads the model; of a file alone it is not taken (`krona_train.comfyui.start`).
        claimed: The token of whoever holds the folder (`krona_train.run.claim`).
        host_arguments: Of ComfyUI, such as ``--cpu`` or ``--fp32-vae``.
    """
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1"]
        start += ["--main_process_port", "0"]  # a free one: two trainings on one machine must not meet
        start += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the trainer's own settings decide
        start += ["--multi_gpu", "-m"]  # also without GPUs: accelerate's --cpu starts several only through MPI
    options = ["--folder", str(folder), "--events", *(["--resume"] if resume else [])]
    options += ["--encoded", str(encoded)] if encoded else []
    options += ["--comfyui", str(comfyui)] if comfyui else []
    options += ["--claimed", claimed] if claimed else []
    return [*start, "krona_train", str(run_yaml), *options, *(["--", *host_arguments] if host_arguments else [])]


def follow(
    arguments: Sequence[str],
    folder: Path,
    sink: Sink,
    poll: Callable[[], None] = lambda: None,
    *,
    seconds_to_stop: float = SECONDS_TO_STOP,
) -> None:
    """Run a training to its end and hand on its events. What it prints otherwise goes into ``log.txt`` of its folder.

    Args:
        poll: Called several times a second; an exception that it raises (an interrupt) stops the training, which saves
            its state first, and is raised again.
        seconds_to_stop: How long a training that was asked to stop may take before it is ended.

    Raises:
        TrainingError: The training failed; the text is its own, or the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    forget(folder)  # what is left of an earlier training
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            list(arguments),
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=_ROOT,
            start_new_session=True,  # a group of its own: with many GPUs it has children
        )
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
        reader.start()
        ended: Ended | None = None
        try:
            while (line := _next(lines, poll, process)) is not None:
                event = _event(line, folder, log)
                if isinstance(event, Ended):
                    ended = event
                if event is not None:
                    sink(event)
        except BaseException:
            _stop(process, folder, seconds_to_stop)
            raise
        finally:
            process.wait()
            _kill_group(process)
            reader.join()
            process.stdout.close()  # type: ignore[union-attr]
            while not lines.empty() and (line := lines.get()) is not None:
                _event(line, folder, log)
            forget(folder)
    where = f" What was trained is in {folder}; choose it in 'resume' to go on." if newest(folder) else ""
    if ended is not None and ended.error is not None:
        raise TrainingError(f"{ended.error}{where}", found=str(ended.error)) from ended.error
    if process.returncode != 0:
        raise TrainingError(
            f"The training's process ended with code {process.returncode}: {_tail(folder / LOG)}.",
            where=str(folder),
            found=process.returncode,
            expected=0,
            remedy=f"All that it said is in {folder / LOG}.{where}",
        )


def _event(line: str, folder: Path, log: IO[bytes]) -> Event | None:
    event = from_line(line, folder)
    if event is None:
        log.write(line.encode(errors="replace"))
        log.flush()
    return event


def _read(process: subprocess.Popen, lines: queue.Queue[str | None]) -> None:
    for line in process.stdout or ():
        lines.put(line.decode(errors="replace"))
    lines.put(None)


def _next(lines: queue.Queue[str | None], poll: Callable[[], None], process: subprocess.Popen) -> str | None:
    while True:
        poll()
        try:
            return lines.get(timeout=_POLL)
        except queue.Empty:
            if process.poll() is not None:
                _kill_group(process)  # what it has left behind holds the pipe open


def _stop(process: subprocess.Popen, folder: Path, seconds: float) -> None:
    """Ask first: a training that stops by itself has saved its state."""
    ask(folder, Ask.STOP)
    for impatient in (process.terminate, lambda: _kill_group(process), process.kill):
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            impatient()
            seconds = min(seconds, _SECONDS_TO_END)


def _kill_group(process: subprocess.Popen) -> None:
    """End what the training has started and not ended itself."""
    if os.name != "nt":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _tail(log: Path, lines: int = 8) -> str:
    """What a log ends with, or its last traceback: what the process printed before may have been written after it."""
    text = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    traces = [
        number for number, line in enumerate(text) if line.lstrip().startswith("Traceback (most recent call last)")
    ]
    if traces:
        ends = (n for n in range(traces[-1] + 1, len(text)) if text[n].strip() and not text[n][0].isspace())
        text = text[traces[-1] : next(ends, len(text)) + 1]
    return " | ".join(line.strip() for line in text[-lines:]) or "it said nothing"
