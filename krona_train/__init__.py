"""The trainer of Kronecker adapters; it runs on any `krona_train.backbone.protocol.Backbone`."""

from .config import AdapterConfig, OptimizerConfig, TrainConfig
from .loop import fit

__all__ = ["AdapterConfig", "OptimizerConfig", "TrainConfig", "fit"]
