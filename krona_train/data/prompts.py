"""Prompts in the place of pictures: lines of text, a text file, or the list that comes with the pack."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from krona_ops.errors import DataError
from krona_ops.shown import shown

from .captions import require_usable
from .choices import MOST_PROMPTS

MOST_BYTES = 50_000_000
"""Of a file of prompts."""
SUFFIX = ".txt"
"""Of a file of prompts. A graph may come from somebody else: no other file's text is shown to them."""
BUILT_IN = Path(__file__).with_name("built_in_prompts.txt")
"""Neutral prompts of many kinds, written for this pack."""


def lines_of(text: str, where: str) -> tuple[str, ...]:
    """The prompts of a text, one per line; empty lines and those that begin with ``#`` are passed by.

    Args:
        where: What the text belongs to, for the error.

    Raises:
        DataError: See `usable_prompts`.
    """
    lines = io.StringIO(text, newline=None)  # one line at a time: a text may be nothing but line ends
    return usable_prompts((line for line in lines if line.strip() and not line.lstrip().startswith("#")), where)


def usable_prompts(prompts: Iterable[str], where: str) -> tuple[str, ...]:
    """Each different prompt once, without white space around it, in their order.

    Raises:
        DataError: There are none, or too many, or one is empty, too long or no text.
    """
    kept: dict[str, None] = {}
    for number, prompt in enumerate(prompts, 1):
        text = prompt.strip()
        require_usable(text, f"{where}, prompt {number:,}")
        if not text:
            raise DataError(
                "It is empty.",
                where=f"{where}, prompt {number:,}",
                found="nothing",
                expected="a text to draw",
                remedy="Write what shall be drawn, or take it out of the list.",
            )
        if number > MOST_PROMPTS:
            raise DataError(
                f"There are more than {MOST_PROMPTS:,} prompts.",
                where=where,
                found=f"more than {MOST_PROMPTS:,}",
                expected=f"{MOST_PROMPTS:,} at most",
                remedy="Take some of them; a few hundred that differ are enough for most trainings.",
            )
        kept[text] = None
    if not kept:
        raise DataError(
            "There are no prompts.",
            where=where,
            found="no line with a text",
            expected="one prompt per line",
            remedy="Write what shall be drawn, a line for each picture; lines that begin with # do not count.",
        )
    return tuple(kept)


def read_prompts(path: Path, where: str) -> tuple[str, ...]:
    """The prompts of a text file, one per line.

    Args:
        where: What the file is called in errors.

    Raises:
        DataError: There is no such file, it is no text in UTF-8, or too large; or see `usable_prompts`.
    """
    if path.suffix.lower() != SUFFIX:
        raise DataError(
            f"A file of prompts is a {SUFFIX} file.",
            where=where,
            found=shown(path.suffix) or "no ending",
            expected=f"a text file with one prompt per line, such as prompts{SUFFIX}",
            remedy=f"Save the prompts as plain text, and let the file's name end in {SUFFIX}.",
        )
    if not os.path.isfile(path):  # a pipe would be waited for without an end
        raise DataError(
            "There is no such file.",
            where=where,
            found="nothing",
            expected="a text file with one prompt per line",
            remedy="Check its name.",
        )
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"The file cannot be read: {error.strerror or error}.",
            where=where,
            found=type(error).__name__,
            expected="a file that may be read",
            remedy="Check who may read it.",
        ) from error
    if len(content) > MOST_BYTES:
        raise DataError(
            f"The file has more than {MOST_BYTES // 1_000_000} MB.",
            where=where,
            found="a larger file",
            expected=f"{MOST_BYTES // 1_000_000} MB at most",
            remedy="Take a part of it.",
        )
    return lines_of(_text(content, where), where)


def _text(content: bytes, where: str) -> str:
    """
    Raises:
        DataError: It is no text in UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_text(content, error.start, "is no UTF-8", where) from error
    if "\0" in text:
        raise _no_text(content, content.index(b"\0"), "is no text", where)
    return text


def _no_text(content: bytes, place: int, why: str, where: str) -> DataError:
    line = content.count(b"\n", 0, place) + 1
    return DataError(
        f"The file cannot be read: byte {place + 1:,}, in line {line:,}, {why}.",
        where=where,
        found="another encoding, or no text",
        expected="text in UTF-8",
        remedy="Save it as UTF-8 in your editor.",
    )


def built_in_prompts() -> tuple[str, ...]:
    """The prompts that come with the pack."""
    return read_prompts(BUILT_IN, BUILT_IN.name)


def drawn_prompts(prompts: tuple[str, ...], count: int, seed: int, where: str) -> tuple[str, ...]:
    """So many of the prompts, drawn by the seed, in their order; 0 takes all.

    Raises:
        DataError: There are fewer.
    """
    if count > len(prompts):
        raise DataError(
            f"{count:,} prompts are wanted, and there are {len(prompts):,} different ones.",
            where=where,
            found=len(prompts),
            expected=f"at least {count}",
            remedy="Add prompts, or take fewer; 0 takes all of them.",
        )
    if count in (0, len(prompts)):
        return prompts
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))[:count]
    return tuple(prompts[n] for n in sorted(order.tolist()))
