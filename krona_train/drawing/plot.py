"""A training as a picture: its losses, and a film strip of how its previews changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .film_strip import MARGIN, film_strip

RAW, MEAN, VALIDATION, RATE = "#9db8d9", "#1f4e8c", "#d1571b", "#7d9a5b"
_INK, _FAINT = "#22252b", "#6b717c"
_DPI = 100
_LEFT, _TOP, _BOTTOM = 76, 40, 52
"""Pixels around the axes; fixed, so that the film strip knows where a step is."""


def loss_curve(
    losses: Sequence[float],
    title: str = "",
    size: tuple[int, int] = (900, 500),
    *,
    steps: Sequence[int] | None = None,
    validation: Sequence[tuple[int, float]] = (),
    learning_rates: Sequence[float] = (),
    previews: Sequence[tuple[int, Image.Image]] = (),
) -> Image.Image:
    """Draw the loss of every step and its running mean, and validations,
    learning rates and previews where there are any.

    The raw loss jumps with each step's noise level; the running mean over an eighth of the run is what to look at.

    Args:
        losses: One per step; may be empty.
        size: Width and height in pixels, without the film strip.
        steps: The step of each loss, rising; from 1 without gaps if not given. Across a gap (metrics lost in a crash)
            no line is drawn.
        validation: ``(step, loss)``; the lowest is marked.
        learning_rates: One per loss; drawn on an axis of its own unless it never changes.
        previews: ``(step, picture)``; shown below the curve, each at its step, as many as fit.
    """
    numbers = np.arange(1, len(losses) + 1) if steps is None else np.asarray(steps, dtype=int)
    values, rates = np.asarray(losses, dtype=float), np.asarray(learning_rates, dtype=float)
    is_rated = len(rates) == len(values) > 0 and bool(np.ptp(rates) > 1e-6 * np.abs(rates).max())
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = _axes(figure, size, MARGIN if previews else 76 if is_rated else 24)
    axes.set_xlim(*_span([*numbers, *(step for step, _ in validation), *(step for step, _ in previews)]))
    _draw_losses(axes, numbers, values)
    _draw_validation(axes, validation)
    axes.set_ylim(0, _height(values, validation))
    rated = _draw_rates(axes, numbers, rates) if is_rated else []
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = axes.legend(
            [*handles, *rated],
            [*labels, *(str(line.get_label()) for line in rated)],
            loc="upper right",
            fontsize=9,
            framealpha=0.85,
        )
        legend.get_frame().set_linewidth(0)
    axes.set_title(title, fontsize=12, color=_INK, loc="left")
    canvas.draw()
    curve = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    if not previews:
        return curve
    places = [(float(axes.transData.transform((step, 0))[0]), step, picture) for step, picture in previews]
    return film_strip(curve, places)


def _axes(figure: Figure, size: tuple[int, int], right: int) -> Axes:
    """The axes of the plot, with their labels.

    Args:
        right: The margin at the right in pixels.
    """
    width, height = size
    box = (_LEFT / width, _BOTTOM / height, (width - _LEFT - right) / width, (height - _TOP - _BOTTOM) / height)
    axes = figure.add_axes(box)
    axes.set_xlabel("step", color=_FAINT)
    axes.set_ylabel("loss (mean squared error of the prediction)", color=_FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(colors=_FAINT)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)
    return axes


def _span(steps: Sequence[int]) -> tuple[int, int]:
    """First and last step of the axis, which differ even for an empty run."""
    first = min([1, *steps])
    return first, max([first + 1, *steps])


def _draw_losses(axes: Axes, steps: np.ndarray, losses: np.ndarray) -> None:
    if not len(losses):
        return
    axes.plot(*_with_gaps(steps, losses), color=RAW, linewidth=0.8, label="each step")
    axes.plot(*_with_gaps(steps, smoothed(losses)), color=MEAN, linewidth=2, label="running mean")


def _draw_validation(axes: Axes, validation: Sequence[tuple[int, float]]) -> None:
    finite = [(step, loss) for step, loss in validation if np.isfinite(loss)]
    if not finite:
        return
    steps, losses = zip(*finite, strict=True)
    axes.plot(
        steps,
        losses,
        color=VALIDATION,
        linewidth=1.4,
        marker="o",
        markersize=4.5,
        label="validation",
        zorder=3,
        clip_on=False,
    )
    step, loss = min(finite, key=lambda pair: (pair[1], pair[0]))
    axes.plot(
        step,
        loss,
        color=VALIDATION,
        marker="*",
        markersize=17,
        markeredgecolor="white",
        linestyle="none",
        label=f"best: {loss:.3g} at step {step:,}",
        zorder=4,
        clip_on=False,
    )


def _draw_rates(axes: Axes, steps: np.ndarray, rates: np.ndarray) -> list[Line2D]:
    """Draw the learning rate on an axis of its own at the right; returns its line for the legend."""
    twin = axes.twinx()
    lines = twin.plot(*_with_gaps(steps, rates), color=RATE, linewidth=1, linestyle=(0, (5, 2)), label="learning rate")
    twin.set_ylim(0, 1.08 * float(np.nanmax(rates)))
    twin.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    twin.yaxis.get_offset_text().set_color(RATE)
    twin.tick_params(axis="y", colors=RATE, labelsize=8)
    twin.grid(visible=False)
    for side in ("top", "left", "bottom"):
        twin.spines[side].set_visible(False)
    twin.spines["right"].set_color(RATE)
    return lines


def _height(losses: np.ndarray, validation: Sequence[tuple[int, float]]) -> float:
    """The upper end of the loss axis: at most a few steps lie above it, no validation does."""
    raw = losses[np.isfinite(losses)]
    tops = [float(np.quantile(raw, 0.995))] if len(raw) else []
    tops += [loss for _, loss in validation if np.isfinite(loss)]
    return 1.08 * max(tops, default=0.0) or 1.0


def _with_gaps(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values with a NaN wherever steps are missing, so that no line crosses the gap."""
    before = np.flatnonzero(np.diff(steps) > 1) + 1
    return np.insert(steps.astype(float), before, np.nan), np.insert(values, before, np.nan)


def smoothed(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mean over a centred window of an eighth of the run, shorter at its ends; what is not finite does not count."""
    values = np.asarray(losses, dtype=float)
    half = max(1, len(values) // 16)
    is_finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(is_finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(is_finite)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    counted = count[high] - count[low]
    return np.where(counted > 0, (total[high] - total[low]) / np.maximum(counted, 1), np.nan)
