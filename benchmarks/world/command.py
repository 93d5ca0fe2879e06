"""What the world's scripts have in common on the command line."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch


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
