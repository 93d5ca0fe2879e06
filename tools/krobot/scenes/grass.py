"""A meadow with daisies, from low down; every blade is a little polygon."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..film import defocus
from ..robot import Arm, Pose, Surface, linear
from ..shapes import Points, cells, fractal, mix, smoothstep, vec
from ..trace import Camera, Light, Lighting, visibility
from ..world import Plane, Scene

SEGMENTS = 5
CLEARING = 0.30
"""No blade starts nearer than this to the middle of the robot."""


@dataclass(frozen=True)
class Leaves:
    """Flat coloured polygons in the world: ``M`` of them with ``K`` corners."""

    corners: np.ndarray
    """``(M, K, 3)``."""
    light: np.ndarray
    """Radiance ``(M, 3)``."""

    def __add__(self, other: "Leaves") -> "Leaves":
        return Leaves(np.concatenate([self.corners, other.corners]), np.concatenate([self.light, other.light]))

    def where(self, keep: np.ndarray) -> "Leaves":
        """Those of a mask ``(M,)``."""
        return Leaves(self.corners[keep], self.light[keep])

    def drawn(self, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Far to near: radiance ``(size, size, 3)``, cover ``(size, size)`` and depth ``(size, size)``."""
        flat = self.corners.reshape(-1, 3).T.astype(np.float32)
        column, row, depth = (a.reshape(self.corners.shape[:2]) for a in camera.project(flat, size))
        order = np.argsort(-depth.mean(axis=1))
        canvas = Image.new("I", (size, size), 0)
        pen = ImageDraw.Draw(canvas)
        for i in order:
            pen.polygon(list(zip(column[i].tolist(), row[i].tolist(), strict=True)), fill=int(i) + 1)
        index = np.asarray(canvas)
        light = np.concatenate([np.zeros((1, 3)), self.light]).astype(np.float32)
        far = np.concatenate([[np.inf], depth.mean(axis=1)]).astype(np.float32)
        return light[index], (index > 0).astype(np.float32), far[index]


def grown(scene: Scene) -> Leaves:
    """The whole meadow, lit by the scene's sun and shaded by its robot."""
    draw = np.random.default_rng(7)
    near, middle, far = (
        (5200, (-2.1, 2.1), (-1.6, 4.0)),
        (5200, (-3.2, 3.2), (-5.0, -1.5)),
        (3600, (-6.0, 6.0), (-14.0, -4.5)),
    )
    roots = np.concatenate(
        [np.stack([draw.uniform(*x, n), draw.uniform(*z, n)], axis=1) for n, x, z in (near, middle, far)]
    )
    roots = roots[np.hypot(roots[:, 0], (roots[:, 1] - 0.05) * 1.15) > CLEARING]
    return blades(scene, draw, roots) + daisies(scene, draw)


def lit(scene: Scene, p: np.ndarray) -> np.ndarray:
    """Share of the sun that reaches points ``(M, 3)``."""
    return visibility((scene.robot,), p.T.astype(np.float32), scene.lighting.key)


def blades(scene: Scene, draw: np.random.Generator, roots: np.ndarray) -> Leaves:
    """One bent blade of ``SEGMENTS`` quadrilaterals per root ``(x, z)``."""
    n = len(roots)
    height = draw.uniform(0.10, 0.30, n) * (0.7 + 0.6 * fractal(*(roots.T.astype(np.float32) * 1.5), seed=61))
    height *= mix(0.62, 1.0, smoothstep(0.35, 0.95, np.hypot(*roots.T)))  # trodden down around the robot
    width = draw.uniform(0.010, 0.021, n)
    heading, droop = draw.uniform(0.0, 2 * np.pi, n), draw.uniform(0.1, 0.75, n) * height
    t = np.linspace(0.0, 1.0, SEGMENTS + 1)
    spine = np.zeros((n, SEGMENTS + 1, 3))
    for axis, direction in ((0, np.cos(heading)), (2, np.sin(heading))):
        spine[..., axis] = roots[:, axis // 2, None] + (direction * droop)[:, None] * t**2
    spine[..., 1] = height[:, None] * (t - 0.22 * (droop / height)[:, None] * t**2)
    half = 0.5 * width[:, None] * (1.0 - t**1.6)
    left, right = spine.copy(), spine.copy()
    left[..., 0] -= half
    right[..., 0] += half
    corners = np.stack([left[:, :-1], left[:, 1:], right[:, 1:], right[:, :-1]], axis=2)  # (n, SEGMENTS, 4, 3)
    up = (t[:-1] + t[1:]) / 2.0
    hue = draw.uniform(0.0, 1.0, n)
    base = mix(linear("3f6d1f").ravel(), linear("86ab3a").ravel(), hue[:, None])
    dry = draw.uniform(size=n) < 0.05
    base[dry] = linear("c2ae62").ravel()
    sun = lit(scene, spine[:, 1:].reshape(-1, 3)).reshape(n, SEGMENTS)
    through = (0.30 + 0.45 * draw.uniform(size=n))[:, None] * (0.35 + 0.65 * up)  # light through the blade
    direct = scene.lighting.key.colour.ravel() * (sun * through)[..., None]
    ambient = np.array([0.42, 0.52, 0.62]) * (0.10 + 0.75 * up**1.3)[:, None]
    return Leaves(corners.reshape(-1, 4, 3), (base[:, None] * (direct + ambient)).reshape(-1, 3))


def daisies(scene: Scene, draw: np.random.Generator) -> Leaves:
    """Stem, fifteen petals and a yellow dome each."""
    spots = np.array(
        [
            (-0.78, 0.42),
            (0.74, 0.62),
            (-1.18, -0.35),
            (0.98, -0.25),
            (1.30, 0.35),
            (-1.42, 0.9),
            (0.35, 1.25),
            (-0.42, 1.5),
        ]
        + [(x, z) for x, z in zip(draw.uniform(-3.5, 3.5, 26), draw.uniform(-6.0, -1.2, 26), strict=True)]
    )
    all_ = []
    for x, z in spots:
        size, tall = draw.uniform(0.055, 0.08), draw.uniform(0.22, 0.34)
        facing = np.array([draw.uniform(-0.4, 0.4), 0.75, draw.uniform(0.5, 0.9)])
        facing /= np.linalg.norm(facing)
        side = np.cross(facing, [0.0, 1.0, 0.2])
        side /= np.linalg.norm(side)
        over = np.cross(side, facing)
        middle = np.array([x, tall, z])

        def around(angle: float, radius: float, lift: float = 0.0, m=middle, s=side, o=over, f=facing) -> np.ndarray:
            return m + radius * (np.cos(angle) * s + np.sin(angle) * o) + lift * f

        sun = lit(scene, middle[None])[0]
        light = scene.lighting.key.colour.ravel() * (0.33 * sun) + np.array([0.32, 0.36, 0.42])
        stem = np.array(
            [[x - 0.008, 0, z], [middle[0] - 0.006, tall, z], [middle[0] + 0.006, tall, z], [x + 0.008, 0, z]]
        )
        quads, colours = [stem], [linear("5d8a2e").ravel() * light * 0.6]
        petals = 15
        for i in range(petals):
            a = 2 * np.pi * (i + draw.uniform(-0.15, 0.15)) / petals
            r = size * draw.uniform(0.9, 1.08)
            quads.append(
                np.stack([around(a - 0.05, 0.01), around(a - 0.17, r * 0.8), around(a, r), around(a + 0.17, r * 0.8)])
            )
            colours.append(np.array([0.93, 0.93, 0.90]) * light * draw.uniform(0.82, 1.05))
        for ring, (lower, upper) in enumerate(((0.36, 0.24), (0.24, 0.0))):
            for i in range(10):
                a, b = 2 * np.pi * i / 10, 2 * np.pi * (i + 1) / 10
                rise = 0.012 * (ring + 1)
                quads.append(
                    np.stack(
                        [
                            around(a, size * lower, rise),
                            around(b, size * lower, rise),
                            around(b, size * upper, rise),
                            around(a, size * upper, rise),
                        ]
                    )
                )
                colours.append(linear("f6b91e").ravel() * light * (0.85 + 0.25 * ring))
        all_.append(Leaves(np.stack(quads), np.stack(colours)))
    return Leaves(np.concatenate([a.corners for a in all_]), np.concatenate([a.light for a in all_]))


def behind(scene: Scene, frame: np.ndarray, depth: np.ndarray) -> None:
    """Blades and flowers further from the camera than the robot."""
    meadow = grown(scene)
    light, cover, far = meadow.where(meadow.corners[:, 0, 2] < 0.1).drawn(scene.camera, frame.shape[0])
    here = cover > 0
    frame[here], depth[here] = light[here], far[here]


def before(scene: Scene, frame: np.ndarray) -> np.ndarray:
    """Blades between the robot and the camera, in slabs, nearer ones more out of focus."""
    meadow, wide = grown(scene), frame.shape[0]
    z = meadow.corners[:, 0, 2]
    eye = scene.camera.eye[2]
    for back, front in ((0.1, 0.7), (0.7, 1.3), (1.3, 2.1), (2.1, 4.0)):
        light, cover, _ = meadow.where((z >= back) & (z < front)).drawn(scene.camera, wide)
        depth = eye - (back + front) / 2.0
        radius = scene.aperture * wide * max(0.0, (eye - 0.45) / depth - 1.0)
        layer = defocus(np.concatenate([light * cover[..., None], cover[..., None]], axis=2), radius)
        frame = frame * (1.0 - np.clip(layer[..., 3:], 0.0, 1.0)) + layer[..., :3]
    return frame


def soil(p: Points) -> tuple[Surface, np.ndarray]:
    """Dark moss between the blades; far away, where there are none, the colour of grass."""
    patches = fractal(p[0] * 6.0, p[2] * 6.0, octaves=4, seed=62)
    distance = smoothstep(-3.0, -12.0, p[2])
    colour = mix(mix(linear("1f2c10"), linear("3d5a1c"), patches), linear("7ba03c") * (0.8 + 0.4 * patches), distance)
    return Surface(colour, np.zeros_like(patches), np.zeros_like(patches)), 0.05 * patches


def sky(direction: Points, roughness: np.ndarray) -> Points:
    """A bright sky over trees, grass below."""
    up = direction[1]
    light = mix(vec(0.55, 0.72, 0.60), vec(0.45, 0.72, 1.15), smoothstep(0.1, 0.7, up))
    trees = smoothstep(0.30, 0.22, up + 0.1 * fractal(direction[0] * 5.0, direction[2] * 5.0, seed=63))
    light = mix(light, vec(0.12, 0.20, 0.07), trees * 0.85)
    return mix(light, vec(0.16, 0.25, 0.05), smoothstep(0.03, -0.10, up))


def backdrop(direction: Points) -> Points:
    """A hedge in the sun and a patch of sky; leaves that glitter become discs."""
    u, v = direction[0] / -direction[2], direction[1] / -direction[2]
    leaves = fractal(u * 16.0, v * 16.0, octaves=4, seed=64)
    light = mix(vec(0.03, 0.08, 0.03), vec(0.34, 0.50, 0.12), smoothstep(0.25, 0.8, leaves + 0.6 * v))
    gap = smoothstep(0.0, 0.02, v - 0.13 + 0.28 * (fractal(u * 9.0 + 3.0, v * 9.0, octaves=4, seed=65) - 0.5))
    light = mix(light, vec(0.52, 0.82, 1.20), gap)
    glitter = cells(u * 120.0, v * 120.0, seed=66) > 0.991
    return np.where(glitter & (gap < 0.5) & (v > 0.0), vec(2.0, 2.2, 0.9), light)


def scene() -> Scene:
    """Camera, pose, light and surroundings."""
    return Scene(
        name="grass",
        camera=Camera((0.35, 0.72, 6.0), (-0.06, 0.98, 0.0), 26.5, roll=-1.2),
        pose=Pose(yaw=27, head_yaw=-14, head_tilt=7, head_nod=-6, left=Arm(30, 18, 38), right=Arm(34, 60, -8)),
        lighting=Lighting(Light((0.72, 0.95, 0.42), vec(3.6, 3.3, 2.6), 0.04), sky, ambient=0.62),
        backdrop=backdrop,
        planes=(Plane(1, 0.0, soil),),
        aperture=0.017,
        behind=behind,
        before=before,
        exposure=0.72,
        bloom=0.045,
        tint=(1.02, 1.0, 0.96),
    )
