"""What happens during a training, as values; the node, the command line and the run folder all read the same ones.

Each event knows which row of ``metrics.jsonl`` it is (docs/training.md lists them; the same row is its line between two
processes) and which method of a `Watcher` it calls. So an event is added in this file alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from PIL import Image

from krona_ops import Adapter
from krona_ops.errors import KronaError, TrainingError

from . import layout
from .row import Fields, Row
from .state import TrainState


class Event(ABC):
    """One thing that happened."""

    NAME: ClassVar[str]
    """Its row's ``event``."""
    FIELDS: ClassVar[Fields]
    """What its row has today."""
    SINCE_EVER: ClassVar[tuple[str, ...]]
    """Those of them that rows of every version have; without these a row is damaged."""
    SOMETIMES: ClassVar[Fields] = {}
    """What its row has besides where there is something to say."""
    TRAVELS: ClassVar[bool] = True
    """Whether it says something to a process that watches the one it happened in."""

    @abstractmethod
    def row(self) -> Row:
        """Its row, without the time."""

    @classmethod
    def from_row(cls, row: Row, folder: Path) -> Event:
        """The event of a row, for kinds that travel. Adapters and states are not in rows: the run's folder has them.

        Raises:
            ValueError: A list holds something else than texts, or the kind does not travel.
            OSError: A picture is not in the run's ``folder``, or is none.
        """
        raise ValueError(f"{cls.NAME} does not travel")

    @abstractmethod
    def show_to(self, watcher: Watcher) -> None:
        """Call the watcher's method for this kind of event."""


@dataclass(frozen=True)
class Started(Event):
    """The layers are chosen, training begins."""

    NAME = "started"
    FIELDS: ClassVar[Fields] = {"steps": int, "layers": int, "parameters": int, "notes": list}
    SINCE_EVER = ("steps",)
    SOMETIMES: ClassVar[Fields] = {"others": list}

    steps: int
    done: int
    """Steps that an earlier part of this run has done; 0 for a new one."""
    layers: int
    parameters: int
    notes: tuple[str, ...]
    """Lines that the user should read, such as factors that had to be adjusted."""
    others: tuple[str, ...] = ()
    """The names of the adapters that the objective trains besides; their layers and parameters are counted too."""

    def row(self) -> Row:
        """``step`` is the number of steps done."""
        return {
            "event": self.NAME,
            "step": self.done,
            "steps": self.steps,
            "layers": self.layers,
            "parameters": self.parameters,
            "notes": list(self.notes),
            **_others(self.others),
        }

    @classmethod
    def from_row(cls, row: Row, folder: Path) -> Started:
        """The event of a row."""
        others = _texts(row.get("others", []))
        return cls(row["steps"], row["step"], row["layers"], row["parameters"], _texts(row["notes"]), others)

    def show_to(self, watcher: Watcher) -> None:
        """Call the watcher's method for this kind of event."""
        watcher.started(self)


@dataclass(frozen=True)
class Stepped(Event):
    """One optimizer step is done."""

    NAME = "step"
    FIELDS: ClassVar[Fields] = {
        "steps": int,
        **dict.fromkeys(("loss", "grad_norm", "learning_rate", "seconds"), float),
        "memory": int,
    }
    SINCE_EVER = ("loss", "learning_rate")
    SOMETIMES: ClassVar[Fields] = {"losses": dict}

    step: int
    """1 for the first."""
    steps: int
    loss: float
    """Mean over the step's samples, before the step."""
    grad_norm: float
    """Norm of all gradients together, before clipping."""
    learning_rate: float
    seconds: float
    """Since the training began."""
    memory: int = 0
    """Bytes: the most that the step held on the GPU; without one, what the process holds. 0 where nobody looked."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Those of the other adapters that the objective trains, by name."""

    def row(self) -> Row:
        """All its values."""
        return {
            "event": self.NAME,
            "step": self.step,
            "steps": self.steps,
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "learning_rate": self.learning_rate,
            "seconds": self.seconds,
            "memory": self.memory,
            **({"losses": dict(self.losses)} if self.losses else {}),
        }

    @classmethod
    def from_row(cls, row: Row, folder: Path) -> Stepped:
        """The event of a row."""
        numbers = row["loss"], row["grad_norm"], row["learning_rate"], row["seconds"]
        losses = row.get("losses", {})
        if not all(isinstance(name, str) and isinstance(loss, float) for name, loss in losses.items()):
            raise ValueError("a loss is no number")
        return cls(row["step"], row["steps"], *numbers, row["memory"], losses)

    def show_to(self, watcher: Watcher) -> None:
        """Call the watcher's method for this kind of event."""
        watcher.stepped(self)


@dataclass(frozen=True)
class Noted(Event):
    """Something that the user should know, in a sentence."""

    NAME = "note"
    FIELDS: ClassVar[Fields] = {"text": str}
    SINCE_EVER = ("text",)

    step: int
    text: str

    def row(self) -> Row:
        """All its values."""
        return {"event": self.NAME, "step": self.step, "text": self.text}

    @classmethod
    def from_row(cls, row: Row, folder: Path) -> Noted:
        """The event of a row."""
        return cls(row["step"], row["text"])

    def show_to(self, watcher: Watcher) -> None:
        """Call the watcher's method for this kind of event."""
        watcher.noted(self)


@dataclass(frozen=True)
class Previewed(Event):
    """Pictures drawn with the adapter as it stands."""

    NAME = "preview"
    FIELDS: ClassVar[Fields] = {"pictures": list}
    SINCE_EVER = ("pictures",)

    step: int
    pictures: tuple[Image.Image, ...]
    """One per prompt."""

    def row(self) -> Row:
        """``pictures`` are names of files in the run's folder of previews."""
        names = layout.picture_names(self.step, len(self.pictures))
        return {"event": self.NAME, "step": self.step, "pictures": names}

    @classmethod
    def from_row(cls, row: Row, folder: Path) -> Previewed:
        """The event of a row, with its pictures from the run's folder."""
        step, names = row["step"], _texts(row["pictures"])
        if list(names) != layout.picture_names(step, len(names)):
            raise ValueError("these are no previews of that step")
        return cls(step, tuple(_opened(folder / layout.PREVIEWS / name) for name in names))

    def show_to(self, watcher: Watcher) -> None:
        """Call the watcher's method for this kind of event."""
        watcher.previewed(self)


@dataclass(frozen=True)
class Validated(Event):
    """The loss on the pictures that are kept out."""

    NAME = "validation"
    FIELDS: ClassVar[Fields] = {"validation": float, "best": bool}
    SINCE_EVER = ("validation",)

    step: int
    loss: float
    is_best: bool
    """Lower than ever before in this run."""
    adapter: Adapter | None
    """As it was measured; ``None`` where the event comes from another process, whose folder has it."""

    def row(self) -> Row:
        """Without the adapter."""
        return {"event": self.NAME, "step": self.step, "validation": self.loss, "best": self.is_best}

    @classmethod
    def from_row(cls, row: Row, folder: Path) -> Validated:
        """The event of a row."""
        return cls(row["step"], row["validation"], row["best"], None)

    def show_to(self, watcher: Watcher) -> None:
        """Call the watcher's method for this kind of event."""
        watcher.validated(self)


@dataclass(frozen=True)
class Saved(Event):
    """It is time to keep the state, or somebody asked for it."""

    NAME = "saved"
    FIELDS: ClassVar[Fields] = {"adapter": bool}
    SINCE_EVER = ()
    SOMETIMES: ClassVar[Fields] = {"others": list}
    TRAVELS = False

    state: TrainState
    adapter: Adapter | None = None
    """As it is now, where somebody asked for it."""
    others: Mapping[str, Adapter] = field(default_factory=dict)
    """The adapters that the objective trains besides, by name."""

    def row(self) -> Row:
        """Whether adapters are kept too, and the names of those besides the one that the training is about."""
        is_kept = self.adapter is not None
        return {"event": self.NAME, "step": self.state.step, "adapter": is_kept, **_others(self.others)}

    def show_to(self, watcher: Watcher) -> None:
        """Call the watcher's method for this kind of event."""
        watcher.saved(self)


@dataclass(frozen=True)
class Ended(Event):
    """The training is over, after its last step or before."""

    NAME = "ended"
    FIELDS: ClassVar[Fields] = {"steps": int, "error": (str, type(None)), "stopped": bool}
    SINCE_EVER = ("steps",)
    SOMETIMES: ClassVar[Fields] = {"others": list}

    step: int
    """Steps done."""
    steps: int
    adapter: Adapter | None
    state: TrainState | None
    """From which it can go on. Both are ``None`` where the event comes from another process, whose folder has them."""
    error: BaseException | None = None
    """Why it ended early; ``None`` when it ended as it should."""
    others: Mapping[str, Adapter] = field(default_factory=dict)
    """The adapters that the objective trains besides, by name."""

    def row(self) -> Row:
        """The error in words; interrupts, the host's too, are no `Exception`: nothing has failed, and it was
        ``stopped``."""
        is_stopped = self.error is not None and not isinstance(self.error, Exception)
        error = None if is_stopped or self.error is None else _in_words(self.error)
        return {
            "event": self.NAME,
            "step": self.step,
            "steps": self.steps,
            "error": error,
            "stopped": is_stopped,
            **_others(self.others),
        }

    @classmethod
    def from_row(cls, row: Row, folder: Path) -> Ended:
        """The event of a row; its error has the text alone."""
        error: BaseException | None = None if row["error"] is None else TrainingError(row["error"])
        if row["stopped"]:
            error = KeyboardInterrupt(f"It was stopped after step {row['step']}.")
        return cls(row["step"], row["steps"], None, None, error)

    def show_to(self, watcher: Watcher) -> None:
        """Call the watcher's method for this kind of event."""
        watcher.ended(self)


EVENTS: tuple[type[Event], ...] = (Started, Stepped, Noted, Previewed, Validated, Saved, Ended)
Sink = Callable[[Event], None]


class Watcher:
    """A sink with a method for each kind of event; those that are not overridden do nothing."""

    def __call__(self, event: Event) -> None:
        """Take note of one event."""
        event.show_to(self)

    def started(self, event: Started) -> None:
        """Training begins."""

    def stepped(self, event: Stepped) -> None:
        """A step is done."""

    def noted(self, event: Noted) -> None:
        """There is something to know."""

    def previewed(self, event: Previewed) -> None:
        """Pictures were drawn."""

    def validated(self, event: Validated) -> None:
        """The loss on the pictures that are kept out is known."""

    def saved(self, event: Saved) -> None:
        """The state is to be kept."""

    def ended(self, event: Ended) -> None:
        """The training is over."""


def to_all(*sinks: Sink) -> Sink:
    """One sink that hands each event to several, in order."""

    def sink(event: Event) -> None:
        for each in sinks:
            each(event)

    return sink


def _others(others: Mapping[str, Adapter] | tuple[str, ...]) -> Row:
    """The names of other adapters; nothing where there are none, as in rows from before there could be any."""
    return {"others": list(others)} if others else {}


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise ValueError("a list of texts was expected")
    return tuple(map(str, values))


def _in_words(error: BaseException) -> str:
    """An error's text; those of libraries say too little without their names."""
    return str(error) if isinstance(error, KronaError) else f"{type(error).__name__}: {error}"


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")
