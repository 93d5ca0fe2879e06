"""Shapes with soft edges on a square picture, by their signed distances (Quilez, "2D distance functions")."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Colour = tuple[float, float, float]
Point = tuple[float, float]


class Canvas:
    """A picture of ``side × side`` pixels; points are in ``[0, 1]²``, ``y`` down.

    Attributes:
        x: ``(side, side)``, of the pixels' centres.
        y: Likewise.
        rgb: ``(side, side, 3)`` in [0, 1].
    """

    def __init__(self, side: int) -> None:
        centres = (np.arange(side, dtype=np.float32) + 0.5) / side
        self.side = side
        self.x, self.y = np.meshgrid(centres, centres)
        self.rgb = np.zeros((side, side, 3), np.float32)

    def paint(self, distance: Array, colour: Colour | Array, opacity: float | Array = 1.0) -> Array:
        """Colour everything whose signed distance is negative, edges one pixel wide;
        returns how far each pixel was covered.

        Args:
            distance: ``(side, side)``.
            colour: One, or ``(side, side, 3)``.
        """
        cover = np.clip(0.5 - distance * self.side, 0, 1) * opacity
        self.rgb += cover[..., None] * (np.asarray(colour, np.float32) - self.rgb)
        return cover

    def ellipse(self, centre: Point, radii: Point) -> Array:
        """Distance to an ellipse, exact at its edge and about right nearby."""
        u, v = (self.x - centre[0]) / radii[0], (self.y - centre[1]) / radii[1]
        inside = np.sqrt(u * u + v * v)
        slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2)
        return (inside - 1) * inside / np.maximum(slope, 1e-6)

    def box(self, centre: Point, half: Point, corner: float = 0.0) -> Array:
        """Distance to a box with round corners."""
        u = np.abs(self.x - centre[0]) - (half[0] - corner)
        v = np.abs(self.y - centre[1]) - (half[1] - corner)
        return np.hypot(np.maximum(u, 0), np.maximum(v, 0)) + np.minimum(np.maximum(u, v), 0) - corner

    def capsule(self, start: Point, end: Point, radius: float) -> Array:
        """Distance to a thick line with round ends."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        along = ((self.x - start[0]) * dx + (self.y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-9)
        along = np.clip(along, 0, 1)
        return np.hypot(self.x - start[0] - along * dx, self.y - start[1] - along * dy) - radius

    def triangle(self, a: Point, b: Point, c: Point) -> Array:
        """Distance to a triangle, exact away from its corners."""
        sides = []
        middle = ((a[0] + b[0] + c[0]) / 3, (a[1] + b[1] + c[1]) / 3)
        for p, q in ((a, b), (b, c), (c, a)):
            nx, ny = q[1] - p[1], p[0] - q[0]
            length = max(float(np.hypot(nx, ny)), 1e-9)
            sign = -1.0 if (middle[0] - p[0]) * nx + (middle[1] - p[1]) * ny > 0 else 1.0
            sides.append(sign * ((self.x - p[0]) * nx + (self.y - p[1]) * ny) / length)
        return np.maximum(np.maximum(sides[0], sides[1]), sides[2])

    def below(self, edge: Callable[[Array], Array] | float) -> Array:
        """Distance to everything under a line ``y = edge(x)``."""
        return (edge(self.x) if callable(edge) else np.float32(edge)) - self.y

    def gradient(self, top: Colour, bottom: Colour) -> Array:
        """``(side, side, 3)``: from one colour to another."""
        a, b = np.asarray(top, np.float32), np.asarray(bottom, np.float32)
        return a + self.y[..., None] * (b - a)
