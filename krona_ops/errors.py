"""The exceptions of the pack.

::

    KronaError
    ├── ShapeError          factors, an update or a weight do not fit together
    ├── SizeError           an update is larger than what may be formed
    ├── AdapterFileError    a file cannot be opened, is no safetensors file, or is damaged
    │   └── FormatError     the file is fine, but its tensors make no adapter that we can read or write
    ├── CoverageError       an adapter and a model have no layer in common
    ├── ConfigError         a setting, alone or with others, makes no sense
    ├── DataError           the training pictures or captions cannot be used
    └── TrainingError       a run had to stop; its state was kept
        ├── NonFiniteError   the loss or a gradient became NaN or infinite
        └── OutOfMemoryError a step does not fit, not even in the smallest way

Each one says what was found, what was expected and what to do about it, and keeps these as attributes.
"""

from __future__ import annotations

from .shown import printable, shown

LONGEST = 2_000
"""Characters of a message, or of a layer's name or a place in one."""


class KronaError(Exception):
    """Base class of every error that the pack raises on purpose.

    Args:
        message: What is wrong, in one sentence, without layer and place.
        layer: The name of the layer that it is about.
        where: The file, folder, setting, input or node that it is about; the message names it before the layer.
        found: What was there.
        expected: What should have been there.
        remedy: What the user can do, a full sentence.

    Attributes:
        reason: The message and the remedy, without layer and place.
    """

    def __init__(
        self,
        message: str,
        *,
        layer: str | None = None,
        where: str | None = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.layer, self.where = layer, where
        self.found, self.expected, self.remedy = found, expected, remedy
        # What strangers wrote is in many messages: none becomes pages long, and no terminal obeys one.
        self.reason = printable(shown(message, LONGEST, "\n") + (f" {remedy}" if remedy else ""), "\n")
        super().__init__(": ".join([*(shown(place, LONGEST) for place in (where, layer) if place), self.reason]))


class ShapeError(KronaError):
    """Factors, an update or a weight do not fit together."""


class SizeError(KronaError):
    """An update is larger than what may be formed, or than the memory."""


class AdapterFileError(KronaError):
    """A file cannot be opened, is no safetensors file, or is damaged."""


class FormatError(AdapterFileError):
    """The tensors of a file make no adapter that we can read, or an adapter has no form that the format can hold."""


class CoverageError(KronaError):
    """An adapter and a model have no layer in common."""


class ConfigError(KronaError):
    """A setting, alone or together with others, makes no sense."""


class DataError(KronaError):
    """The training pictures or captions cannot be used."""


class TrainingError(KronaError):
    """A run had to stop; its state was kept."""


class NonFiniteError(TrainingError):
    """The loss or a gradient became NaN or infinite."""


class OutOfMemoryError(TrainingError):
    """A step does not fit in memory, not even computed in the smallest way."""
