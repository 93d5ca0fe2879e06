"""Every setting of a training, and how it is written and read: what nodes, YAML files, docs and tests import."""

from ..objectives.branch_config import BranchConfig
from ..objectives.denoising_config import DenoisingConfig, Distance, Levels, Weighting
from ..settings.codec import from_dict, to_dict, to_yaml
from ..settings.groups import (
    WIDTH,
    AdapterConfig,
    Checkpointing,
    Compute,
    DataConfig,
    EmaConfig,
    MemoryConfig,
    Optimizer,
    OptimizerConfig,
    PreviewConfig,
    PriorConfig,
    Schedule,
    ValidationConfig,
    wanted_prior,
)
from .training import TrainConfig, from_yaml

__all__ = [
    "WIDTH",
    "AdapterConfig",
    "BranchConfig",
    "Checkpointing",
    "Compute",
    "DataConfig",
    "DenoisingConfig",
    "Distance",
    "EmaConfig",
    "Levels",
    "MemoryConfig",
    "Optimizer",
    "OptimizerConfig",
    "PreviewConfig",
    "PriorConfig",
    "Schedule",
    "TrainConfig",
    "ValidationConfig",
    "Weighting",
    "from_dict",
    "from_yaml",
    "to_dict",
    "to_yaml",
    "wanted_prior",
]
