"""Inputs that several nodes share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

ARROWS = "krona_arrows"
"""Under this name the browser finds by how much the arrows of a number change it (web/numbers)."""


def number_input(
    id: str, *, default: float, low: float, high: float, decimals: int, arrows: float, tooltip: str, **options: Any
) -> io.Float.Input:
    """A number that keeps every value with so many decimals, typed, loaded or imported.

    The editor rounds a number to the decimals of its ``step``, which is also what its arrows add: with a comfortable step a learning
    rate of 5e-6 becomes 0. So the step is the finest difference, and the arrows are told apart.

    Args:
        decimals: Of the smallest difference that anybody uses; the default, ``low`` and ``high`` have no more.
        arrows: What one click on an arrow adds.
        options: As the host's ``Float.Input`` takes them.
    """
    finest = float(f"1e-{decimals}")
    return io.Float.Input(
        id,
        default=default,
        min=low,
        max=high,
        step=finest,
        round=finest,
        tooltip=tooltip,
        extra_dict={ARROWS: arrows},
        **options,
    )
