"""What is behind a character: the place and its light."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Colour
from .vocabulary import Background, Light

GROUND = 0.80
"""Where the ground begins; characters stand a little below."""
TINT: dict[Light, Colour] = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.72, 0.55), "night": (0.34, 0.40, 0.66)}
"""What the light leaves of each colour."""
SKY: dict[Light, tuple[Colour, Colour]] = {
    "day": ((0.42, 0.70, 0.96), (0.80, 0.91, 0.99)),
    "sunset": ((0.45, 0.26, 0.52), (0.99, 0.60, 0.30)),
    "night": ((0.03, 0.04, 0.14), (0.10, 0.13, 0.32)),
}


def draw_place(canvas: Canvas, background: Background, light: Light, rng: np.random.Generator) -> None:
    """Fill the canvas."""
    if background != "room":
        _sky(canvas, light, rng)
    sky = canvas.rgb.copy()
    drawn = {"beach": _beach, "forest": _forest, "city": _city, "snow": _snow, "desert": _desert, "room": _room}[
        background
    ](canvas, rng)
    tint = np.asarray(TINT[light], np.float32)
    lit = canvas.rgb * tint
    canvas.rgb = sky + drawn[..., None] * (lit - sky)
    if background == "room":
        _window(canvas, light, rng)
    elif background == "city":
        _windows(canvas, light, rng)


def _sky(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    canvas.rgb[:] = canvas.gradient(*SKY[light])
    x = float(rng.uniform(0.12, 0.88))
    if light == "day":
        canvas.paint(canvas.ellipse((x, 0.12), (0.06, 0.06)), (1.0, 0.95, 0.6))
    elif light == "sunset":
        canvas.paint(canvas.ellipse((x, 0.55), (0.10, 0.10)), (1.0, 0.85, 0.45))
    else:
        canvas.paint(canvas.ellipse((x, 0.14), (0.065, 0.065)), (0.95, 0.95, 0.85))
        canvas.paint(canvas.ellipse((x + 0.03, 0.125), (0.055, 0.055)), SKY["night"][0])
        for _ in range(9):
            at = (float(rng.uniform(0, 1)), float(rng.uniform(0, 0.45)))
            canvas.paint(canvas.ellipse(at, (0.009, 0.009)), (1.0, 1.0, 0.9))


def _over(covers: list[np.ndarray]) -> np.ndarray:
    """How far at least one of several shapes covers each pixel."""
    return np.maximum.reduce(covers)


def _beach(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    sea = canvas.paint(canvas.below(0.56), (0.10, 0.50, 0.70))
    at, phase = 0.72, float(rng.uniform(0, 6))
    foam = canvas.paint(canvas.below(lambda x: at - 0.015 + 0.012 * np.sin(9 * x + phase)), (0.9, 0.97, 0.98))
    sand = canvas.paint(canvas.below(lambda x: at + 0.01 + 0.012 * np.sin(9 * x + phase)), (0.94, 0.84, 0.58))
    boat = float(rng.uniform(0.05, 0.95))
    sail = canvas.paint(canvas.triangle((boat, 0.42), (boat, 0.55), (boat + 0.08, 0.55)), (0.98, 0.98, 0.98))
    return _over([sea, foam, sand, sail])


def _forest(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    covers = [canvas.paint(canvas.below(0.66), (0.20, 0.42, 0.16))]
    for x in np.linspace(0.02, 0.98, 6) + rng.uniform(-0.05, 0.05, 6):
        x, top = float(x), float(rng.uniform(0.10, 0.28))
        covers.append(canvas.paint(canvas.box((x, 0.66), (0.018, 0.10)), (0.35, 0.22, 0.12)))
        for n in range(3):
            y = top + 0.13 * n
            colour = (0.08, 0.34 + 0.04 * n, 0.14)
            covers.append(canvas.paint(canvas.triangle((x, y), (x - 0.09, y + 0.2), (x + 0.09, y + 0.2)), colour))
    covers.append(canvas.paint(canvas.below(GROUND), (0.30, 0.55, 0.20)))
    return _over(covers)


def _city(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    covers = []
    for n, x in enumerate(np.linspace(0.06, 0.94, 6)):
        grey = 0.40 + 0.09 * (n % 3)
        top = float(rng.uniform(0.15, 0.45))
        covers.append(
            canvas.paint(canvas.box((float(x), (top + 0.85) / 2), (0.075, (0.85 - top) / 2)), (grey, grey, grey + 0.05))
        )
    covers.append(canvas.paint(canvas.below(0.76), (0.62, 0.61, 0.60)))
    covers.append(canvas.paint(canvas.below(0.82), (0.25, 0.25, 0.27)))
    for x in np.arange(0.05, 1, 0.25) + float(rng.uniform(0, 0.2)):
        covers.append(canvas.paint(canvas.box((float(x), 0.95), (0.06, 0.011)), (0.95, 0.90, 0.50)))
    return _over(covers)


def _windows(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    colour = (0.75, 0.88, 0.98) if light == "day" else (1.0, 0.87, 0.45)
    for x in np.linspace(0.06, 0.94, 6):
        for y in (0.50, 0.60, 0.70):
            for dx in (-0.035, 0.035):
                if rng.uniform() < 0.8:
                    canvas.paint(canvas.box((float(x) + dx, y), (0.018, 0.024)), colour)


def _snow(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    phase = float(rng.uniform(0, 6))
    far = canvas.paint(canvas.below(lambda x: 0.58 + 0.07 * np.sin(5 * x + phase)), (0.76, 0.84, 0.93))
    near = canvas.paint(canvas.below(lambda x: 0.74 + 0.03 * np.sin(4 * x + 2 * phase)), (0.96, 0.97, 1.0))
    covers = [far, near]
    for _ in range(16):
        at = (float(rng.uniform(0, 1)), float(rng.uniform(0, 0.9)))
        covers.append(canvas.paint(canvas.ellipse(at, (0.014, 0.014)), (1.0, 1.0, 1.0)))
    return _over(covers)


def _desert(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    phase = float(rng.uniform(0, 6))
    covers = [canvas.paint(canvas.below(lambda x: 0.60 + 0.05 * np.sin(6 * x + phase)), (0.86, 0.56, 0.28))]
    x = float(rng.choice([rng.uniform(0.06, 0.22), rng.uniform(0.78, 0.94)]))
    green = (0.18, 0.50, 0.25)
    for start, end in (
        ((x, 0.45), (x, 0.80)),
        ((x - 0.07, 0.55), (x - 0.07, 0.64)),
        ((x - 0.07, 0.64), (x, 0.66)),
        ((x + 0.07, 0.50), (x + 0.07, 0.60)),
        ((x + 0.07, 0.60), (x, 0.62)),
    ):
        covers.append(canvas.paint(canvas.capsule(start, end, 0.026), green))
    covers.append(canvas.paint(canvas.below(lambda x: 0.78 + 0.03 * np.sin(5 * x - phase)), (0.93, 0.68, 0.36)))
    return _over(covers)


def _room(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    wall = [(0.80, 0.70, 0.62), (0.66, 0.74, 0.70), (0.78, 0.68, 0.78)][rng.integers(3)]
    everything = canvas.paint(canvas.below(-1.0), wall)
    canvas.paint(canvas.below(0.77), (0.97, 0.96, 0.94))
    canvas.paint(canvas.below(GROUND), (0.55, 0.34, 0.18))
    for y in (0.87, 0.94):
        canvas.paint(canvas.box((0.5, y), (0.6, 0.004)), (0.42, 0.25, 0.12))
    return everything


def _window(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    x = float(rng.choice([0.20, 0.80]))
    tint = np.asarray(TINT[light], np.float32)
    canvas.paint(canvas.box((x, 0.30), (0.135, 0.155)), np.asarray((0.97, 0.96, 0.94), np.float32) * tint)
    canvas.paint(canvas.box((x, 0.30), (0.115, 0.135)), canvas.gradient(*SKY[light]))
    for half in ((0.008, 0.135), (0.115, 0.008)):
        canvas.paint(canvas.box((x, 0.30), half), np.asarray((0.97, 0.96, 0.94), np.float32) * tint)
