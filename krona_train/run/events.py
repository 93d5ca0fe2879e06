"""What happens during a training, as values; the node, the command line and the run folder all read the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from PIL.Image import Image

from krona_ops import Adapter

from .state import TrainState


@dataclass(frozen=True)
class Started:
    """The layers are chosen, training begins."""

    steps: int
    done: int
    """Steps that an earlier part of this run has done; 0 for a new one."""
    layers: int
    parameters: int
    notes: tuple[str, ...]
    """Lines that the user should read, such as factors that had to be adjusted."""


@dataclass(frozen=True)
class Stepped:
    """One optimizer step is done."""

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


@dataclass(frozen=True)
class Noted:
    """Something that the user should know, in a sentence."""

    step: int
    text: str


@dataclass(frozen=True)
class Previewed:
    """Pictures drawn with the adapter as it stands."""

    step: int
    pictures: tuple[Image, ...]
    """One per prompt."""


@dataclass(frozen=True)
class Validated:
    """The loss on the pictures that are kept out."""

    step: int
    loss: float
    is_best: bool
    """Lower than ever before in this run."""
    adapter: Adapter | None
    """As it was measured; ``None`` where the event comes from another process, whose folder has it."""


@dataclass(frozen=True)
class Saved:
    """It is time to keep the state, or somebody asked for it."""

    state: TrainState
    adapter: Adapter | None = None
    """As it is now, where somebody asked for it."""
    others: Mapping[str, Adapter] = field(default_factory=dict)
    """The adapters that the objective trains besides, by name."""


@dataclass(frozen=True)
class Ended:
    """The training is over, after its last step or before."""

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


Event = Started | Stepped | Noted | Previewed | Validated | Saved | Ended
Sink = Callable[[Event], None]


def to_all(*sinks: Sink) -> Sink:
    """One sink that hands each event to several, in order."""

    def sink(event: Event) -> None:
        for each in sinks:
            each(event)

    return sink
