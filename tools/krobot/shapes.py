"""Signed distances and noise on arrays of points.

Points are ``(3, N)`` float32, components first, so that ``x, y, z = p`` are contiguous rows.
A distance is ``(N,)``: negative inside, a lower bound of the true distance outside (sphere tracing needs no more).
Formulas: Íñigo Quílez, "Distance functions" (2008-).
"""

import numpy as np

Points = np.ndarray
"""``(3, N)`` float32."""


def vec(*components: float) -> np.ndarray:
    """A column ``(3, 1)`` that broadcasts over points."""
    return np.asarray(components, dtype=np.float32).reshape(3, 1)


def dot(a: Points, b: Points) -> np.ndarray:
    """Inner products ``(N,)``."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def norm(v: Points) -> np.ndarray:
    """Lengths ``(N,)``."""
    return np.sqrt(dot(v, v))


def unit(v: Points) -> Points:
    """The same directions with length 1."""
    return v / np.maximum(norm(v), 1e-9)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 up to ``low``, 1 from ``high`` on, a smooth rise between; ``low > high`` falls instead."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mix(a, b, t):
    """``a`` where ``t`` is 0, ``b`` where it is 1."""
    return a + (b - a) * t


def turn(axis: str, degrees: float) -> np.ndarray:
    """Rotation ``(3, 3)`` about one axis, right-handed."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]
    return np.asarray(rows, dtype=np.float32)


def sphere(p: Points, centre, radius: float) -> np.ndarray:
    """Distance to a sphere."""
    return norm(p - vec(*centre)) - radius


def box(p: Points, centre, half, radius: float) -> np.ndarray:
    """A box of half sizes ``half`` (outer) with edges rounded by ``radius``."""
    q = np.abs(p - vec(*centre)) - (vec(*half) - radius)
    return norm(np.maximum(q, 0.0)) + np.minimum(q.max(axis=0), 0.0) - radius


def capsule(p: Points, start, end, radius: float) -> np.ndarray:
    """A rod with round ends."""
    start, end = vec(*start), vec(*end)
    along = end - start
    h = np.clip(dot(p - start, along) / dot(along, along), 0.0, 1.0)
    return norm(p - start - along * h) - radius


def bellows(p: Points, start, end, radius: float, ribs: int) -> np.ndarray:
    """A capsule with rings, like a vacuum hose."""
    start, end = vec(*start), vec(*end)
    along = end - start
    h = np.clip(dot(p - start, along) / dot(along, along), 0.0, 1.0)
    rib = 0.011 * np.cos(2.0 * np.pi * ribs * h)
    # 0.8: the ribs steepen the field, a full step could jump through one
    return 0.8 * (norm(p - start - along * h) - radius - rib)


def disc(p: Points, centre, axis: int, radius: float, half: float, rounding: float) -> np.ndarray:
    """A short cylinder along coordinate ``axis`` with rounded rims."""
    q = p - vec(*centre)
    others = [i for i in range(3) if i != axis]
    radial = np.hypot(q[others[0]], q[others[1]]) - (radius - rounding)
    axial = np.abs(q[axis]) - (half - rounding)
    outside = np.hypot(np.maximum(radial, 0.0), np.maximum(axial, 0.0))
    return outside + np.minimum(np.maximum(radial, axial), 0.0) - rounding


def ring(p: Points, centre, axis: int, radius: float, thickness: float) -> np.ndarray:
    """A torus around coordinate ``axis``."""
    q = p - vec(*centre)
    others = [i for i in range(3) if i != axis]
    return np.hypot(np.hypot(q[others[0]], q[others[1]]) - radius, q[axis]) - thickness


def _hash(*lattice: np.ndarray, seed: int) -> np.ndarray:
    """Uniform [0, 1) per integer lattice point; integer arithmetic, so the same on every machine."""
    h = np.full(lattice[0].shape, seed * 0x9E3779B1 & 0xFFFFFFFF, dtype=np.uint32)
    for axis, prime in zip(lattice, (0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F), strict=False):
        h = (h ^ (axis.astype(np.int64).astype(np.uint32) * np.uint32(prime))) * np.uint32(0x2C1B3C6D)
        h ^= h >> np.uint32(15)
    h = h * np.uint32(0x297A2D39)
    h ^= h >> np.uint32(16)
    return h.astype(np.float32) / np.float32(2**32)


def cells(*coordinates: np.ndarray, seed: int = 0) -> np.ndarray:
    """One random number per unit cell."""
    return _hash(*(np.floor(c) for c in coordinates), seed=seed)


def noise(*coordinates: np.ndarray, seed: int = 0) -> np.ndarray:
    """Value noise in [0, 1] over two or three coordinates, smooth, feature size 1."""
    floors = [np.floor(c) for c in coordinates]
    weights = [(c - f) * (c - f) * (3.0 - 2.0 * (c - f)) for c, f in zip(coordinates, floors, strict=True)]
    total = np.zeros_like(coordinates[0])
    for corner in np.ndindex(*(2,) * len(coordinates)):
        weight = np.ones_like(total)
        for bit, w in zip(corner, weights, strict=True):
            weight = weight * (w if bit else 1.0 - w)
        total += weight * _hash(*(f + bit for f, bit in zip(floors, corner, strict=True)), seed=seed)
    return total


def fractal(*coordinates: np.ndarray, octaves: int = 4, seed: int = 0) -> np.ndarray:
    """Noise summed over octaves, about [0, 1]."""
    total, amplitude, reach = np.zeros_like(coordinates[0]), 1.0, 0.0
    for octave in range(octaves):
        total += amplitude * noise(*(c * 2.0**octave for c in coordinates), seed=seed + octave)
        reach += amplitude
        amplitude *= 0.5
    return total / reach


def speckles(p: Points, seed: int = 0) -> np.ndarray:
    """Iron spots in a glaze: about every third unit cell holds one round dot of its own size; ``(N,)`` in [0, 1]."""
    lattice = np.floor(p)
    centre = np.stack([0.3 + 0.4 * _hash(*lattice, seed=seed + i) for i in range(3)])
    size = 0.26 * np.clip(1.6 * _hash(*lattice, seed=seed + 3) - 0.9, 0.0, 1.0)
    away = norm(p - lattice - centre)
    return (1.0 - smoothstep(-0.04, 0.04, away - size)) * (size > 0.0)
