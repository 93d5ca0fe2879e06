"""A small sphere tracer: rays, hits, soft shadows, ambient occlusion and one lighting model for glaze,
metal and ground."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .shapes import Points, dot, mix, norm, smoothstep, unit, vec

Distance = Callable[[Points], np.ndarray]
Environment = Callable[[Points, np.ndarray], Points]
"""Radiance ``(3, N)`` from directions ``(3, N)``, blurred where roughness ``(N,)`` is near 1."""


@dataclass(frozen=True)
class Camera:
    """A pinhole: where it is, what it looks at, how wide it sees."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    degrees: float = 30.0
    """Vertical field of view."""
    roll: float = 0.0
    """Degrees that the camera is held askew."""

    def axes(self) -> np.ndarray:
        """Rows right, up, forward: ``(3, 3)``."""
        forward = unit(vec(*self.target) - vec(*self.eye))
        tip = np.radians(self.roll)
        up = vec(np.sin(tip), np.cos(tip), 0.0)
        right = unit(np.cross(forward.ravel(), up.ravel()).astype(np.float32).reshape(3, 1))
        return np.concatenate([right, np.cross(right.ravel(), forward.ravel()).reshape(3, 1), forward], axis=1).T

    def rays(self, size: int) -> Points:
        """Unit directions through the ``size × size`` pixels, row by row: ``(3, size*size)``."""
        steps = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
        across, down = np.meshgrid(steps, steps)
        tangent = np.float32(np.tan(np.radians(self.degrees / 2.0)))
        local = np.stack([across.ravel() * tangent, -down.ravel() * tangent, np.ones(size * size, np.float32)])
        return unit(self.axes().T.astype(np.float32) @ local)

    def project(self, p: Points, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World points to pixel column, row, and depth along the view axis."""
        right, up, forward = self.axes() @ (p - vec(*self.eye))
        scale = size / 2.0 / np.tan(np.radians(self.degrees / 2.0))
        return size / 2.0 + right / forward * scale, size / 2.0 - up / forward * scale, forward


@dataclass(frozen=True)
class Light:
    """A far light such as the sun or a window; ``softness`` is the tangent of its angular radius."""

    towards: tuple[float, float, float]
    colour: np.ndarray
    softness: float = 0.06

    @property
    def direction(self) -> Points:
        """From the scene towards the light, ``(3, 1)``, unit."""
        return unit(vec(*self.towards))


class Solid(Protocol):
    """A thing with a distance field, inside a sphere that lets most rays skip it."""

    centre: np.ndarray
    """``(3, 1)``."""
    radius: float

    def distance(self, p: Points) -> np.ndarray:
        """``(N,)``: never more than the true distance."""


def passage(solid: Solid, origin: Points, direction: Points, margin: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave a solid's bounding sphere, ``(N,)`` each; enter > leave where they miss it."""
    towards = solid.centre - origin
    closest = dot(towards, direction)
    inside = (solid.radius + margin) ** 2 - (dot(towards, towards) - closest * closest)
    half = np.sqrt(np.maximum(inside, 0.0))
    leave = np.where((inside > 0.0) & (closest + half > 0.0), closest + half, -1.0)
    return np.maximum(closest - half, 0.0), leave


def march(solid: Solid, origin: Points, direction: Points, steps: int = 90) -> np.ndarray:
    """Distance along each ray to the surface, ``inf`` where it is missed.

    Args:
        origin: ``(3, 1)`` or ``(3, N)``.
        direction: ``(3, N)``, unit.
    """
    enter, leave = passage(solid, origin, direction)
    travelled = enter.astype(np.float32)
    hit = np.zeros(direction.shape[1], bool)
    origin = np.broadcast_to(origin, direction.shape)
    live = np.flatnonzero(enter < leave)
    for _ in range(steps):
        if live.size == 0:
            break
        d = solid.distance(origin[:, live] + direction[:, live] * travelled[live])
        touched = d < 4e-4 * (1.0 + travelled[live])
        hit[live[touched]] = True
        travelled[live] += np.where(touched, 0.0, d)
        live = live[~touched & (travelled[live] < leave[live])]
    return np.where(hit, travelled, np.inf).astype(np.float32)


def normals(solid: Solid, p: Points, step: float = 1.2e-3) -> Points:
    """Gradient of the distance by four tetrahedral differences."""
    gradient = np.zeros_like(p)
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        offset = vec(*corner)
        gradient += offset * solid.distance(p + offset * step)
    return unit(gradient)


def visibility(solids: Sequence[Solid], p: Points, light: Light, steps: int = 34) -> np.ndarray:
    """Fraction of a round light seen from each point: the narrowest clearance on the way, against the light's cone."""
    clear = np.ones(p.shape[1], np.float32)
    for solid in solids:
        direction = np.broadcast_to(light.direction, p.shape)
        # a penumbra reaches beyond the thing itself by the cone's width at that distance
        enter, leave = passage(solid, p, direction, margin=min(0.5, 3.0 * light.softness))
        travelled = np.maximum(enter, 0.012).astype(np.float32)
        live = np.flatnonzero(enter < leave)
        for _ in range(steps):
            if live.size == 0:
                break
            d = solid.distance(p[:, live] + direction[:, live] * travelled[live])
            clear[live] = np.minimum(clear[live], d / (light.softness * travelled[live]))
            travelled[live] += np.clip(d * 0.9, 0.012, 0.35)
            live = live[(clear[live] > -1.0) & (travelled[live] < leave[live])]
    # -1..1: how far the edge stands inside or outside the cone
    return smoothstep(-1.0, 1.0, clear)


def occlusion(solids: Sequence[Solid], floors: Sequence[Distance], p: Points, normal: Points) -> np.ndarray:
    """1 in the open, towards 0 in creases: free distance along the normal, near samples counting more."""
    spread, weight = 0.42, 1.0
    blocked = np.zeros(p.shape[1], np.float32)
    close = [np.flatnonzero(norm(p - solid.centre) < solid.radius + 2.0 * spread) for solid in solids]
    for step in (0.06, 0.16, 0.34, 0.62, 1.0):
        height = step * spread
        above = p + normal * height
        free = np.full(p.shape[1], height, np.float32)
        for solid, some in zip(solids, close, strict=True):
            free[some] = np.minimum(free[some], solid.distance(above[:, some]))
        for floor in floors:
            free = np.minimum(free, floor(above))
        blocked += weight * (height - free) / height
        weight *= 0.72
    return np.clip(1.0 - 0.42 * blocked, 0.0, 1.0)


@dataclass(frozen=True)
class Lamp:
    """A small light nearby; no shadow."""

    at: tuple[float, float, float]
    colour: np.ndarray
    """Irradiance at distance 1."""


@dataclass(frozen=True)
class Lighting:
    """All the light of a scene."""

    key: Light
    sky: Environment
    fill: tuple[Light, ...] = ()
    """Lights without shadows."""
    lamps: tuple[Lamp, ...] = ()
    ambient: float = 1.0


def shade(
    lighting: Lighting,
    solids: Sequence[Solid],
    floors: Sequence[Distance],
    p: Points,
    normal: Points,
    view: Points,
    surface,
    mirror: Callable[[Points, Points], Points] | None = None,
) -> Points:
    """Radiance towards the eye.

    Args:
        solids: what casts shadows.
        floors: planes that darken what stands close to them.
        view: ``(3, N)`` directions from the eye to the points.
        surface: a ``Surface``.
        mirror: radiance met by a reflected ray ``(points, directions) -> (3, N)``; the sky alone where None.
    """
    lifted = p + normal * 4e-3
    open_ = occlusion(solids, floors, lifted, normal)
    lit = visibility(solids, lifted, lighting.key)
    roughness = 1.0 - surface.gloss
    soft = np.ones_like(roughness)
    diffuse = lighting.ambient * open_ * lighting.sky(normal, soft)
    facing = np.clip(dot(normal, lighting.key.direction), 0.0, 1.0)
    diffuse = diffuse + lighting.key.colour * (facing * lit)
    highlight = np.zeros_like(p)
    for light, seen in ((lighting.key, lit), *((f, open_) for f in lighting.fill)):
        if light is not lighting.key:
            diffuse = diffuse + light.colour * (np.clip(dot(normal, light.direction), 0.0, 1.0) * seen)
        half = unit(light.direction - view)
        power = 8.0 + 900.0 * surface.gloss**4
        lobe = (power + 2.0) / 14.0 * np.clip(dot(normal, half), 0.0, 1.0) ** power
        highlight = highlight + light.colour * (lobe * seen * 0.35)
    for lamp in lighting.lamps:
        towards = vec(*lamp.at) - p
        facing = np.clip(dot(normal, unit(towards)), 0.0, 1.0) * open_
        diffuse = diffuse + lamp.colour * (facing / (dot(towards, towards) + 0.02))
    bounce = view - 2.0 * dot(view, normal) * normal
    reflected = lighting.sky(bounce, roughness) if mirror is None else mirror(lifted, bounce)
    grazing = (1.0 - np.clip(-dot(view, normal), 0.0, 1.0)) ** 5
    dielectric = 0.045 + 0.955 * grazing * surface.gloss
    matt = surface.albedo * diffuse
    glaze = matt * (1.0 - dielectric) + (reflected * mix(open_, 1.0, 0.4) + highlight) * dielectric
    metal = surface.albedo * (reflected * mix(open_, 1.0, 0.25) + highlight + 0.12 * diffuse)
    return mix(glaze, metal, surface.metal) + surface.emission
