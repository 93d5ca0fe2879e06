"""The rules by which a user may have a file's ``alpha`` read; what they do is in `krona_ops.formats.scale`."""

from __future__ import annotations

from typing import Literal, get_args

from ..errors import ConfigError

ScaleRule = Literal["auto", "lycoris", "alpha/rank", "alpha/sqrt(in)", "alpha/sqrt(rank)", "1"]
"""How ``alpha`` becomes a scale; "auto" is LyCORIS's rule unless the file says that another trainer made it."""
RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)


def check_rule(rule: str) -> ScaleRule:
    """The rule, narrowed to one of `RULES`.

    Raises:
        ConfigError: There is no such rule.
    """
    if rule not in RULES:
        raise ConfigError(
            f'There is no scale rule "{rule}".',
            found=rule,
            expected=" or ".join(RULES),
            remedy='Take "auto" to start with.',
        )
    return rule
