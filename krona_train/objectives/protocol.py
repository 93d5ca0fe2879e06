"""What a training minimises: the contract of objectives, and what one is given in a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor

from krona_ops.names.branches import Mode

from ..settings.groups import MAIN, AdapterConfig, EmaConfig, OptimizerConfig, PreviewConfig

if TYPE_CHECKING:
    from ..adapters.bank import Bank
    from ..backbone.protocol import Backbone
    from ..batches.examples import Batch
    from ..batches.samples import Sample
    from .noise import Draw
    from .rollouts import Rollouts

Need = Literal["pictures", "groups", "drawings", "unconditional", "decoder"]
"""What an objective cannot do without: pictures (prompts alone are not enough), groups of pictures, what the model saw
when it drew the prompts (`Objective.rollouts`), the model's condition for no prompt, or something that turns latents
into pixels."""
Source = Literal["data", "class data"]
"""Where samples come from: the data set, or pictures of the subject's class."""
Captured = tuple[Mapping[str, Tensor], Mapping[str, object]]
"""A state of its own: tensors, and plain numbers as JSON holds them."""


class Loss(NamedTuple):
    """One term of what is minimised."""

    values: Tensor
    """``(B,)``, one number for each sample."""
    weight: float = 1.0
    """What their mean is multiplied by."""


@dataclass(frozen=True)
class Turn:
    """One of the moves that a step is made of: which adapter moves, and on which samples."""

    adapter: str = MAIN
    name: str = ""
    """Which turn it is, where one adapter moves several times in a step."""
    sources: tuple[Source, ...] = ("data",)


@dataclass(frozen=True)
class Other:
    """An adapter that an objective needs besides `MAIN`: what it is and how it moves."""

    adapter: AdapterConfig | None
    """``None`` is what `MAIN` is: the same layers of the same kinds. None of them is trained in parts."""
    optimizer: OptimizerConfig
    ema: EmaConfig = EmaConfig(0.0)  # noqa: RUF009 (frozen)


class Previews(NamedTuple):
    """How pictures are drawn while an objective is trained, to watch."""

    trained: PreviewConfig
    """With the adapter."""
    teacher: PreviewConfig | None = None
    """With the base alone, once: what the adapter shall come to. ``None`` where there is no such thing."""
    one_step_from: float = 0.0
    """With the adapter: in one step from this noise level. 0 leaves levels to the settings."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Some samples of a step, as many as are computed at once."""

    backbone: Backbone
    bank: Bank
    seed: int
    step: int
    """Optimizer steps done before this one."""
    turn: Turn
    source: Source
    samples: Sequence[Sample]

    @property
    def numbers(self) -> list[int]:
        """The samples' numbers, counted from the start of the training; everything random about them comes from
        these."""
        return [sample.number for sample in self.samples]

    @cached_property
    def batch(self) -> Batch:
        """The samples on the model's device."""
        return self.backbone.collate([sample.example for sample in self.samples])


class Objective(Protocol):
    """What is minimised.

    A kind is one file with a class and its settings, and a line in `krona_train.objectives.kinds.OBJECTIVES`.
    """

    config_type: ClassVar[type]
    """Its settings, a frozen dataclass; `krona_train.settings.codec.OfKind` where ``objective.kind`` chooses it."""
    name: str
    """What messages call it."""
    needs: frozenset[Need]
    """What it cannot do without."""
    turns: tuple[Turn, ...]
    """The moves of a step, in order; the last one's loss is what is told."""
    others: Mapping[str, Other]
    """The adapters that it needs besides `MAIN`, by name; a training begins them fresh."""
    beside: Mode | None
    """Where `MAIN` is a parallel branch instead of updates of the model's own layers: what it attends to."""
    take: int
    """So many members of each group are drawn every time; 0 takes all, in their order."""
    rollouts: Rollouts | None
    """What the model draws before the training, to learn from; ``None`` for most."""

    def __init__(self, config: object) -> None:
        """Only with settings of its own `config_type`."""

    def begin(self, backbone: Backbone) -> tuple[str, ...]:
        """What whoever trains should read before the first step; called inside `Backbone.ready`.

        Raises:
            ConfigError: The settings make no sense with this model.
        """

    def losses(self, piece: Piece) -> Iterator[Loss]:
        """The terms that are added up for each sample.

        One after the other, so that the activations of the first are free before the second's are made. What comes of
        one prediction is one term: its graph is gone with the first.
        """

    def held_out(self, backbone: Backbone, bank: Bank, batch: Batch, drawn: Draw) -> Tensor:
        """The plain squared error on a picture, or on a group where it learns from groups, that is kept out of the
        training; a number. Neither weighting nor chance enters.

        Args:
            drawn: Noise and its level, one for the whole batch.
        """

    def previews(self, config: PreviewConfig) -> Previews:
        """How pictures are drawn while it is trained.

        Args:
            config: As the settings want them.
        """

    def capture(self) -> Captured:
        """What it remembers from step to step, copied; nothing for most."""

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, object]) -> None:
        """Stand where `capture` was called, bit for bit.

        Raises:
            ConfigError: They are those of another objective.
        """


def put_back(objective: Objective, captured: Captured) -> None:
    """Let an objective stand where `Objective.capture` was called; one that remembers nothing is not asked."""
    tensors, numbers = captured
    if tensors or numbers:
        objective.restore(tensors, numbers)


class Stateless:
    """What objectives share that remember nothing from step to step and need no other adapter."""

    turns: tuple[Turn, ...] = (Turn(),)
    others: Mapping[str, Other] = MappingProxyType({})
    beside: Mode | None = None
    take: int = 0
    rollouts: Rollouts | None = None

    def begin(self, backbone: Backbone) -> tuple[str, ...]:
        """Nothing that settings and data do not say."""
        return ()

    def held_out(self, backbone: Backbone, bank: Bank, batch: Batch, drawn: Draw) -> Tensor:
        """That of the adapted model's prediction of a picture."""
        from .denoising import denoising

        return denoising(backbone, batch, drawn).mean()

    def previews(self, config: PreviewConfig) -> Previews:
        """As the settings want them."""
        return Previews(config)

    def capture(self) -> Captured:
        """An empty state."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, object]) -> None:
        """Does nothing: there is no state to put back."""


class Wrapping:
    """What objectives share that wrap another one: all that they do not change is that one's.

    Args:
        inner: What is minimised besides.
    """

    name: str
    needs: frozenset[Need]
    turns: tuple[Turn, ...]
    others: Mapping[str, Other]
    beside: Mode | None
    take: int
    rollouts: Rollouts | None

    def __init__(self, inner: Objective) -> None:
        self._inner = inner
        self.name, self.needs, self.turns, self.others = inner.name, inner.needs, inner.turns, inner.others
        self.beside, self.take, self.rollouts = inner.beside, inner.take, inner.rollouts

    def begin(self, backbone: Backbone) -> tuple[str, ...]:
        """What the inner objective says."""
        return self._inner.begin(backbone)

    def held_out(self, backbone: Backbone, bank: Bank, batch: Batch, drawn: Draw) -> Tensor:
        """That of the inner objective."""
        return self._inner.held_out(backbone, bank, batch, drawn)

    def previews(self, config: PreviewConfig) -> Previews:
        """Those of the inner objective."""
        return self._inner.previews(config)

    def capture(self) -> Captured:
        """The state of the inner objective."""
        return self._inner.capture()

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, object]) -> None:
        """Put the inner objective's state back."""
        self._inner.restore(tensors, numbers)
