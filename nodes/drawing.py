"""Adapters as pictures: which part of the model moved how far, and the spectra of the factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from krona_ops.names.places import sorted_blocks
from krona_ops.operations.report import Grid, LayerReport

_INK, _FAINT, _EMPTY, _BAR = "#22252b", "#8a909c", "#f1f2f5", "#5b3b8c"
_COLOURS = "magma_r"
_DPI = 110


def heat_map(grid: Grid, title: str = "", subtitle: str = "") -> Image.Image:
    """Draw blocks down and roles across, the darker the further it moved; the totals as bars at both edges.

    The colours are logarithmic: an adapter's parts differ by factors, not by amounts.
    """
    rows, columns = max(1, len(grid.blocks)), max(1, len(grid.roles))
    longest = max((len(block) for block in grid.blocks), default=5)
    width = 0.085 * longest + 0.72 * columns + 3.2
    figure, canvas = _blank(max(width, 7.0), 0.34 * rows + 3.0)
    if not grid.blocks:
        return _message(figure, canvas, "No layer of this adapter can be measured without its base model.")
    figure.suptitle(title, fontsize=15, color=_INK, fontweight="bold")
    top, corner, cells, side = figure.subplots(
        2,
        2,
        width_ratios=(columns * 0.72, 1.5),
        height_ratios=(0.9, rows * 0.34),
        gridspec_kw={"wspace": 0.02, "hspace": 0.02},
    ).flat
    corner.axis("off")
    values = np.array([[np.nan if v is None else v for v in row] for row in grid.values], dtype=float)
    exponent = _exponent(values)
    moved = np.ma.masked_invalid(np.where(values > 0, values, np.nan))
    image = cells.imshow(moved, _COLOURS, _norm(values), aspect="auto")
    _label_cells(cells, image, values, exponent)
    _label_axes(cells, grid)
    _bars(side, np.array(grid.of_blocks), horizontal=True)
    _bars(top, np.array(grid.of_roles), horizontal=False)
    side.set_ylim(cells.get_ylim())
    top.set_xlim(cells.get_xlim())
    what = "root mean square of ΔW" if grid.measure == "rms" else "‖ΔW‖"
    unit = f" · 10$^{{{exponent}}}$" if exponent else ""
    cells.set_xlabel(f"{what}{unit}{'   ·   ' + subtitle if subtitle else ''}", fontsize=10, color=_FAINT, labelpad=10)
    return _image(canvas)


def _exponent(values: np.ndarray) -> int:
    """The power of ten that leaves the largest number with one or two digits before the point."""
    largest = np.nanmax(values, initial=0)
    exponent = int(np.floor(np.log10(largest))) if largest > 0 else 0
    return 0 if -1 <= exponent <= 2 else exponent


def _norm(values: np.ndarray) -> LogNorm:
    """From the largest down by three powers of ten at most, so that one still layer does not bleach the others."""
    seen = values[np.isfinite(values) & (values > 0)]
    high = float(seen.max()) if seen.size else 1.0
    low = max(float(seen.min()) if seen.size else 0.1, high / 1000)
    return LogNorm(min(low, high / 1.5) * 0.8, high * 1.15, clip=True)


def _label_cells(axes: Axes, image: AxesImage, values: np.ndarray, exponent: int) -> None:
    axes.set_facecolor(_EMPTY)
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        is_dark = value > 0 and np.mean(image.cmap(image.norm(value))[:3]) < 0.55
        colour, text = "white" if is_dark else _INK, _short(value / 10.0**exponent)
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)


def _short(value: float) -> str:
    """A number with two or three digits; a dot for what is a thousand times smaller than the rest."""
    if value == 0:
        return "0"
    digits = next((d for limit, d in ((99.5, 0), (9.95, 1), (0.0995, 2), (0.00095, 3)) if value >= limit), None)
    return "·" if digits is None else f"{value:.{digits}f}"


def _label_axes(axes: Axes, grid: Grid) -> None:
    roles = [role.replace(" ", "\n", 1) for role in grid.roles]
    axes.set_xticks(range(len(grid.roles)), roles, fontsize=10, color=_INK)
    axes.set_yticks(range(len(grid.blocks)), grid.blocks, fontsize=9.5, color=_INK)
    axes.set_xticks(np.arange(len(grid.roles) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(grid.blocks) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _bars(axes: Axes, values: np.ndarray, horizontal: bool) -> None:
    places = np.arange(len(values))
    if horizontal:
        axes.barh(places, values, height=0.62, color=_BAR, alpha=0.75)
        axes.set_xlim(0, values.max() * 1.05 or 1)
    else:
        axes.bar(places, values, width=0.62, color=_BAR, alpha=0.75)
        axes.set_ylim(0, values.max() * 1.05 or 1)
    axes.axis("off")


def factor_spectra(layers: Sequence[LayerReport], title: str = "") -> Image.Image:
    """Draw the singular values of every layer's factors, relative to the largest: a line per layer, coloured by depth.

    A line that falls early is a factor that uses few of its directions.
    """
    groups = _by_factor(layers)
    figure, canvas = _blank(5.4 * max(1, len(groups)) + 0.6, 4.6)
    if not groups:
        return _message(figure, canvas, "No layer of this adapter has a spectrum that is quick to find.")
    figure.suptitle(title, fontsize=14, color=_INK, fontweight="bold")
    for axes, (label, spectra) in zip(np.atleast_1d(figure.subplots(1, len(groups))), groups.items(), strict=True):
        _draw_spectra(axes, label, spectra)
    figure.supxlabel("a line per layer, from violet (first) to green (last in the model)", fontsize=9.5, color=_FAINT)
    return _image(canvas)


def _by_factor(layers: Sequence[LayerReport]) -> Mapping[str, list[tuple[float, np.ndarray]]]:
    """For each of A, B and ΔW: (depth from 0 to 1, relative singular values) of every layer."""
    groups: dict[str, list[tuple[float, np.ndarray]]] = {}
    order = {block: n for n, block in enumerate(sorted_blocks(layer.block for layer in layers))}
    for n, layer in enumerate(sorted(layers, key=lambda layer: order[layer.block])):
        for label, values in layer.spectra:
            if values and values[0] > 0:
                groups.setdefault(label, []).append((n / max(1, len(layers) - 1), np.array(values) / values[0]))
    return groups


def _draw_spectra(axes: Axes, label: str, spectra: Sequence[tuple[float, np.ndarray]]) -> None:
    colours = colormaps["viridis"]
    for depth, values in spectra:
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=colours(0.9 * depth),
            alpha=max(0.12, 1 / len(spectra) ** 0.5),
            linewidth=1,
        )
    longest = max(len(values) for _, values in spectra)
    padded = np.array([np.pad(values, (0, longest - len(values)), constant_values=np.nan) for _, values in spectra])
    axes.plot(np.arange(1, longest + 1), np.nanmedian(padded, axis=0), color=_INK, linewidth=2.2, label="median")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(max(1e-4, 0.7 * float(np.nanmin(np.where(padded > 1e-4, padded, 1)))), 1.15)
    axes.set_title(f"{label}   ({len(spectra)} layers)", fontsize=12, color=_INK)
    axes.set_xlabel("singular value", fontsize=10, color=_INK)
    axes.set_ylabel("relative to the largest", fontsize=10, color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _blank(width: float, height: float) -> tuple[Figure, FigureCanvasAgg]:
    """An empty figure of so many inches, with some room at its edges, and what draws it."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), dpi=_DPI, layout=layout, facecolor="white")
    return figure, FigureCanvasAgg(figure)


def _message(figure: Figure, canvas: FigureCanvasAgg, text: str) -> Image.Image:
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=13, color=_FAINT)
    return _image(canvas)


def _image(canvas: FigureCanvasAgg) -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
