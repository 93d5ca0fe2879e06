"""Which weights of a model an adapter trains."""

from __future__ import annotations

from krona_ops.errors import ConfigError
from krona_ops.names.branches import Mode
from krona_ops.shown import shown
from krona_ops.targets.parts import MODEL_PARTS
from krona_ops.targets.rules import Target, TargetRule, describe_missing, select

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
        ConfigError: A rule names a kind that does not exist, or one with factors for norms or biases.
        CoverageError: No rule matches any layer, or one takes a part that this kind of model does not have.
    """

    if beside is not None:
        return branch_targets(backbone, config, beside)

    def is_whole(rule: TargetRule) -> bool:
        return layer_type(rule.trained or config.kind).is_whole

    for rule in config.targets:
        if rule.part and MODEL_PARTS[rule.part].kind and not is_whole(rule):
            raise ConfigError(
                f"The {rule.part} have no factors, so {shown(rule.trained)} cannot be trained for them.",
                where="adapter.targets",
                found=rule.trained,
                expected="difference or full",
                remedy="Leave the rule's kind out.",
            )
    with_vectors = any(map(is_whole, config.targets))
    return select(backbone.weights(vectors=with_vectors), config.targets, is_whole=is_whole)


def missing_parts(backbone: Backbone, config: AdapterConfig) -> tuple[str, ...]:
    """A line for each part that the settings' rules take by name and that the model does not have."""
    if not any(rule.part for rule in config.targets):
        return ()
    return describe_missing(backbone.weights(vectors=True), config.targets)
