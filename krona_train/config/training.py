"""Every setting of a training, put together from its groups and from what is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar, overload

from krona_ops.bounds import Within, require_fields
from krona_ops.errors import ConfigError

from ..objectives.denoising_config import DenoisingConfig
from ..objectives.score_matching_config import ScoreMatchingConfig
from ..settings import codec
from ..settings.groups import (
    COUNT,
    SEED,
    AdapterConfig,
    DataConfig,
    EmaConfig,
    MemoryConfig,
    OptimizerConfig,
    PreviewConfig,
    PriorConfig,
    ValidationConfig,
)

T = TypeVar("T")


def _objectives() -> Sequence[type[codec.OfKind]]:
    from ..objectives.kinds import configs  # here: nodes that only offer settings should not load what computes losses

    return configs()


@dataclass(frozen=True)
class TrainConfig:
    """One training."""

    steps: Annotated[int, Within(1, 1_000_000)] = 1000
    """Optimizer steps. Paper: 500 are enough for a simple subject, 1000 and more for a complex one or long prompts."""
    batch_size: Annotated[int, Within(1, 1024)] = 1
    """Pictures per step, each with its own caption, noise and noise level; so many groups where pictures are in
    groups."""
    accumulate: Annotated[int, Within(1, 1024)] = 1
    """Batches per step: their gradients are averaged. The effect of a larger batch without its memory."""
    seed: Annotated[int, SEED] = 0
    """Everything random comes from it: the factors' start, the order of the pictures, the noise and its levels."""
    save_every: Annotated[int, COUNT] = 100
    """Steps between saved states; a run can go on from the newest one, bit for bit. 0 saves at the end only."""
    keep_states: Annotated[int, Within(1, 1000)] = 2
    """How many of the newest states are kept."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    objective: Annotated[codec.OfKind, codec.OneOf(_objectives)] = field(default_factory=DenoisingConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        require_fields(self)
        _require_compatible(self)


def _require_compatible(config: TrainConfig) -> None:
    """
    Raises:
        ConfigError: Two settings, each within its bounds, make no sense together.
    """
    optimizer = config.optimizer
    if optimizer.name == "schedulefree" and optimizer.schedule != "constant":
        raise ConfigError(
            f"A schedule-free optimizer has no schedule, but {optimizer.schedule} is set.",
            found=optimizer.schedule,
            expected="constant",
            remedy="Take another optimizer, or the schedule constant.",
        )
    if optimizer.name == "prodigy" and optimizer.learning_rate < 0.1:
        raise ConfigError(
            f"Prodigy finds the learning rate itself, and multiplies it by {optimizer.learning_rate}.",
            found=optimizer.learning_rate,
            expected="1, or close to it",
            remedy="Set the learning rate to 1.",
        )
    if optimizer.warmup >= config.steps:
        raise ConfigError(
            f"A warmup of {optimizer.warmup} steps leaves nothing of {config.steps} steps.",
            found=optimizer.warmup,
            expected=f"less than {config.steps}",
            remedy="A twentieth of the steps is plenty.",
        )
    objective = config.objective
    if config.memory.offload and isinstance(objective, ScoreMatchingConfig) and objective.gradient == "full":
        raise ConfigError(
            "The full gradient of score matching goes through the model's weights several times at once, which "
            "memory.offload would all bring to the GPU and keep there.",
            where="objective.gradient",
            found="full, with memory.offload",
            expected="one of the two",
            remedy="Set objective.gradient to stopped, or memory.offload to false with memory.checkpointing: blocks.",
        )
    if config.validation.patience and not config.validation.every:
        raise ConfigError(
            "Early stopping needs a validation loss to watch.",
            found=0,
            expected="validation.every above 0",
            remedy="Validate every 50 steps or so, or set patience to 0.",
        )


@overload
def from_yaml(text: str) -> TrainConfig: ...
@overload
def from_yaml(text: str, kind: type[T]) -> T: ...
def from_yaml(text: str, kind: type[object] = TrainConfig) -> object:
    """A config from YAML (JSON is YAML too).

    Args:
        kind: The dataclass.

    Raises:
        ConfigError: See `krona_train.settings.codec.from_yaml`.
    """
    return codec.from_yaml(text, kind)
