"""The settings of a parallel branch in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from krona_ops.bounds import Within, require_fields
from krona_ops.errors import ConfigError
from krona_ops.names.branches import Mode, Reading
from krona_ops.updates.reading import in_metadata

from .denoising_config import DenoisingConfig, Levels

_Share = Annotated[float, Within(0, 1)]


@dataclass(frozen=True)
class BranchConfig(DenoisingConfig):
    """A second attention beside each self-attention learns from groups of pictures; the model's layers stay as they
    are. What counts as an error is said as for ``denoising``."""

    kind: ClassVar[str] = "branch"

    mode: Mode = "reference"
    """What the branch attends to. ``reference``: clean pictures of the group. ``first``: the group's first picture,
    which stays as it is. ``views``: all pictures of the group, which are drawn together. ``row`` and ``row+col``: their
    tokens in the same row, or column."""
    references: Annotated[int, Within(1, 16)] = 1
    """Of ``reference``: so many pictures of each group are looked at."""
    targets: Annotated[int, Within(1, 64)] = 4
    """Of ``reference``: and so many others are learnt to be drawn. The other modes learn from the whole group."""
    drop_text: _Share = 0.0
    """Share of groups that are learnt without their captions: for a branch that shall count for negative prompts too
    (rows ``both``), 0.1 in the papers."""
    drop_source: _Share = 0.0
    """Share of groups that are learnt without what the branch attends to. They teach it nothing."""
    drop_both: _Share = 0.0
    """Share of groups that are learnt without either, which teach it nothing. The three together are at most 1."""
    levels: Levels = "shifted"
    """See ``denoising``; shifted to noise, because most of what a branch can tell is decided there."""
    level_shift: Annotated[float, Within(0.01, 100)] = 3.0
    """Of ``shifted``; 8 in terms of the signal's power is MV-Adapter's."""
    reading: Reading = "alone"
    """Of ``first``: how the first picture is read. ``alone``: in a pass of its own at no noise, as ``reference`` reads
    its pictures, and its subject is drawn more alike. ``with the others``: at their noise level, as in I2V-Adapter."""

    def metadata(self) -> dict[str, str]:
        """What the adapter's file says of how it reads the first frame."""
        return in_metadata(self.reading) if self.mode == "first" else {}

    def __post_init__(self) -> None:
        require_fields(self)
        dropped = self.drop_text + self.drop_source + self.drop_both
        if dropped > 1:
            raise ConfigError(
                f"drop_text, drop_source and drop_both are {dropped:g} together; it must be at most 1.",
                where="objective",
                found=dropped,
                expected="at most 1",
                remedy="Lower them; a branch that counts for prompts alone wants 0 of each.",
            )
