"""A scene: the robot, what it stands on, what stands behind it; and its picture."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .film import depth_of_field, develop
from .robot import Pose, Robot, Surface
from .shapes import Points, dot, mix, norm, unit, vec
from .trace import Camera, Distance, Lighting, Solid, march, normals, shade

BAND = 1 << 16
"""Rays traced at a time: 64 k points of three floats stay in the processor's cache."""


@dataclass(frozen=True)
class Plane:
    """A coordinate plane that looks towards the positive axis."""

    axis: int
    level: float
    paint: Callable[[Points], tuple[Surface, np.ndarray]]
    """World points to surface and heights ``(N,)``, from which the normals follow."""
    within: Callable[[Points], np.ndarray] = lambda p: np.ones(p.shape[1], bool)
    mirrors: bool = False
    """Polished: shows the robot's reflection."""
    flat: bool = False
    """Heights are all zero."""

    def distance(self, p: Points) -> np.ndarray:
        """Height above the plane, ``(N,)``."""
        return p[self.axis] - self.level

    def meet(self, origin: Points, direction: Points) -> np.ndarray:
        """Distance along each ray, ``inf`` where the plane is missed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (self.level - origin[self.axis]) / direction[self.axis]
            t = np.where((t > 1e-3) & (t < 400.0) & (direction[self.axis] < 0.0), t, np.inf)
        inside = self.within(origin + direction * np.where(np.isfinite(t), t, 0.0))
        return np.where(inside, t, np.inf).astype(np.float32)

    def look(self, p: Points) -> tuple[Surface, Points]:
        """Surface and bumped normals at points of the plane."""
        surface, height = self.paint(p)
        normal = np.zeros_like(p)
        normal[self.axis] = 1.0
        if self.flat:
            return surface, normal
        step = 2e-3
        for axis in {0, 1, 2} - {self.axis}:
            moved = p.copy()
            moved[axis] += step
            normal[axis] = (height - self.paint(moved)[1]) / step
        return surface, unit(normal)


class Prop:
    """A solid thing besides the robot."""

    def __init__(
        self, field: Distance, paint: Callable[[Points], Surface], centre: tuple[float, float, float], radius: float
    ):
        self.field, self.paint, self.centre, self.radius = field, paint, vec(*centre), radius

    def distance(self, p: Points) -> np.ndarray:
        """Exact near the thing, else the distance to its bounding sphere."""
        away = norm(p - self.centre) - self.radius
        near = away < 0.1
        if near.any():
            away[near] = self.field(p[:, near])
        return away


@dataclass(frozen=True)
class Scene:
    """One picture to be taken."""

    name: str
    camera: Camera
    pose: Pose
    lighting: Lighting
    backdrop: Callable[[Points], Points]
    """Radiance from directions that meet nothing."""
    planes: tuple[Plane, ...]
    props: tuple[Prop, ...] = ()
    aperture: float = 0.015
    behind: Callable[["Scene", np.ndarray, np.ndarray], None] | None = None
    """Draws into the background ``(frame, depth)``, in place, before it is blurred."""
    before: Callable[["Scene", np.ndarray], np.ndarray] | None = None
    """Lays a foreground over the finished frame."""
    exposure: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bloom: float = 0.06
    vignette: float = 0.35
    robot: Robot = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "robot", Robot(self.pose))

    @property
    def solids(self) -> tuple[Solid, ...]:
        """What casts shadows."""
        return (self.robot, *self.props)

    @property
    def floors(self) -> tuple[Distance, ...]:
        """What darkens the parts of the robot that are close to it."""
        return tuple(plane.distance for plane in self.planes)

    def robot_light(self, p: Points, view: Points) -> Points:
        """Radiance of points of the robot's surface towards the eye."""
        normal = normals(self.robot, p)
        return shade(self.lighting, self.solids, self.floors, p, normal, view, self.robot.surface(p))

    def reflected(self, p: Points, direction: Points, gloss: float = 0.8) -> Points:
        """What a polished board shows: the robot, else the sky."""
        t = march(self.robot, p, direction, steps=60)
        hit = np.isfinite(t)
        light = self.lighting.sky(direction, np.full(p.shape[1], 1.0 - gloss, np.float32))
        if hit.any():
            light[:, hit] = self.robot_light(p[:, hit] + direction[:, hit] * t[hit], direction[:, hit])
        return light

    def background(self, origin: Points, view: Points) -> tuple[Points, np.ndarray]:
        """Radiance and distance of everything but the robot along each ray."""
        light = self.backdrop(view).astype(np.float32)
        nearest = np.full(view.shape[1], np.inf, np.float32)
        things = [plane.meet(origin, view) for plane in self.planes]
        things += [march(prop, origin, view) for prop in self.props]
        which = np.argmin(np.stack(things), axis=0)
        for i, t in enumerate(things):
            here = (which == i) & np.isfinite(t)
            if not here.any():
                continue
            p = origin + view[:, here] * t[here]
            mirror = None
            if i < len(self.planes):
                surface, normal = self.planes[i].look(p)
                mirror = self.reflected if self.planes[i].mirrors else None
            else:
                prop = self.props[i - len(self.planes)]
                surface, normal = prop.paint(p), normals(prop, p)
            light[:, here] = shade(self.lighting, self.solids, (), p, normal, view[:, here], surface, mirror)
            nearest[here] = t[here]
        return light, nearest

    def picture(self, size: int = 512, supersampling: int = 2) -> Image.Image:
        """Render, photograph and shrink; with 3 × 3 rays a pixel the result looked the same and took twice as long."""
        wide = size * supersampling
        origin, rays = vec(*self.camera.eye), self.camera.rays(wide)
        behind, depths = np.empty_like(rays), np.empty(wide * wide, np.float32)
        figure, cover = np.zeros_like(rays), np.zeros(wide * wide, bool)
        forward = self.camera.axes()[2].reshape(3, 1)
        for start in range(0, wide * wide, BAND):
            band = slice(start, start + BAND)
            view = rays[:, band]
            behind[:, band], far = self.background(origin, view)
            depths[band] = far * dot(view, forward)
            near = march(self.robot, origin, view)
            hit = near < far
            if hit.any():
                lit = self.robot_light(origin + view[:, hit] * near[hit], view[:, hit])
                figure[:, start : start + BAND][:, hit] = lit
                cover[band] = hit
        frame, depth = _frame(behind, wide), depths.reshape(wide, wide)
        if self.behind:
            self.behind(self, frame, depth)
        focus = float(dot(self.robot.to_world(vec(0.0, 1.0, 0.25)) - origin, forward)[0])
        frame = depth_of_field(frame, depth, focus, self.aperture)
        frame = mix(frame, _frame(figure, wide), cover.reshape(wide, wide, 1).astype(np.float32))
        if self.before:
            frame = self.before(self, frame)
        seed = sum(self.name.encode())
        return develop(
            frame, size, exposure=self.exposure, tint=self.tint, bloom=self.bloom, vignette=self.vignette, seed=seed
        )


def _frame(light: Points, wide: int) -> np.ndarray:
    return np.ascontiguousarray(light.T).reshape(wide, wide, 3)
