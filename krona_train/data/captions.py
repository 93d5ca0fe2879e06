"""Texts as captions: whether they can be used, other orders of their parts, and the caption of the subject's class."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from itertools import accumulate
from math import factorial, prod

import torch

from krona_ops.errors import DataError
from krona_ops.shown import shown

_PARTNER = {")": "(", "]": "[", "}": "{"}
_EYES = (":", ";", ":-", ";-", ":'", "=")
_CLOSES = re.compile(r"(?::[\d.]+\s*)?\\?[)\]}]")
"""The end of a bracket, with the weight before it."""
_EMPTY = re.compile(r"[\s,]*\\?[(\[{]\s*(?::[\d.]+\s*)?\\?[)\]}][\s,]*")
"""A bracket with nothing in it."""
MOST_CHARACTERS = 20_000
"""Of a caption. The longest that people write have some thousands;
text encoders cut or pad them in hundreds of pieces."""
CLASS_REMEDY = (
    'Fill in class_prompt, what the subject is a kind of ("a photo of a dog"), '
    'or trigger, the rare word that stands for it and that every caption contains ("sks").'
)


def unusable(text: str) -> str | None:
    """Why a text cannot be a caption, as the end of a sentence; ``None`` where it can."""
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text):,} characters or more; a caption has {MOST_CHARACTERS:,} at most"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "holds half a character, which is no text (a surrogate)"
    return None


def require_usable(text: str, what: str) -> None:
    """See whether a text can be a caption.

    Args:
        what: What the text belongs to, for the error.

    Raises:
        DataError: It cannot.
    """
    reason = unusable(text)
    if reason is not None:
        raise DataError(
            f"Its text {reason}.",
            where=what,
            found=shown(text, 60),
            expected=f"a text of {MOST_CHARACTERS:,} characters at most",
            remedy="Shorten it, or remove what is no text.",
        )


def orders(caption: str, count: int, keep: int = 1, seed: int = 0) -> tuple[str, ...]:
    """``count`` different orders of a caption's comma-separated `tags`; the first is the caption as it is.

    There are fewer where fewer exist. The orders depend on the caption and the seed alone.

    Args:
        keep: Parts at the start that stay in place.
    """
    parts = tags(caption)
    fixed, loose = parts[:keep], parts[keep:]
    possible = factorial(len(loose)) // prod(map(factorial, Counter(loose).values()))
    digest = hashlib.sha256(f"{seed} {caption}".encode()).digest()
    rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    captions = {tuple(loose): caption}
    while len(captions) < min(count, possible):
        order = tuple(loose[n] for n in torch.randperm(len(loose), generator=rng).tolist())
        captions.setdefault(order, ", ".join([*fixed, *order]))
    return tuple(captions.values())


def tags(caption: str) -> list[str]:
    """The comma-separated parts of a caption; commas in brackets separate nothing: ``(hat, red:1.3)`` is one part.

    Only brackets that have a partner count, and neither ``\\(`` nor faces such as ``:)`` and ``:(`` are brackets.
    """
    opened: list[int] = []
    waiting: Counter[str] = Counter()
    """The same brackets, counted: no partner is looked for where there is none."""
    change = [0] * (len(caption) + 1)
    """How much deeper in brackets each letter is than the one before it."""
    for place, letter in enumerate(caption):
        if (letter not in _PARTNER and letter not in _PARTNER.values()) or _is_no_bracket(caption, place):
            continue
        if letter in _PARTNER.values():
            opened.append(place)
            waiting[letter] += 1
        elif waiting[_PARTNER[letter]]:
            partner = opened.pop()
            while caption[partner] != _PARTNER[letter]:
                waiting[caption[partner]] -= 1
                partner = opened.pop()
            waiting[caption[partner]] -= 1
            change[partner] += 1
            change[place] -= 1
    inside = list(accumulate(change))
    ends = [place for place, letter in enumerate(caption) if letter == "," and not inside[place]]
    starts = [0, *(end + 1 for end in ends)]
    parts = (caption[start:end].strip() for start, end in zip(starts, [*ends, len(caption)], strict=True))
    return [part for part in parts if part]


def _is_no_bracket(caption: str, place: int) -> bool:
    """Whether a bracket is escaped, or part of a face."""
    before = caption[:place]
    escapes = len(before) - len(before.rstrip("\\"))
    return escapes % 2 == 1 or _is_face(caption, place)


def _is_face(caption: str, place: int) -> bool:
    """Whether the bracket at a place is the mouth of a face such as ``:)``."""
    before, after = caption[:place], caption[place + 1 :].lstrip(" ")
    # Nobody opens a bracket at the end of a tag; and a weight, not a colon, comes before one that closes.
    return before.endswith(_EYES) if caption[place] in _PARTNER else not after or after.startswith(",")


def class_caption(caption: str, trigger: str, class_prompt: str) -> str:
    """The caption that names only the subject's class: the class prompt, or the caption without the trigger.

    Raises:
        DataError: Neither is given, or the caption does not contain the trigger, or nothing else.
    """
    require_usable(class_prompt, "class_prompt")
    if class_prompt.strip():
        return class_prompt.strip()
    if not trigger.strip():
        raise DataError(
            "Keeping what the model knows about the subject's class needs the name of that class.",
            where=f'caption "{_short(caption)}"',
            found="neither class_prompt nor trigger",
            expected="one of them",
            remedy=CLASS_REMEDY,
        )
    without = without_trigger(caption, trigger)
    if not without or without == caption.strip():
        raise DataError(
            f'The trigger "{shown(trigger.strip())}" is {"all there is" if not without else "not"} in the caption, '
            "so the caption of the subject's class is not known.",
            where=f'caption "{_short(caption)}"',
            found=shown(caption),
            expected="the trigger among other words",
            remedy=f"{CLASS_REMEDY} Upper and lower case do not matter.",
        )
    return without


def without_trigger(caption: str, trigger: str) -> str:
    """The caption with the trigger's whole words taken out, and commas and spaces put in order.

    What shares a bracket with the trigger stays whole.
    """
    words = r"\s+".join(map(re.escape, trigger.split()))
    left = re.sub(rf"[\s,]*(?<!\w)(?:{words}(?:['’]s)?(?!\w)[\s,]*)+", _gap, caption, flags=re.IGNORECASE)
    if left == caption:
        return caption.strip()
    count = 1
    while count:
        left, count = _EMPTY.subn(_gap, left)
    return ", ".join(" ".join(part.split()) for part in tags(left))


def _gap(match: re.Match[str]) -> str:
    """What replaces words and the commas and spaces around them:
    a comma or a space, nothing at the ends of a bracket."""
    text, start, end = match.string, match.start(), match.end()
    opens = start > 0 and text[start - 1] in _PARTNER.values() and not _is_face(text, start - 1)
    if opens or _CLOSES.match(text, end):
        return ""
    return ", " if "," in match.group() else " "


def _short(text: str) -> str:
    return shown(text, 60)
