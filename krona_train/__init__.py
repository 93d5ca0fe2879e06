"""The trainer of Kronecker adapters; it runs on any `krona_train.backbone.protocol.Backbone`."""

from typing import TYPE_CHECKING, Any

from .config import AdapterConfig, OptimizerConfig, TrainConfig

if TYPE_CHECKING:
    from .loop import fit

__all__ = ["AdapterConfig", "OptimizerConfig", "TrainConfig", "fit"]


def __getattr__(name: str) -> Any:
    """The loop, once somebody trains: nodes that only have settings to offer should not wait for it."""
    if name != "fit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .loop import fit

    return fit
