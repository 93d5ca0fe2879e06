"""What every command of `make bench` takes: a folder for the results, and whether it is only a rehearsal.

Standard library only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A command line with ``--results`` and ``--rehearse``; a command adds its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the results (benchmarks/results)")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="set up, check, and take one smallest turn, so that tests can hold that it works; measures nothing",
    )
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options that were given.

    Raises:
        SystemExit: A rehearsal would write among what has been measured.
    """
    options = parser.parse_args()
    if options.rehearse and options.results.resolve() == RESULTS:
        parser.error("a rehearsal measures nothing that may lie among the results: give it --results FOLDER of its own")
    return options
