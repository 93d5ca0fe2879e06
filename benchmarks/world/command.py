"""What the world's scripts have in common on the command line."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .render import SIDE

if TYPE_CHECKING:
    from krona_ops import Adapter
    from krona_train import TrainConfig


def say(line: str) -> None:
    """To the log, with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def arguments(text: str, out: Path, **more: str) -> argparse.Namespace:
    """``folder`` to work in, made here; ``out`` for the result; ``scale`` of the number of steps;
    ``threads``, set here; and a script's own, as name to default.

    Args:
        text: What the script does.
        out: Where the result goes unless told otherwise.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=0)
    for name, default in more.items():
        parser.add_argument(f"--{name}", default=default)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


def write_adapter(adapter: Adapter, config: TrainConfig, out: Path, made: str) -> None:
    """A trained adapter's file, with what a training of the pack says in it.

    Args:
        out: The file, whose name is the adapter's.
        made: The script that has trained it.
    """
    from krona_ops import save
    from krona_train.run.metadata import describe

    about = describe(config, name=out.stem, family="small world", captions=(), resolution=SIDE)
    save(adapter.with_metadata(**about, made=made), out)
    say(f"written {out}: {out.stat().st_size / 1e3:.0f} kB")
