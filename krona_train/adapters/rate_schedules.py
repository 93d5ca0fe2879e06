"""How a learning rate goes over a training: schedules as functions of the step alone, so that nothing is saved."""

from __future__ import annotations

import math
from collections.abc import Callable

from krona_ops.errors import ConfigError

from ..settings.groups import OptimizerConfig

RATE_AT_THE_END = 1e-7
"""Where the polynomial ends; the others end at 0."""

Factor = Callable[[int], float]
"""From the steps done to what the learning rate is multiplied by in the next one."""


def rate_factor(config: OptimizerConfig, rate: float, steps: int) -> Factor:
    """diffusers' schedule of that name, to the last bit (a test holds it to that).

    It is written here because diffusers would bring fifteen packages along.

    Args:
        rate: The learning rate itself, which the polynomial's end is measured by.
        steps: Of the whole training, the warmup included.

    Raises:
        ConfigError: A polynomial that would have to rise to its end.
    """
    falling = _falling(config, rate, steps)
    warmup = config.warmup

    def factor(done: int) -> float:
        return done / max(1, warmup) if done < warmup else falling(done)

    return factor


def _falling(config: OptimizerConfig, rate: float, steps: int) -> Factor:
    """The schedule after its warmup."""
    warmup = config.warmup
    length = max(1, steps - warmup)
    if config.schedule == "linear":
        return lambda done: max(0.0, (steps - done) / length)
    if config.schedule == "cosine":
        return lambda done: max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((done - warmup) / length))))
    if config.schedule == "cosine_with_restarts":
        return lambda done: _restarting((done - warmup) / length, config.cycles)
    if config.schedule == "polynomial":
        return _polynomial(rate, warmup, steps, config.power)
    return lambda done: 1.0


def _restarting(progress: float, cycles: int) -> float:
    """A cosine that falls from 1 to 0 so many times; ``progress`` is 0 after the warmup and 1 at the end."""
    return 0.0 if progress >= 1.0 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((cycles * progress) % 1.0))))


def _polynomial(rate: float, warmup: int, steps: int, power: float) -> Factor:
    """From the rate itself down to `RATE_AT_THE_END`, as the ``power`` of the share of steps that is left.

    Raises:
        ConfigError: The rate is not above its end.
    """
    if not rate > RATE_AT_THE_END:
        raise ConfigError(
            f"The schedule polynomial falls to a learning rate of {RATE_AT_THE_END:g}, and this one is not above it.",
            found=rate,
            expected=f"more than {RATE_AT_THE_END:g}",
            remedy="Set a higher learning_rate, or the schedule to linear or cosine, which fall to 0.",
        )

    def factor(done: int) -> float:
        if done > steps:
            return RATE_AT_THE_END / rate
        left = 1 - (done - warmup) / (steps - warmup)
        return ((rate - RATE_AT_THE_END) * left**power + RATE_AT_THE_END) / rate

    return factor
