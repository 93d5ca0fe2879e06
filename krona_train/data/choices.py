"""Where the pictures or the prompts of a training come from: the choices that a graph's node and a run's file share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from krona_ops.bounds import Within, require_fields
from krona_ops.errors import ConfigError

from ..settings.groups import SEED

MOST_REPEATS = 10_000
"""How often a picture may come per epoch, by the settings or by its folder's name."""
MOST_PROMPTS = 100_000
MOST_PIXELS = 16_384
"""Of a side of what is drawn from prompts."""
Captions = Literal["files", "prompt", "folders"]
"""Where captions come from. ``files``: the ``.txt`` file of a picture's name, ``metadata.jsonl``, else the prompt.
``prompt``: the prompt for all. ``folders``: the same as ``files``, but the name of a numbered folder without its number,
or of a group's folder, before the prompt."""
PromptList = tuple[str, ...] | Literal["built-in", "captions"]
"""Prompts to train on without pictures. ``built-in``: the list that comes with the pack. ``captions``: the different
captions of the folder's pictures."""


@dataclass(frozen=True)
class PictureFiles:
    """Where the pictures are, and what they show: the choices of the node KronA Dataset; or prompts without pictures, the
    choices of KronA Prompts."""

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

    prompts: PromptList = ()
    """For what is learnt from prompts without pictures: a list, ``built-in`` for the 300 that come with the pack, or
    ``captions`` for those of the folder's pictures, each different one once."""
    prompts_file: str = ""
    """A ``.txt`` file with one prompt per line, instead of a list; lines that begin with ``#`` do not count."""
    prompt_count: Annotated[int, Within(0, MOST_PROMPTS)] = 0
    """How many of the prompts are taken, drawn by the seed; 0 takes all."""
    prompt_seed: Annotated[int, SEED] = 0
    """Draws which prompts are taken."""
    width: Annotated[int, Within(0, MOST_PIXELS)] = 0
    """Of what is drawn from the prompts, in pixels; 0 takes the resolution."""
    height: Annotated[int, Within(0, MOST_PIXELS)] = 0
    """Of what is drawn from the prompts, in pixels; 0 takes the resolution."""

    def __post_init__(self) -> None:
        require_fields(self)
        self._require_one_source()

    @property
    def is_of_prompts(self) -> bool:
        """Whether there are prompts, and no pictures."""
        return bool(self.prompts or self.prompts_file)

    def _require_one_source(self) -> None:
        """
        Raises:
            ConfigError: There are pictures and prompts, or prompts from two places, or captions of no folder.
        """
        if not self.is_of_prompts:
            return
        if self.prompts == "captions" and not self.folder:
            raise ConfigError(
                "The captions of pictures are to be the prompts, and no folder with pictures is named.",
                where="prompts",
                found="captions, without a folder",
                expected="a folder",
                remedy="Name it in folder, or write the prompts themselves.",
            )
        names = ("folder", "prompts", "prompts_file", "class_folder", "class_count")
        given = [name for name in names if getattr(self, name)]
        if given not in (["prompts"], ["prompts_file"], ["folder", "prompts"]) or (
            self.folder and self.prompts != "captions"
        ):
            raise ConfigError(
                f"What is trained on comes from one place; here it would come from {' and '.join(given)}.",
                where="prompts",
                found=", ".join(given),
                expected="a folder of pictures, or prompts, or prompts_file",
                remedy="Leave the others out. Class pictures go with pictures alone; "
                "prompts: captions with a folder takes the captions of its pictures.",
            )
