"""Judge pictures of a subject from the command line.

``python -m krona_train evaluate --images drawn --references real --prompt "a photo of sks dog" --judges folder``
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from krona_ops.errors import DataError, KronaError
from krona_ops.files import write_atomically

from ..data.folder import find_pictures
from ..data.opening import UNREADABLE, pixels, why
from ..data.tones import in_colour
from .clip_dino import CLIP, DINO, ClipDinoJudge
from .measures import Scores, evaluate
from .prompts import PROMPTS, dreambooth_prompts
from .sheet import score_sheet
from .small_world import SmallWorldJudge

log = logging.getLogger("krona_train")


def main(arguments: Sequence[str]) -> int:
    """Judge, print the table, write it; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parse(arguments)
    try:
        if options.list_prompts:
            sys.stdout.write("\n".join(_prompts(options)) + "\n")
            return 0
        images, references = _read(options.images), _read(options.references)
        judge = SmallWorldJudge() if options.small_world else ClipDinoJudge(options.judges, options.device)
        scores = evaluate(judge, images, references, _prompts(options), options.trigger)
        sys.stdout.write(scores.table() + "\n")
        if options.out is not None:
            _write(options.out, scores, images, references)
        return 0
    except KronaError as error:
        log.error("%s", error)
        return 2


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m krona_train evaluate",
        description=f"CLIP-I, CLIP-T and DINO as in the paper. The folder of --judges holds {CLIP} and {DINO}, each as "
        "transformers' save_pretrained writes it; nothing is downloaded.",
    )
    images = "folder of what was drawn, in the order of the prompts by file name"
    parser.add_argument("--images", type=Path, help=images)
    parser.add_argument("--references", type=Path, help="folder of real pictures of the subject")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", help="what all pictures were to show")
    asked.add_argument("--prompts", type=Path, help="a text file with one prompt per line")
    protocol = "the 25 prompts of DreamBooth's protocol for such a subject"
    asked.add_argument("--dreambooth", choices=list(PROMPTS), help=protocol)
    parser.add_argument("--subject", default="sks dog", help="what DreamBooth's prompts are about")
    parser.add_argument("--trigger", default="sks", help="the subject's own word, taken out of the prompts for CLIP-T")
    judges = parser.add_mutually_exclusive_group()
    judges.add_argument("--judges", type=Path, default=Path("models/krona_judges"), help="folder of CLIP and DINO")
    judges.add_argument("--small-world", action="store_true", help="the judges of the pack's own small world instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="folder for scores.json, scores.txt and sheet.png")
    parser.add_argument("--list-prompts", action="store_true", help="print the prompts, to draw them, and end")
    options = parser.parse_args(list(arguments))
    if not options.list_prompts and (options.images is None or options.references is None):
        parser.error("--images and --references are needed")
    return options


def _prompts(options: argparse.Namespace) -> tuple[str, ...]:
    """
    Raises:
        DataError: The file of prompts cannot be read.
    """
    if options.dreambooth:
        return dreambooth_prompts(options.dreambooth, options.subject)
    if options.prompt is not None:
        return (options.prompt,)
    try:
        return tuple(options.prompts.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The prompts cannot be read: {error}.",
            where=str(options.prompts),
            found="no text",
            expected="one prompt per line",
            remedy="Check the name.",
        ) from error


def _read(folder: Path) -> list[Tensor]:
    """The pictures of a folder by name, each ``(H, W, 3)`` in [0, 1].

    Raises:
        DataError: There are none, or one of them cannot be read.
    """
    pictures = []
    for file in sorted((entry.path for entry in find_pictures(folder)), key=_in_order):
        try:
            picture = in_colour(pixels(file.read_bytes())).convert("RGB")
        except UNREADABLE as error:
            raise DataError(
                f"The picture cannot be read: {why(error)}.",
                where=str(file),
                found="no picture",
                expected="a picture file",
                remedy="Take it out of the folder.",
            ) from error
        pictures.append(torch.from_numpy(np.array(picture)).float() / 255)
    return pictures


def _in_order(file: Path) -> list[tuple[int, str]]:
    """A key that sorts 2.png before 10.png: numbers by their size, the rest as text."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _without_nan(values: dict[str, float]) -> dict[str, float]:
    """The measures that are numbers: where a prompt says nothing of one it is NaN, which JSON does not have."""
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _write(folder: Path, scores: Scores, images: Sequence[Tensor], references: Sequence[Tensor]) -> None:
    """Write the scores as JSON and as text, and the sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "means": _without_nan(scores.means()),
        "spreads": _without_nan(scores.spreads()),
        "pictures": [{"prompt": prompt, **_without_nan(scores.of(n))} for n, prompt in enumerate(scores.prompts)],
    }
    text = json.dumps(values, indent=1, ensure_ascii=False)
    write_atomically(folder / "scores.json", lambda file: file.write(text.encode()))
    write_atomically(folder / "scores.txt", lambda file: file.write((scores.table() + "\n").encode()))
    sheet = score_sheet(scores, images, references)
    write_atomically(folder / "sheet.png", lambda file: sheet.save(file, "PNG"))
