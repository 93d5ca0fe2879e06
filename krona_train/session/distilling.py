"""Trainings that learn from what the model draws itself: their settings where nobody chooses others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from krona_ops.errors import ConfigError
from krona_ops.targets.rules import FEED_FORWARD_LAYERS, TargetRule

from ..config import TrainConfig
from ..data.pictures import Dataset
from ..objectives.kinds import objective_of
from ..settings.codec import OfKind
from ..settings.groups import AdapterConfig, OptimizerConfig, PreviewConfig, PriorConfig, ValidationConfig
from .choices import Settings

FACTORS = (8, 8)
"""A hundredth of SDXL's weights with attention and feed-forward, which is what the authors of AGD train."""
VALIDATED = 8
"""One of so many drawings is kept out, to judge by."""


@dataclass(frozen=True)
class Recipe:
    """How one kind is trained where nobody says otherwise; docs/distillation.md says what was measured with it."""

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)


RECIPES: Mapping[str, Recipe] = {
    "guidance": Recipe(8e-4),
    "score matching": Recipe(5e-4, (0.0, 0.999)),  # no first moment, as in the paper
    "pairs": Recipe(8e-4),
}
"""By the objective's kind."""


def distilling(
    objective: OfKind,
    dataset: Dataset,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    targets: AdapterConfig | None,
    settings: Settings | None,
    preview_every: int,
) -> TrainConfig:
    """A whole training.

    Args:
        learning_rate: 0 takes the kind's own.
        targets: ``None`` takes attention and feed-forward.
        settings: What it says about noise levels and errors does not count; ``None`` takes the kind's own optimizer, and
            keeps some drawings out to judge by.

    Raises:
        ConfigError: The settings make no sense together, or want what a distillation cannot do: preserve a class, or look
            at masks.
    """
    if settings is not None:
        _require_no_prior(settings)
    _require_no_masks(dataset, objective)
    recipe = RECIPES[objective.kind]
    rules = (TargetRule(FACTORS), TargetRule(FACTORS, projections=(), pattern=FEED_FORWARD_LAYERS))
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        adapter=targets or AdapterConfig(targets=rules),
        optimizer=OptimizerConfig(learning_rate=learning_rate or recipe.learning_rate),
        preview=PreviewConfig(every=preview_every),
    )
    given = settings or Settings(
        optimizer=OptimizerConfig(betas=recipe.betas, weight_decay=0.0, schedule="cosine", warmup=steps // 10),
        validation=_validation(objective, steps),
    )
    return replace(given.applied_to(config, dataset), objective=objective, prior=PriorConfig())


def _require_no_prior(settings: Settings) -> None:
    if settings.prior not in ("auto", "off"):
        raise ConfigError(
            "A distillation has no subject, and so no class whose prior could be preserved.",
            where="prior",
            found=settings.prior,
            expected="auto or off",
            remedy="Set prior to off in KronA Train Settings.",
        )


def _require_no_masks(dataset: Dataset, objective: OfKind) -> None:
    masked = next((picture for picture in dataset.pictures if picture.mask is not None), None)
    if masked is not None or dataset.settings.masks:
        raise ConfigError(
            f"A distillation learns from what the model draws, so that masks would do nothing to {objective.kind}.",
            where="dataset",
            found="masks" if masked is None else f"{masked.name} with a mask",
            expected="prompts, from KronA Prompts",
            remedy="Connect KronA Prompts, which takes the captions of a data set too, or turn masks off in KronA Dataset.",
        )


def _validation(objective: OfKind, steps: int) -> ValidationConfig:
    """Ten looks at drawings that are kept out; none where nothing is drawn before."""
    rollouts = objective_of(objective, PriorConfig()).rollouts
    if rollouts is None or rollouts.count < VALIDATED:
        return ValidationConfig()
    return ValidationConfig(every=max(1, steps // 10), pictures=rollouts.count // VALIDATED)
