"""Where the pictures of a training come from: the choices that a graph's node and a run's file share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from krona_ops.bounds import Within, require_fields

MOST_REPEATS = 10_000
"""How often a picture may come per epoch, by the settings or by its folder's name."""
Captions = Literal["files", "prompt", "folders"]
"""Where captions come from. ``files``: the ``.txt`` file of a picture's name, ``metadata.jsonl``, else the prompt.
``prompt``: the prompt for all. ``folders``: the same as ``files``, but the name of a numbered folder without its number,
or of a group's folder, before the prompt."""


@dataclass(frozen=True)
class PictureFiles:
    """Where the pictures are, and what they show: the choices of the node KronA Dataset."""

    folder: str = ""
    """With the pictures."""
    prompt: str = ""
    """What they show, where no text file says so."""
    captions: Captions = "files"
    """``files``: a picture's text file, else ``metadata.jsonl``, else the prompt. ``prompt``: the prompt for all.
    ``folders``: as ``files``, with the name of a numbered subfolder, or of a group's, before the prompt."""
    trigger: str = ""
    """The rare word for the subject; what is left of a caption without it names the class."""
    class_prompt: str = ""
    """What the subject is a kind of."""
    class_folder: str = ""
    """Pictures of others of its kind."""
    class_count: Annotated[int, Within(0, 10_000)] = 0
    """How many class pictures there shall be; the missing ones are drawn by the model."""
    repeats: Annotated[int, Within(1, MOST_REPEATS)] = 1
    """How often each picture comes per epoch."""
    groups: bool = False
    """Each subfolder is a group, such as one subject, one clip or the views of one thing: its pictures stay together in
    a batch, in the natural order of their names or in that of ``cameras.json``, and become one size."""

    def __post_init__(self) -> None:
        require_fields(self)
