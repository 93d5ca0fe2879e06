"""Train without a graph: ``python -m krona_train run.yaml``, or ``accelerate launch -m krona_train run.yaml`` on many devices.

``python -m krona_train evaluate`` judges pictures instead (`krona_train.evaluation`).

``run.yaml`` is what every run writes into its folder; docs/training.md lists what can be in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from krona_ops import Adapter, load
from krona_ops.errors import ConfigError, DataError, KronaError
from krona_ops.shown import printable

from .comfyui.start import find_comfyui, has_gpu, host_side, prepare_comfyui, user_folder
from .config.typed_in import safe_name
from .data.source import read_pictures
from .processes.together import Accelerated, OneProcess, Runtime
from .processes.wire import to_line
from .run import layout
from .run.claim import Claim, claim, claim_new, join
from .run.events import Ended, Event, Noted, Sink, Started, Stepped, Validated
from .run.job import Job, load_job, to_text
from .run.litter import sweep_below
from .run.requests import Ask, asked, forget
from .run.state import TrainState, newest_whole

log = logging.getLogger("krona_train")
STOPPED = 130
"""The exit code of a training that was asked to stop, as a shell gives it for Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job of a YAML file, or judge pictures; returns the exit code."""
    told = sys.argv[1:] if arguments is None else arguments
    if told[:1] == ["evaluate"]:
        from .evaluation.command import main as evaluate

        return evaluate(told[1:])
    options = _parse(told)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        job = load_job(options.file)
        host = find_comfyui(options.comfyui, job.comfyui)
        runtime: Runtime = Accelerated(cpu="--cpu" in options.host or not has_gpu()) if _is_launched() else OneProcess()
        prepare_comfyui(options.host)
        _train(job, options, runtime, host)
        runtime.close()
        return 0
    except KronaError as error:
        log.error("%s", printable(str(error), "\n"))
        return 2
    except KeyboardInterrupt:
        return STOPPED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    split = list(arguments).index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m krona_train",
        description="Train a Kronecker adapter as a run.yaml says.",
        epilog="What follows -- is handed to ComfyUI (--cpu, --fp32-vae, --lowvram, ...).",
    )
    parser.add_argument("file", type=Path, help="the run.yaml of a run, or one of your own")
    parser.add_argument("--resume", action="store_true", help="go on with the run in whose folder the file is (or --folder)")
    parser.add_argument("--folder", type=Path, help="the run's folder; a new one named in the file otherwise")
    parser.add_argument("--comfyui", default="", help="the ComfyUI whose code loads the model")
    parser.add_argument("--encoded", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--claimed", default="", help=argparse.SUPPRESS)
    parser.add_argument("--events", action="store_true", help="print one JSON line per event instead of a progress bar")
    options = parser.parse_args(list(arguments)[:split])
    options.host = list(arguments)[split + 1 :]
    return options


def _is_launched() -> bool:
    """Whether this is one of several processes, started by ``accelerate launch``."""
    return "LOCAL_RANK" in os.environ


def _train(job: Job, options: argparse.Namespace, runtime: Runtime, host: Path) -> None:
    with _claimed(job, options) if runtime.number == 0 else nullcontext() as held:
        _train_in(Path(runtime.from_first(str(held.folder) if held is not None else "")), job, options, runtime, host)


def _train_in(folder: Path, job: Job, options: argparse.Namespace, runtime: Runtime, host: Path) -> None:
    from .comfyui.load import load_clip, load_model, load_vae
    from .session.material import Material, Places, prepare, with_prompts
    from .session.training import HostTraining

    leads = runtime.number == 0
    resume = _state(folder) if options.resume else None
    if resume is not None:
        job = dataclasses.replace(job, training=resume.adopted(job.training))
    config = job.training
    if leads and not options.events:  # else who watches has done it, and may have asked for something meanwhile
        forget(folder)
    model = load_model(job.model)
    encoded = options.encoded or folder / layout.ENCODED
    if leads and options.encoded is None and (resume is None or not _is_whole(encoded)):
        places = Places(user_folder(host) / "krona" / "cache", folder.parent / "class pictures")
        sweep_below([places.cache, places.class_pictures])
        clip, vae = load_clip(job.model), load_vae(job.model)
        begun = _start(job, model, clip)
        prepared = prepare(model, clip, vae, read_pictures(job.pictures, job.training.data), config, places, _tell_preparation(options.events))
        # Tried together before anything is written.
        HostTraining(model, clip, vae, prepared, config, "", begun).fingerprints()
        prepared.save(encoded)
        del clip, vae, prepared, begun
    material = Material.load(runtime.from_first(str(encoded)))
    if leads and resume is not None and options.encoded is None:
        _require_same_captions(job, material.captions)
        material = with_prompts(material, lambda: load_clip(job.model), config.preview)
    clip = load_clip(job.model) if config.adapter.text_encoder else None
    vae = load_vae(job.model) if leads and config.preview.every else None
    written = dataclasses.replace(job, name=folder.name, start=layout.START if job.start else "")
    training = HostTraining(model, clip, vae, material, config, to_text(written), _start(job, model, clip))
    requests = Requests(folder if leads else None)
    show = _events(folder, requests) if options.events else _Bar(config.steps, is_hidden=not leads)
    try:
        training.run(folder, [show], resume, runtime, requests, held=True)
    except KeyboardInterrupt:
        # All of them were asked; whoever ends first would have the launcher end the one that is still writing.
        runtime.largest(0)
        raise
    finally:
        if leads:
            forget(folder)  # obeyed


def _is_whole(encoded: Path) -> bool:
    """Whether the pictures that were encoded when the run began can be read; if not, they are encoded again."""
    from .session.material import Material

    try:
        Material.load(encoded)
    except KronaError as error:
        log.info("The pictures are encoded again: %s", error)
        return False
    return True


def _start(job: Job, model: Any, clip: Any) -> Adapter | None:
    """The adapter that the training begins at, by the model's own names."""
    if not job.start:
        return None
    return host_side("canonical").canonical(load(job.start), model, clip if job.training.adapter.text_encoder else None)


def _require_same_captions(job: Job, captions: Sequence[str]) -> None:
    """A run goes on with the pictures that were encoded when it began; say so where the file names others by now.

    Raises:
        ConfigError: Their number or captions are others.
    """
    try:
        now = read_pictures(job.pictures, job.training.data).captions
    except DataError as error:
        log.info("The pictures are not there any more, the encoded ones are: %s", error)
        return
    if now != tuple(captions):
        was, is_now = next(((a, b) for a, b in zip_longest(captions, now, fillvalue="no picture") if a != b))
        raise ConfigError(
            "The saved training had other pictures or captions.",
            layer="pictures",
            found=is_now,
            expected=was,
            remedy=f'It had "{was}" where there is "{is_now}" now: set it back to go on, or start a new run.',
        )


def _claimed(job: Job, options: argparse.Namespace) -> Claim:
    """The run's folder, held from here on.

    Raises:
        ConfigError: Another training holds it.
        AdapterFileError: It cannot be written.
    """
    if options.folder is not None or options.resume:
        folder = (options.folder or options.file.parent).resolve()
        return join(folder, options.claimed) if options.claimed else claim(folder)
    name = safe_name(job.name)
    wanted = Path(job.output) / name
    # The file of a finished run starts the next one beside it, not inside it.
    return claim_new(options.file.resolve().parent.with_name(name) if (wanted.parent / layout.METRICS).exists() else wanted)


def _state(folder: Path) -> TrainState:
    state = newest_whole(folder)
    if state is None:
        raise ConfigError(
            "There is no saved state to go on from.",
            layer=str(folder),
            found="no state-….safetensors",
            expected="the folder of a run",
            remedy="Leave --resume out to start a new run; with --folder it begins in this one.",
        )
    return state


class Requests:
    """What the training is asked: by a signal, or by files in its folder.

    A second signal of a kind ends the process at once; but a launcher passes on what its processes have got already.

    Args:
        folder: Of the run, in the one process that looks at it: files that come and go between the looks of several would
            be obeyed twice.
    """

    def __init__(self, folder: Path | None) -> None:
        self.shall_stop = False
        self._folder = folder
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def __call__(self) -> Ask:
        if self.shall_stop:
            return Ask.STOP
        return asked(self._folder) if self._folder is not None else Ask.NOTHING

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.shall_stop = True
        if not _is_launched():
            signal.signal(number, signal.SIG_DFL)


def _tell_preparation(is_quiet: bool) -> Callable[[int, int, str], None]:
    def tell(done: int, total: int, what: str) -> None:
        if not is_quiet and what:
            log.info("%d of %d: %s", done + 1, total, what)

    return tell


def _events(folder: Path, requests: Requests) -> Sink:
    def show(event: Event) -> None:
        line = to_line(event, folder)
        try:
            if line is not None:
                print(line, flush=True)
        except BrokenPipeError:  # ComfyUI has ended, and nobody waits for the result
            requests.shall_stop = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return show


class _Bar:
    """A progress bar for a person."""

    def __init__(self, steps: int, *, is_hidden: bool) -> None:
        self._steps, self._is_hidden = steps, is_hidden
        self._bar = tqdm(disable=True)  # until training has begun: what is refused before has no bar

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            told = (f"training {event.parameters:,} parameters in {event.layers} layers", *event.notes)
            for line in () if self._is_hidden else told:
                tqdm.write(line, file=sys.stderr)
            self._bar = tqdm(total=self._steps, initial=event.done, unit="step", dynamic_ncols=True, disable=self._is_hidden)
        elif isinstance(event, Stepped):
            self._bar.set_postfix(loss=f"{event.loss:.4f}", refresh=False)
            self._bar.update()
        elif isinstance(event, Noted):
            tqdm.write(printable(event.text), file=sys.stderr)
        elif isinstance(event, Validated):
            tqdm.write(
                f"step {event.step}: validation loss {event.loss:.5f}{' (best)' if event.is_best else ''}", file=sys.stderr
            )
        elif isinstance(event, Ended):
            self._bar.close()


if __name__ == "__main__":
    sys.exit(main())
