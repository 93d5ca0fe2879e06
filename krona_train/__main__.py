"""Train without a graph: ``python -m krona_train run.yaml``, or ``accelerate launch -m krona_train run.yaml`` on many devices.

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
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from krona_ops.errors import ConfigError, KronaError

from .comfyui_start import find_comfyui, has_gpu, prepare_comfyui
from .events import Ended, Event, Noted, Sink, Started, Stepped, Validated
from .job import Job, dataset_of, load_job, to_text
from .launch import STOP
from .runtime import Accelerated, OneProcess, Runtime
from .state import TrainState, newest
from .wire import to_line

log = logging.getLogger("krona_train")
STOPPED = 130
"""The exit code of a training that was asked to stop, as a shell gives it for Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job of a YAML file; returns the exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        job = load_job(options.file)
        find_comfyui(options.comfyui or job.comfyui)
        is_launched = "LOCAL_RANK" in os.environ
        runtime: Runtime = Accelerated(cpu="--cpu" in options.host or not has_gpu()) if is_launched else OneProcess()
        prepare_comfyui(options.host)
        return _train(job, options, runtime)
    except KronaError as error:
        log.error("%s", error)
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
    parser.add_argument("--events", action="store_true", help="print one JSON line per event instead of a progress bar")
    options = parser.parse_args(list(arguments)[:split])
    options.host = list(arguments)[split + 1 :]
    return options


def _train(job: Job, options: argparse.Namespace, runtime: Runtime) -> int:
    from .backbone.comfyui.load import load_clip, load_model, load_vae
    from .backbone.comfyui.material import Material, Places, prepare
    from .backbone.comfyui.train import HostTraining

    config = job.training
    folder = Path(runtime.from_first(str(_folder(job, options))))
    resume = _state(folder) if options.resume else None
    model = load_model(job.model)
    encoded = options.encoded or folder / "encoded.safetensors"
    needs_clip, needs_vae = config.adapter.text_encoder, config.preview.every > 0
    clip = vae = None
    if runtime.number == 0 and (options.encoded is None and (resume is None or not encoded.is_file())):
        clip, vae = load_clip(job.model), load_vae(job.model)
        shared = folder.parent
        places = Places(shared / ".cache", shared / "class pictures")
        prepare(model, clip, vae, dataset_of(job), config, places, _tell_preparation(options.events)).save(encoded)
    material = Material.load(runtime.from_first(str(encoded)))
    if needs_clip and clip is None:
        clip = load_clip(job.model)
    if needs_vae and vae is None and runtime.number == 0:
        vae = load_vae(job.model)
    training = HostTraining(model, clip, vae, material, config, to_text(dataclasses.replace(job, name=folder.name)))
    show = _events(folder) if options.events else _Bar(config.steps)
    training.run(folder, [show], resume, runtime, _stop_asked(folder))
    return 0


def _folder(job: Job, options: argparse.Namespace) -> Path:
    if options.folder is not None:
        return options.folder.resolve()
    if options.resume:
        return options.file.resolve().parent
    wanted = Path(job.output) / job.name
    # The file of a finished run starts the next one beside it, not inside it.
    wanted = options.file.resolve().parent.with_name(job.name) if (wanted.parent / "metrics.jsonl").exists() else wanted
    number, folder = 1, wanted
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _state(folder: Path) -> TrainState:
    path = newest(folder)
    if path is None:
        raise ConfigError(
            "There is no saved state to go on from.",
            layer=str(folder),
            found="no state-….safetensors",
            expected="the folder of a run",
            remedy="Leave --resume out to start a new run.",
        )
    return TrainState.load(path)


def _stop_asked(folder: Path) -> Callable[[], bool]:
    """Whether the training shall stop: a signal came, or the file that asks for it is there. A second signal is not waited for."""
    asked = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return lambda: bool(asked) or (folder / STOP).exists()


def _tell_preparation(is_quiet: bool) -> Callable[[int, int, str], None]:
    def tell(done: int, total: int, what: str) -> None:
        if not is_quiet and what:
            log.info("%d of %d: %s", done + 1, total, what)

    return tell


def _events(folder: Path) -> Sink:
    def show(event: Event) -> None:
        line = to_line(event, folder)
        if line is not None:
            print(line, flush=True)

    return show


class _Bar:
    """A progress bar for a person."""

    def __init__(self, steps: int) -> None:
        self._bar = tqdm(total=steps, unit="step", dynamic_ncols=True)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._bar.update(event.done)
            tqdm.write(f"training {event.parameters:,} parameters in {event.layers} layers", file=sys.stderr)
        elif isinstance(event, Stepped):
            self._bar.set_postfix(loss=f"{event.loss:.4f}", refresh=False)
            self._bar.update()
        elif isinstance(event, Noted):
            tqdm.write(event.text, file=sys.stderr)
        elif isinstance(event, Validated):
            tqdm.write(
                f"step {event.step}: validation loss {event.loss:.5f}{' (best)' if event.is_best else ''}", file=sys.stderr
            )
        elif isinstance(event, Ended):
            self._bar.close()


if __name__ == "__main__":
    sys.exit(main())
