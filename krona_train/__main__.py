"""Train without a graph: ``python -m krona_train run.yaml``,
or ``accelerate launch -m krona_train run.yaml`` on many devices.

``python -m krona_train evaluate`` judges pictures instead (`krona_train.evaluation`).

``run.yaml`` is what every run writes into its folder; docs/training.md lists what can be in it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from krona_ops.errors import KronaError
from krona_ops.shown import printable

from .comfyui.start import find_comfyui, has_gpu, prepare_comfyui
from .processes.together import Accelerated, OneProcess, Runtime, is_launched
from .run.job import load_job

log = logging.getLogger("krona_train")
STOPPED = 130
"""The exit code of a training that was asked to stop, as a shell gives it for Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job of a YAML file, or judge pictures; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["evaluate"]:
        from .evaluation.command import main as evaluate

        return evaluate(arguments[1:])
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        job = load_job(options.file)
        host = find_comfyui(options.comfyui, job.comfyui)
        runtime: Runtime = Accelerated(cpu="--cpu" in options.host or not has_gpu()) if is_launched() else OneProcess()
        prepare_comfyui(options.host)
        from .session.command import train  # it imports ComfyUI's modules

        train(job, options, runtime, host)
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
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in whose folder the file is (or --folder)"
    )
    parser.add_argument("--folder", type=Path, help="the run's folder; a new one named in the file otherwise")
    parser.add_argument("--comfyui", default="", help="the ComfyUI whose code loads the model")
    parser.add_argument("--encoded", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--claimed", default="", help=argparse.SUPPRESS)
    parser.add_argument("--events", action="store_true", help="print one JSON line per event instead of a progress bar")
    options = parser.parse_args(list(arguments)[:split])
    options.host = list(arguments)[split + 1 :]
    return options


if __name__ == "__main__":
    sys.exit(main())
