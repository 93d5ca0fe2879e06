"""What is known of the host's samplers by their names."""

from __future__ import annotations

_STIRS = ("ancestral", "sde", "seeds", "lcm", "ddpm", "sa_solver")
_MEASURES = ("adaptive",)


def stirs(sampler: str) -> bool:
    """Whether a sampler adds noise on its way, so that its picture is not made by the first noise alone."""
    return any(part in sampler for part in _STIRS)


def looks_at_the_batch(sampler: str) -> bool:
    """Whether what a sampler makes of one drawing depends on those beside it: by noise for all of them, or by steps
    whose length is measured over all of them."""
    return stirs(sampler) or any(part in sampler for part in _MEASURES)
