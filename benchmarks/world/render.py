"""Pictures: a character in a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import Array, Canvas, Colour, Point
from .characters import Character
from .grammar import Scene
from .places import TINT, draw_place

SIDE = 64
"""Pixels."""
FLOOR = 0.94
"""Where feet stand."""
DARK: Colour = (0.08, 0.07, 0.10)
BEAK: Colour = (0.98, 0.62, 0.10)
SUPPLE = 0.6
"""How much of the light's tint reaches a character; all of it would hide colours at night."""


@dataclass(frozen=True)
class _Body:
    """Where everything is."""

    middle: Point
    half: Point
    head: Point
    head_half: Point


def render(who: Character, scene: Scene, seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """One picture.

    Args:
        seed: Of everything that nobody names: where the character stands, how large it is, where stars and houses are.

    Returns:
        ``(side, side, 3)``.
    """
    rng = np.random.default_rng([20_27, seed])
    canvas = Canvas(2 * side)
    draw_place(canvas, scene.background, scene.light, rng)
    behind = canvas.rgb.copy()
    tint = 1 - SUPPLE + SUPPLE * np.asarray(TINT[scene.light], np.float32)
    x, size = 0.5 + float(rng.uniform(-0.06, 0.06)), float(rng.uniform(0.95, 1.05))
    canvas.x = (canvas.x - x) / size + 0.5
    canvas.y = (canvas.y - FLOOR) / size + FLOOR
    canvas.side = round(canvas.side * size)  # edges stay a pixel wide
    canvas.rgb[:] = 0
    cover = _Figure(canvas, who, scene).draw()
    # Painted on black with soft edges: the colour is already times the cover.
    rgb = canvas.rgb * tint + behind * (1 - cover[..., None])
    small = rgb.reshape(side, 2, side, 2, 3).mean((1, 3))
    return np.clip(small * 255 + 0.5, 0, 255).astype(np.uint8)


class _Figure:
    """A character being painted."""

    def __init__(self, canvas: Canvas, who: Character, scene: Scene) -> None:
        self.canvas, self.who, self.scene = canvas, who, scene
        self.cover = np.zeros_like(canvas.x)
        leg = {"standing": 0.10, "waving": 0.10, "jumping": 0.17, "sitting": 0.02}[scene.pose]
        w, h = who.body
        middle = (0.5, FLOOR - leg - h)
        head_half = (who.head * who.head_width, who.head)
        self.body = _Body(middle, (w, h), (0.5, middle[1] - h - 0.8 * who.head), head_half)

    def paint(self, distance: Array, colour: Colour | Array, opacity: float | Array = 1.0) -> None:
        """As `Canvas.paint`, and keep account of what is covered."""
        cover = self.canvas.paint(distance, colour, opacity)
        self.cover += cover * (1 - self.cover)

    def draw(self) -> Array:
        """Paint everything from back to front; returns how far each pixel is covered."""
        if self.scene.pose == "jumping":
            self.paint(self.canvas.ellipse((0.5, FLOOR), (0.13, 0.018)), DARK, 0.35)
        if self.scene.accessory == "umbrella":
            self._umbrella()
        self._tail()
        self._legs()
        self._arms()
        self._trunk()
        self._head()
        if self.scene.accessory == "scarf":
            self._scarf()
        elif self.scene.accessory == "hat":
            self._hat()
        elif self.scene.accessory == "balloon":
            self._balloon()
        return self.cover

    def _shade(self, factor: float) -> Colour:
        r, g, b = self.who.colour
        return r * factor, g * factor, b * factor

    def _line(self, start: Point, end: Point, colour: Colour | None = None, thick: float | None = None) -> None:
        self.paint(self.canvas.capsule(start, end, thick or self.who.limb), colour or self._shade(0.72))

    def _legs(self) -> None:
        (x, y), (w, h), gap = self.body.middle, self.body.half, 0.5 * self.body.half[0]
        hip, thick = y + 0.8 * h, self.who.limb
        leg, sole = (BEAK, BEAK) if self.who.kind == "bird" else (self._shade(0.72), self._shade(0.55))
        for side in (-1, 1):
            start = (x + side * gap, hip)
            if self.scene.pose == "jumping":
                knee = (x + side * (gap + 0.10), hip + 0.07)
                self._line(start, knee, leg)
                self._line(knee, (knee[0] - side * 0.02, knee[1] + 0.08), leg)
            elif self.scene.pose == "sitting":
                foot = (x + side * (w + 0.14), FLOOR - thick)
                self._line((x + side * gap, FLOOR - thick - 0.01), foot, leg)
                self.paint(self.canvas.ellipse(foot, (0.035, 0.045)), sole)
            else:
                foot = (x + side * gap, FLOOR - thick)
                self._line(start, foot, leg)
                self.paint(self.canvas.ellipse((foot[0] + side * 0.012, foot[1]), (thick + 0.02, thick)), sole)

    def _hand(self, side: int) -> Point:
        (x, y), (w, h) = self.body.middle, self.body.half
        raised = self.scene.pose == "jumping" or (self.scene.pose == "waving" and side == 1)
        holding = side == -1 and self.scene.accessory in ("umbrella", "balloon")
        if raised and not holding:
            return x + side * (w + 0.13), y - h - 0.10
        if holding:
            return x + side * (w + 0.13), y - 0.25 * h
        return x + side * (w + 0.07), y + 0.85 * h

    def _arms(self) -> None:
        (x, y), (w, h) = self.body.middle, self.body.half
        for side in (-1, 1):
            hand, shoulder = self._hand(side), (x + side * 0.85 * w, y - 0.6 * h)
            if self.who.kind == "bird":  # wings: broad in the middle
                half = ((shoulder[0] + hand[0]) / 2, (shoulder[1] + hand[1]) / 2)
                self._line(shoulder, hand, self._shade(0.8), 0.03)
                self._line(shoulder, half, self._shade(0.8), 0.06)
            else:
                self._line(shoulder, hand)
                self.paint(self.canvas.ellipse(hand, (1.35 * self.who.limb,) * 2), self._shade(0.9))

    def _tail(self) -> None:
        (x, y), (w, h) = self.body.middle, self.body.half
        if self.who.kind == "cat":
            bend = (x + w + 0.10, y + 0.9 * h)
            self._line((x + 0.6 * w, y + 0.8 * h), bend, self._shade(0.85), 0.024)
            self._line(bend, (bend[0] + 0.03, bend[1] - 0.15), self._shade(0.85), 0.024)

    def _trunk(self) -> None:
        canvas, who, (w, h) = self.canvas, self.who, self.body.half
        if who.kind == "robot":
            shape = canvas.box(self.body.middle, (w, h), 0.02)
        elif who.kind in ("bird", "bear"):
            shape = canvas.ellipse((self.body.middle[0], self.body.middle[1] + 0.01), (1.08 * w, 1.05 * h))
        else:
            shape = canvas.box(self.body.middle, (w, h), 0.8 * min(w, h))
        self.paint(shape, who.colour)
        self.paint(np.maximum(shape + 0.006, self._pattern()), who.second)

    def _pattern(self) -> Array:
        """Distance to the pattern over the body."""
        who, (x, y), (w, h) = self.who, self.body.middle, self.body.half
        u, v = (self.canvas.x - x) / w, (self.canvas.y - y) / h  # the body is [-1, 1]²
        f, phase = who.frequency, 2 * np.pi * who.phase
        scale = min(w, h) / f
        if who.pattern == "stripes":
            return np.sin(np.pi * f * u + phase) * scale / 2
        if who.pattern == "bands":
            return np.sin(np.pi * f * v + phase) * scale / 2
        if who.pattern == "zigzag":
            return np.sin(np.pi * f * v + 2.2 * np.abs((2 * f * u / 2 + who.phase) % 2 - 1) * np.pi / 2) * scale / 2
        if who.pattern == "checks":
            return np.sin(np.pi * f * u / 1.5 + phase) * np.sin(np.pi * f * v / 1.5 + phase) * scale
        if who.pattern == "dots":
            a, b = (f * u / 1.5 + who.phase) % 1 - 0.5, (f * v / 1.5 + who.phase) % 1 - 0.5
            return (np.hypot(a, b) - 0.30) * 1.5 * scale
        if who.pattern == "ring":
            return (np.abs(np.hypot(u, v) - 0.35 - 0.3 * who.phase) - 0.5 / f) * min(w, h)
        if who.pattern == "patch":
            return self.canvas.ellipse((x, y + 0.15 * h), ((0.35 + 0.3 * who.phase) * w, (0.25 + 1.2 / f) * 0.8 * h))
        return np.full_like(u, 1.0)

    def _head(self) -> None:
        canvas, who, (x, y), (w, h) = self.canvas, self.who, self.body.head, self.body.head_half
        for side in (-1, 1):
            if who.kind == "robot":
                tip = (x + side * (w + 0.02), y - h - who.ear)
                self._line((x + side * 0.85 * w, y - 0.8 * h), tip, self._shade(0.55), 0.014)
                self.paint(canvas.ellipse(tip, (0.028, 0.028)), who.second)
            elif who.kind == "cat":
                at = x + side * 0.72 * w
                tip = (at + side * 0.05, y - h - who.ear)
                self.paint(canvas.triangle(tip, (at - 0.07, y - 0.3 * h), (at + 0.07, y - 0.3 * h)), self._shade(0.85))
            elif who.kind == "bear":
                radius = 0.75 * who.ear
                self.paint(canvas.ellipse((x + side * 0.9 * w, y - 0.7 * h), (radius, radius)), self._shade(0.8))
                self.paint(canvas.ellipse((x + side * 0.9 * w, y - 0.7 * h), (0.5 * radius, 0.5 * radius)), who.second)
        if who.kind == "bird":
            for n in (-1, 0, 1):
                self._line((x, y - 0.8 * h), (x + 0.05 * n, y - h - who.ear * (1 - 0.25 * abs(n))), who.second, 0.018)
        shape = canvas.box((x, y), (w, h), 0.022) if who.kind == "robot" else canvas.ellipse((x, y), (w, h))
        r, g, b = (min(1.0, 1.1 * c) for c in who.colour)
        self.paint(shape, (r, g, b))
        self._face()

    def _face(self) -> None:
        canvas, who, (x, y), (w, h) = self.canvas, self.who, self.body.head, self.body.head_half
        for side in (-1, 1):
            at = (x + side * who.eye_gap * w, y - 0.18 * h)
            if who.kind == "robot":
                self.paint(canvas.box(at, (who.eye + 0.01, who.eye + 0.01)), DARK)
                self.paint(canvas.box(at, (0.7 * who.eye, 0.7 * who.eye)), (0.45, 0.98, 0.95))
            else:
                self.paint(canvas.ellipse(at, (who.eye + 0.010, who.eye + 0.010)), (1.0, 1.0, 1.0))
                self.paint(canvas.ellipse(at, (0.7 * who.eye, 0.7 * who.eye)), DARK)
        mouth = (x, y + 0.50 * h)
        if who.kind == "bird":
            self.paint(canvas.triangle((x - 0.065, y + 0.08 * h), (x + 0.065, y + 0.08 * h), (x, y + 0.85 * h)), BEAK)
            return
        if who.kind == "bear":
            self.paint(canvas.ellipse((x, y + 0.42 * h), (0.55 * w, 0.5 * h)), (0.96, 0.88, 0.74))
        elif who.kind == "cat":
            for side in (-1, 1):
                for n in (-1, 1):
                    end = (x + side * (w + 0.045), mouth[1] + 0.02 * n - 0.02)
                    self._line((x + side * 0.45 * w, mouth[1] - 0.02), end, (0.98, 0.98, 0.98), 0.007)
        if who.mouth == "line":
            self._line((x - 0.4 * w, mouth[1]), (x + 0.4 * w, mouth[1]), DARK, 0.013)
        elif who.mouth == "circle":
            self.paint(canvas.ellipse(mouth, (0.032, 0.034)), DARK)
        elif who.mouth == "teeth":
            self.paint(canvas.box(mouth, (0.44 * w, 0.034), 0.006), DARK)
            self.paint(canvas.box(mouth, (0.38 * w, 0.020)), (1.0, 1.0, 1.0))
        else:
            arc = canvas.ellipse((x, mouth[1] - 0.035), (0.42 * w, 0.060))
            self.paint(np.maximum(np.abs(arc) - 0.013, mouth[1] - 0.030 - canvas.y), DARK)

    def _scarf(self) -> None:
        (x, y), (w, h) = self.body.middle, self.body.half
        neck = y - h + 0.005
        self.paint(self.canvas.box((x, neck), (0.75 * w + 0.02, 0.030), 0.028), (0.95, 0.20, 0.45))
        self.paint(self.canvas.box((x + 0.5 * w, neck + 0.075), (0.028, 0.075), 0.012), (0.80, 0.12, 0.36))
        self.paint(self.canvas.box((x + 0.5 * w, neck + 0.13), (0.028, 0.010)), (1.0, 0.95, 0.85))

    def _hat(self) -> None:
        x, top, w = self.body.head[0], self.body.head[1] - 0.72 * self.body.head_half[1], self.body.head_half[0]
        brim = 0.62 * w  # between the ears
        self.paint(self.canvas.box((x, top), (brim, 0.016), 0.014), (0.12, 0.10, 0.12))
        self.paint(self.canvas.box((x, top - 0.065), (0.68 * brim, 0.062), 0.010), (0.12, 0.10, 0.12))
        self.paint(self.canvas.box((x, top - 0.028), (0.68 * brim, 0.016)), (0.85, 0.15, 0.18))

    def _umbrella(self) -> None:
        hand = self._hand(-1)
        top = (hand[0] + 0.05, self.body.head[1] - self.body.head_half[1] - 0.10)
        self._line(hand, top, (0.35, 0.22, 0.12), 0.011)
        dome = np.maximum(
            self.canvas.ellipse((top[0] + 0.02, top[1] + 0.06), (0.23, 0.13)), self.canvas.y - top[1] - 0.05
        )
        self.paint(dome, (0.10, 0.62, 0.60))
        rib = np.maximum(dome, np.sin((self.canvas.x - top[0]) * 55) * 0.01)
        self.paint(rib, (0.98, 0.98, 0.96))

    def _balloon(self) -> None:
        hand = self._hand(-1)
        at = (hand[0] - 0.03, max(hand[1] - 0.32, 0.14))
        self._line(hand, at, (0.25, 0.25, 0.28), 0.006)
        self.paint(self.canvas.ellipse(at, (0.080, 0.098)), (0.93, 0.15, 0.60))
        self.paint(self.canvas.ellipse((at[0] - 0.028, at[1] - 0.035), (0.018, 0.026)), (1.0, 0.85, 0.95))
