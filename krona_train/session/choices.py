"""The expert's choices, apart from those that every training needs: what a graph hands from one node to another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ..config import (
    DenoisingConfig,
    EmaConfig,
    MemoryConfig,
    OptimizerConfig,
    PreviewConfig,
    PriorConfig,
    TrainConfig,
    ValidationConfig,
    wanted_prior,
)

if TYPE_CHECKING:
    from ..data.pictures import Dataset

PriorChoice = Literal["auto", "model", "pictures", "off"]


@dataclass(frozen=True)
class Settings:
    """Parts of a `TrainConfig`, and what only the data set can decide."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    objective: DenoisingConfig = field(default_factory=DenoisingConfig)
    prior: PriorChoice = "auto"
    """``auto`` is ``pictures`` where the data set has or wants class pictures, and off otherwise."""
    prior_weight: float = 1.0
    """Of the prior loss, where it is not off. 1 is DreamBooth's."""
    ema: EmaConfig = field(default_factory=EmaConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    keep_states: int = TrainConfig.keep_states

    def applied_to(self, config: TrainConfig, dataset: Dataset) -> TrainConfig:
        """The config with these settings; its learning rate, and how often it draws previews if it says so, stay."""
        every = config.preview.every or self.preview.every
        return replace(
            config,
            optimizer=replace(self.optimizer, learning_rate=config.optimizer.learning_rate),
            objective=self.objective,
            prior=self._prior(dataset),
            ema=self.ema,
            memory=self.memory,
            data=dataset.settings,
            preview=replace(self.preview, every=every),
            validation=self.validation,
            keep_states=self.keep_states,
        )

    def _prior(self, dataset: Dataset) -> PriorConfig:
        has_class = bool(dataset.class_pictures or dataset.class_count)
        if self.prior == "auto":
            return wanted_prior(has_class, self.prior_weight)
        return PriorConfig() if self.prior == "off" else PriorConfig(self.prior_weight, self.prior)
