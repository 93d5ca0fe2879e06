"""Which weights of a model an adapter trains."""

from __future__ import annotations

from krona_ops.names.branches import Mode
from krona_ops.targets.rules import Target, TargetRule, select

from ..backbone.protocol import Backbone
from ..settings.groups import AdapterConfig
from .branches import branch_targets
from .layers import layer_type


def targets_of(backbone: Backbone, config: AdapterConfig, beside: Mode | None = None) -> tuple[Target, ...]:
    """The targets of the settings' rules, in the model's own order.

    Norms and biases are among them where a rule's kind takes them.

    Args:
        beside: The parts of a parallel branch of this mode instead, see `krona_train.adapters.branches`.

    Raises:
        ConfigError: A rule names a kind that does not exist.
        CoverageError: No rule matches any layer.
    """

    if beside is not None:
        return branch_targets(backbone, config, beside)

    def is_whole(rule: TargetRule) -> bool:
        return layer_type(rule.kind or config.kind).is_whole

    with_vectors = any(map(is_whole, config.targets))
    return select(backbone.weights(vectors=with_vectors), config.targets, is_whole=is_whole)
