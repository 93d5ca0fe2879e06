"""The loss of a training as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


def loss_curve(losses: Sequence[float], title: str = "", size: tuple[int, int] = (900, 500)) -> Image.Image:
    """Draw the loss of every step and its running mean.

    The raw loss jumps with each step's noise level; the running mean over an eighth of the run is what to look at.

    Args:
        losses: One per step, from step 1; may be empty.
        size: Width and height in pixels.
    """
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="#9db8d9", linewidth=0.8, label="each step")
    if losses:
        axes.plot(steps, smoothed(losses), color="#1f4e8c", linewidth=2, label="running mean")
        axes.legend(frameon=False)
        axes.set_ylim(0, 1.05 * float(np.nanquantile(losses, 0.995)) or 1)
    axes.set_xlim(1, max(2, len(losses)))
    axes.set_xlabel("step")
    axes.set_ylabel("loss (mean squared error of the prediction)")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """Mean over a centred window of an eighth of the run, shorter at its ends."""
    half = max(1, len(losses) // 16)
    total = np.concatenate([[0.0], np.cumsum(losses)])
    index = np.arange(len(losses))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(losses))
    return (total[high] - total[low]) / (high - low)
