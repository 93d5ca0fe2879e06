"""How fast each layer learns, whether anything learns at all, and where a schedule stands."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from krona_ops.errors import ConfigError
from krona_ops.targets.rules import Target

from ..backbone.protocol import Backbone
from ..settings.groups import WIDTH, OptimizerConfig
from .layers.protocol import Role
from .rate_schedules import rate_factor


def learning_rates(backbone: Backbone, targets: Sequence[Target], optimizer: OptimizerConfig) -> dict[str, float]:
    """For each layer, what its learning rate is multiplied by.

    Widths count for nothing with Prodigy, which finds one rate for all, and for norms and biases, which read one number
    for each that they give.
    """
    text = optimizer.rate_text
    exponent = optimizer.rate_by_width if optimizer.name != "prodigy" else 0.0
    return {
        target.name: target.rate
        * (text if backbone.is_text(target.name) else 1.0)
        * (1.0 if target.is_vector else (WIDTH / target.sizes.in_features) ** exponent)
        for target in targets
    }


def require_movement(
    rates: Mapping[str, float],
    roles: Mapping[str, Collection[Role]],
    optimizer: OptimizerConfig,
    steps: int,
    begun: Collection[str] = (),
) -> None:
    """Refuse a training in which nothing is learnt.

    A layer of two factors that starts at nothing learns only through the factor that starts at zero, whatever the rate
    of the other; one that starts at the model's own weight learns at its own rate alone.

    Args:
        rates: See `learning_rates`.
        roles: How each layer's parameters start, `Layer.roles`.
        steps: Of the whole training.
        begun: The layers that start at an adapter's update, with both factors.

    Raises:
        ConfigError: All rates that count are zero, or the schedule has none below.
    """
    if optimizer.name != "schedulefree":
        rate_factor(optimizer, optimizer.learning_rate, steps)

    def moves(name: str) -> bool:
        at_zero = optimizer.rate_b > 0 and "zero" in roles[name]
        at_random = optimizer.rate_a > 0 and "random" in roles[name] and name in begun
        return rates[name] > 0 and (at_zero or at_random or "weight" in roles[name])

    if not any(map(moves, rates)):
        at_zero = any("zero" in each for each in roles.values())
        what = "rate_b" if at_zero and not optimizer.rate_b else "rate_text, or every target rule's rate,"
        raise ConfigError(
            f"Nothing would be trained: {what} is 0, so every update stays the zero that it starts as.",
            where="optimizer",
            found=0,
            expected="a learning rate above 0 for at least one layer",
            remedy="Set it above 0; 1 learns as fast as the learning rate says.",
        )


def jump(step: int, before: int, steps: int, optimizer: OptimizerConfig) -> str:
    """What happens to the learning rate where a run goes on to another number of steps; empty where nothing does.

    The longer training's curve is the one that a run of all these steps would have had; the shorter one's is over.

    Args:
        step: After which it goes on.
        before: Steps of the whole training until then.
        steps: And from now on.
    """
    if before == steps or optimizer.name == "schedulefree":
        return ""
    was, now = (rate_factor(optimizer, optimizer.learning_rate, n)(step) for n in (before, steps))
    if math.isclose(was, now, rel_tol=1e-6, abs_tol=1e-9):
        return ""
    return (
        f"The schedule {optimizer.schedule} spreads over all steps, now {steps} instead of {before}: after step "
        f"{step} the learning rate {'rises' if now > was else 'falls'} from {optimizer.learning_rate * was:.3g} to "
        f"{optimizer.learning_rate * now:.3g}, where the curve of {steps} steps stands."
    )
