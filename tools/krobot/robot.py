"""The sample subject: a glazed ceramic robot with a Kronecker square on its belly.

Robot coordinates: feet on ``y = 0``, face towards ``+z``, two units tall.
The belly shows ``A ⊗ A`` with ``A = [[1, 1], [0, 1]]``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from .shapes import (
    Points,
    bellows,
    box,
    capsule,
    disc,
    fractal,
    mix,
    norm,
    ring,
    smoothstep,
    speckles,
    sphere,
    turn,
    vec,
)


def linear(colour: str) -> np.ndarray:
    """``"rrggbb"`` in sRGB to linear light ``(3, 1)``."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)], dtype=np.float32) / 255.0
    return (np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)).astype(np.float32).reshape(3, 1)


TEAL, CREAM, CORAL, COPPER = linear("14787f"), linear("f4e6c8"), linear("e8593a"), linear("f2a27c")
TIN, INK, MUSTARD, BLUSH = linear("c9c8c2"), linear("17120f"), linear("f5b32f"), linear("ef8a74")

KRONECKER_SQUARE = np.kron([[1, 1], [0, 1]], [[1, 1], [0, 1]])


class Part(IntEnum):
    """What a piece is made of; decides its paint."""

    BODY = 0
    HEAD = 1
    COPPER = 2
    TIN = 3
    CORAL = 4
    EYE = 5
    BALL = 6


Painted = list[tuple[np.ndarray, Part]]
"""Distances ``(N,)`` of parts."""


@dataclass(frozen=True)
class Surface:
    """What the light meets at ``N`` points."""

    albedo: Points
    metal: np.ndarray
    """1 where the albedo is the colour of the reflection, ``(N,)``."""
    gloss: np.ndarray
    """0 chalk, 1 mirror, ``(N,)``."""
    emission: Points | float = 0.0


@dataclass(frozen=True)
class Arm:
    """Degrees: 0 hangs down, 90 points sideways, 180 up; ``forward`` swings it to the front."""

    upper: float = 18.0
    fore: float = 8.0
    forward: float = 10.0


@dataclass(frozen=True)
class Pose:
    """Where the robot stands and how it holds itself; angles in degrees."""

    at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    lean: float = 0.0
    head_yaw: float = 0.0
    head_tilt: float = 0.0
    head_nod: float = 0.0
    left: Arm = Arm()
    right: Arm = Arm()
    sits: bool = False
    glow: float = 0.0
    """Light given off by the antenna's ball."""


class Robot:
    """The figure in one pose: distances, and the paint at a point of its surface."""

    def __init__(self, pose: Pose):
        self.pose = pose
        self.rotation = turn("y", pose.yaw) @ turn("z", pose.lean)
        self.head_rotation = turn("y", pose.head_yaw) @ turn("z", pose.head_tilt) @ turn("x", pose.head_nod)
        self.drop = 0.27 if pose.sits else 0.0
        self.neck = vec(0.0, 1.08 - self.drop, 0.0)
        self.centre = self.to_world(vec(0.0, 0.98, 0.05))
        self.radius = 1.32
        left, right = self._joints(1.0, pose.left), self._joints(-1.0, pose.right)
        # parts, centre and radius of the sphere around them
        self._limbs: list[tuple[Callable[[Points], Painted], np.ndarray, float]] = [
            (self._torso, vec(0.0, 0.72 - self.drop, -0.05), 0.68),
            (self._head, self.neck + self.head_rotation @ vec(0.0, 0.42, 0.0), 0.70),
            (lambda p: self._arm(p, left), vec(*left[1]), 0.50),
            (lambda p: self._arm(p, right), vec(*right[1]), 0.50),
            (self._legs, vec(0.0, 0.14, 0.42) if pose.sits else vec(0.0, 0.27, 0.06), 0.58),
        ]

    def to_world(self, p: Points) -> Points:
        """Robot coordinates to the scene's."""
        return self.rotation @ p + vec(*self.pose.at)

    def to_robot(self, p: Points) -> Points:
        """Scene coordinates to the robot's."""
        return self.rotation.T @ (p - vec(*self.pose.at))

    @property
    def ball(self) -> np.ndarray:
        """Centre of the antenna's ball in the world, ``(3, 1)``."""
        return self.to_world(self.head_rotation @ vec(0.13, 0.92, 0.0) + self.neck)

    def distance(self, p: Points) -> np.ndarray:
        """World points to distance ``(N,)``; where a limb is far, the distance to its bounding sphere."""
        p = self.to_robot(p)
        result = np.full(p.shape[1], np.inf, np.float32)
        for parts, centre, radius in self._limbs:
            bound = norm(p - centre) - radius
            near = (bound < 0.08) & (bound < result)
            if near.any():
                bound[near] = np.minimum.reduce([d for d, _ in parts(p[:, near])])
            result = np.minimum(result, bound)
        return result

    def _parts(self, p: Points) -> list[tuple[np.ndarray, Part]]:
        return [part for parts, _, _ in self._limbs for part in parts(p)]

    def _legs(self, p: Points) -> Painted:
        mirrored = np.stack([np.abs(p[0]), p[1], p[2]])  # both legs at once
        if self.pose.sits:
            shin = bellows(mirrored, (0.2, 0.13, 0.2), (0.22, 0.11, 0.56), 0.085, 5)
            sole = disc(mirrored, (0.22, 0.15, 0.64), 2, 0.175, 0.12, 0.07)
            return [(shin, Part.TIN), (sole, Part.CORAL)]
        shin = bellows(mirrored, (0.2, 0.14, 0.0), (0.19, 0.45, 0.0), 0.085, 5)
        foot = box(mirrored, (0.215, 0.085, 0.06), (0.165, 0.1, 0.235), 0.085)
        return [(shin, Part.TIN), (foot, Part.CORAL)]

    def _torso(self, p: Points) -> Painted:
        p = p + vec(0.0, self.drop, 0.0)
        taper = 1.0 + 0.16 * (0.72 - p[1])
        body = 0.85 * box(np.stack([p[0] / taper, p[1], p[2] / taper]), (0, 0.72, 0), (0.42, 0.36, 0.32), 0.17)
        key = p - vec(0.0, 0.76, -0.42)
        wings = np.stack([np.abs(key[0]) - 0.13, key[1], key[2] + 0.16])
        stem = capsule(key, (0, 0, 0.14), (0, 0, -0.14), 0.035)
        loops = ring(wings, (0, 0, 0), 2, 0.085, 0.034)
        rivets = sphere(np.stack([np.abs(p[0]), np.abs(p[1] - 0.72), p[2]]), (0.3, 0.27, 0.285), 0.028)
        collar = ring(p, (0, 1.075, 0), 1, 0.15, 0.05)
        neck = bellows(p, (0, 0.95, 0), (0, 1.25, 0), 0.13, 5)
        return [
            (body, Part.BODY),
            (np.minimum.reduce([stem, loops, rivets, collar]), Part.COPPER),
            (neck, Part.TIN),
        ]

    def _joints(self, side: float, arm: Arm) -> tuple[np.ndarray, ...]:
        """Shoulder, elbow, wrist, hand and thumb, ``(3,)`` each; ``side`` is 1 for the robot's left."""

        def along(angle: float, length: float) -> np.ndarray:
            sideways, down = np.sin(np.radians(angle)) * length, -np.cos(np.radians(angle)) * length
            swung = turn("x", -arm.forward) @ vec(0.0, down, 0.0)
            return np.array([side * sideways, swung[1, 0], swung[2, 0]], dtype=np.float32)

        shoulder = np.array([side * 0.46, 0.9 - self.drop, 0.0], dtype=np.float32)
        elbow = shoulder + along(arm.upper, 0.22)
        wrist = elbow + along(arm.fore, 0.2)
        hand = wrist + along(arm.fore, 0.1)
        thumb = hand + np.array([-side * 0.07, 0.05, 0.08], dtype=np.float32)
        return shoulder, elbow, wrist, hand, thumb

    @staticmethod
    def _arm(p: Points, joints: tuple[np.ndarray, ...]) -> Painted:
        shoulder, elbow, wrist, hand, thumb = joints
        hose = np.minimum(bellows(p, shoulder, elbow, 0.068, 4), bellows(p, elbow, wrist, 0.068, 4))
        return [
            (hose, Part.TIN),
            (np.minimum(sphere(p, shoulder, 0.118), sphere(p, wrist, 0.092)), Part.COPPER),
            (np.minimum(sphere(p, hand, 0.13), sphere(p, thumb, 0.062)), Part.CORAL),
        ]

    def _head(self, p: Points) -> Painted:
        p = self.head_rotation.T @ (p - self.neck)  # head coordinates: the neck joint is the origin
        skull = box(p, (0, 0.34, 0.0), (0.5, 0.325, 0.36), 0.24)
        mirrored = np.stack([np.abs(p[0]), p[1], p[2]])
        eye = norm((mirrored - vec(0.19, 0.36, 0.335)) * vec(1, 0.9, 1.8)) * 0.55 - 0.055
        rims = ring(mirrored, (0.19, 0.36, 0.352), 2, 0.112, 0.021)
        ears = disc(mirrored, (0.525, 0.34, 0.0), 0, 0.14, 0.06, 0.03)
        bolts = sphere(mirrored, (0.585, 0.34, 0.0), 0.05)
        foot = disc(p, (0, 0.67, 0), 1, 0.085, 0.03, 0.02)
        bend, tip = (0.03, 0.8, 0), (0.13, 0.92, 0)
        mast = np.minimum(capsule(p, (0, 0.66, 0), bend, 0.024), capsule(p, bend, tip, 0.024))
        return [
            (skull, Part.HEAD),
            (np.minimum.reduce([rims, ears, foot]), Part.COPPER),
            (np.minimum(mast, bolts), Part.TIN),
            (eye, Part.EYE),
            (sphere(p, tip, 0.092), Part.BALL),
        ]

    def surface(self, p: Points) -> Surface:
        """Paint of the points of the surface nearest to world points ``p``."""
        p = self.to_robot(p)
        distances = self._parts(p)
        nearest = np.argmin(np.stack([d for d, _ in distances]), axis=0)
        part = np.array([name for _, name in distances])[nearest]
        n = p.shape[1]
        albedo, metal, gloss = np.zeros((3, n), np.float32), np.zeros(n, np.float32), np.full(n, 0.85, np.float32)
        emission = np.zeros((3, n), np.float32)
        plain = {Part.COPPER: COPPER, Part.TIN: TIN, Part.CORAL: CORAL, Part.BALL: MUSTARD}
        for name, colour in plain.items():
            albedo[:, part == name] = colour
        for name, shine in ((Part.COPPER, 0.72), (Part.TIN, 0.55)):
            metal[part == name], gloss[part == name] = 1.0, shine
        gloss[part == Part.EYE] = 1.0
        for name, paint, frame in (
            (Part.BODY, paint_body, p + vec(0.0, self.drop, 0.0)),
            (Part.HEAD, paint_head, self.head_rotation.T @ (p - self.neck)),
            (Part.EYE, paint_eye, self.head_rotation.T @ (p - self.neck)),
        ):
            here = part == name
            if here.any():
                albedo[:, here] = paint(frame[:, here])
        emission[:, part == Part.BALL] = linear("ffb43c") * self.pose.glow
        glazed = np.isin(part, (Part.BODY, Part.HEAD, Part.CORAL, Part.BALL))
        albedo[:, glazed] *= 0.93 + 0.12 * fractal(*(p[:, glazed] * 7.0), octaves=3, seed=3)
        return Surface(albedo, metal, gloss, emission)


def paint_body(p: Points) -> Points:
    """Teal glaze, freckled, with the tiled square on the front; torso coordinates."""
    colour = mix(TEAL, TEAL * 0.4, 0.85 * speckles(p * 15.0, seed=11))
    u, v = p[0] / 0.108 + 2.0, (0.72 - p[1]) / 0.108 + 2.0  # tile coordinates, 0 to 4, from the top left
    front = p[2] > 0.1
    corner = np.hypot(np.maximum(np.abs(u - 2.0) - 1.95, 0), np.maximum(np.abs(v - 2.0) - 1.95, 0))
    plate = (1.0 - smoothstep(0.24, 0.30, corner)) * front
    colour = mix(colour, CREAM, plate)
    column, row = np.clip(np.floor(u), 0, 3).astype(int), np.clip(np.floor(v), 0, 3).astype(int)
    tile = box(np.stack([u - column - 0.5, v - row - 0.5, np.zeros_like(u)]), (0, 0, 0), (0.43, 0.43, 0.43), 0.14)
    filled = KRONECKER_SQUARE[row, column] * (1.0 - smoothstep(-0.03, 0.03, tile)) * front
    filled = filled * (np.abs(u - 2.0) < 2.0) * (np.abs(v - 2.0) < 2.0)
    return mix(colour, CORAL, filled)


def paint_head(p: Points) -> Points:
    """Cream glaze with brown freckles, cheeks, a smile, and a teal stripe from forehead to nape; head coordinates."""
    colour = mix(CREAM, linear("a9744a"), 0.7 * speckles(p * 14.0, seed=5))
    crown = smoothstep(0.50, 0.52, p[1]) + (p[2] < 0.0) * smoothstep(0.10, 0.12, p[1])
    stripe = (1.0 - smoothstep(0.068, 0.078, np.abs(p[0]))) * np.clip(crown, 0.0, 1.0)
    lines = (1.0 - smoothstep(0.010, 0.018, np.abs(np.abs(p[0]) - 0.105))) * np.clip(crown, 0.0, 1.0)
    colour = mix(mix(colour, TEAL, stripe), CORAL, lines)
    front = p[2] > 0.1
    cheek = np.hypot(np.abs(p[0]) - 0.335, (p[1] - 0.215) * 1.15)
    colour = mix(colour, BLUSH, 0.85 * (1.0 - smoothstep(0.04, 0.085, cheek)) * front)
    smile_radius = np.hypot(p[0], p[1] - 0.27)
    smile = (1.0 - smoothstep(0.012, 0.019, np.abs(smile_radius - 0.1))) * (p[1] < 0.222) * front
    corners = np.hypot(np.abs(p[0]) - 0.088, p[1] - 0.222)
    smile = np.maximum(smile, (1.0 - smoothstep(0.014, 0.021, corners)) * front)
    return mix(colour, INK * 1.5, smile)


def paint_eye(p: Points) -> Points:
    """Black glass with a painted glint at the upper left, so that it looks alive in every light; head coordinates."""
    x = np.abs(p[0]) - 0.19
    x = np.where(p[0] < 0.0, -x, x)
    large = np.hypot(x + 0.032, p[1] - 0.398) - 0.027
    small = np.hypot(x - 0.03, p[1] - 0.325) - 0.013
    glint = 1.0 - smoothstep(-0.004, 0.004, np.minimum(large, small))
    return mix(INK, vec(1.25, 1.25, 1.2), glint)
