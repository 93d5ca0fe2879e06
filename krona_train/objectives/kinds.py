"""The kinds of objective: a line for each.

``objective.kind`` chooses one; what wraps another is put around it by settings of its own (``prior``,
``adapter.sparse``).
"""

from __future__ import annotations

from krona_ops.errors import ConfigError

from ..settings.codec import OfKind
from ..settings.groups import PriorConfig, SparseConfig
from .branch import BranchDenoising
from .consistency import ConsistencyOfDraws
from .denoising import Denoising
from .guidance import GuidanceDistillation
from .pairs import PairDistillation
from .preservation import PriorPreservation
from .protocol import Objective
from .score_matching import ScoreMatching

OBJECTIVES: tuple[type[Objective], ...] = (
    Denoising,
    BranchDenoising,
    GuidanceDistillation,
    ScoreMatching,
    PairDistillation,
    PriorPreservation,
    ConsistencyOfDraws,
)
"""Those that settings choose by ``objective.kind`` have a ``kind`` in their settings; where none is named, the first
one is meant."""


def configs() -> tuple[type[OfKind], ...]:
    """The classes of settings that ``objective`` may hold."""
    return tuple(each.config_type for each in OBJECTIVES if hasattr(each.config_type, "kind"))


def objective_of(config: OfKind, prior: PriorConfig, sparse: SparseConfig | None = None) -> Objective:
    """What is minimised.

    Args:
        sparse: Only for the losses; what an objective needs and draws is the same without.

    Raises:
        ConfigError: The settings are of no kind that there is, or they make no sense together.
    """
    objective_type = next((each for each in OBJECTIVES if each.config_type is type(config)), None)
    if objective_type is None:
        kinds = ", ".join(each.kind for each in configs())
        raise ConfigError(
            f"There is no objective {config.kind}.", found=config.kind, expected=kinds, remedy=f"Choose one of {kinds}."
        )
    objective = objective_type(config)
    if prior.weight:
        objective = PriorPreservation(objective, prior)
    return ConsistencyOfDraws(objective, sparse) if sparse is not None and sparse.consistency else objective
