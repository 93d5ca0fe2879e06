"""Noon at the sea: ripples in the sand, a tin bucket, a starfish."""

import numpy as np

from ..robot import Arm, Pose, Surface, linear
from ..shapes import Points, fractal, mix, noise, ring, smoothstep, speckles, vec
from ..trace import Camera, Light, Lighting
from ..world import Plane, Prop, Scene

SHORE = -4.2


def shoreline(x: np.ndarray) -> np.ndarray:
    """Depth ``z`` of the water's edge."""
    return SHORE + 0.35 * np.sin(x * 0.55 + 0.4) + 0.16 * np.sin(x * 1.7) + 0.3 * noise(x * 1.3, 0.0 * x, seed=41)


def ground(p: Points) -> tuple[Surface, np.ndarray]:
    """Sand that gets wet towards the water, a line of foam, then the sea."""
    x, z = p[0], p[2]
    out = shoreline(x) - z  # how far out, positive in the water
    wet = smoothstep(-1.1, -0.1, out + 0.25 * (fractal(x, z, seed=42) - 0.5))
    grain = noise(x * 70.0, z * 70.0, seed=43)
    coarse = fractal(x * 3.0, z * 3.0, octaves=4, seed=44)
    bend = 1.6 * fractal(x * 0.9, z * 0.9, octaves=2, seed=45)
    ripples = (0.5 + 0.5 * np.sin(15.0 * (z * 0.8 + 0.25 * x + bend))) ** 1.5 * (1.0 - wet)
    sand = mix(linear("c9a36c"), linear("ecd3a2"), 0.25 + 0.75 * coarse) * (0.86 + 0.24 * grain)
    crumbs = speckles(np.stack([x * 9.0, np.full_like(x, 0.5), z * 9.0]), seed=46)
    sand = mix(sand, mix(linear("f6efe2"), linear("8a6444"), noise(x * 9.0, z * 9.0, seed=47)), 0.8 * crumbs)
    sand = sand * mix(1.0, 0.55, wet)
    depth = smoothstep(0.0, 9.0, out)
    water = mix(linear("7fd0c4"), linear("1a6f9a"), depth)
    lace = fractal(x * 3.2, out * 6.0, octaves=3, seed=48)
    foam = smoothstep(0.42, 0.06, np.abs(out - 0.22) * (0.6 + 0.9 * lace)) * smoothstep(0.25, 0.55, lace + 0.2)
    crest = smoothstep(0.10, 0.0, np.abs(out - 2.4 - 0.5 * noise(x * 0.8, 0 * x, seed=49))) * smoothstep(
        0.35, 0.6, lace
    )
    foam = np.clip(foam * (out > -0.15) + crest, 0.0, 1.0)
    in_water = smoothstep(-0.02, 0.04, out)
    colour = mix(mix(sand, water, in_water), vec(0.9, 0.92, 0.92), foam)
    gloss = mix(mix(0.15, 0.7, wet), 0.9, in_water) * (1.0 - 0.8 * foam)
    swell = fractal(x * 1.5, z * 3.0, octaves=3, seed=50)
    height = mix(0.03 * ripples + 0.03 * coarse * (1.0 - wet) + 0.0025 * grain, 0.035 * swell, in_water)
    return Surface(colour, np.zeros_like(x), gloss.astype(np.float32)), height


def bucket(x: float, z: float) -> Prop:
    """A little red tin pail with a white stripe and its handle folded down."""

    def cone(p: Points) -> tuple[np.ndarray, np.ndarray]:
        return np.hypot(p[0] - x, p[2] - z), 0.31 + 0.14 * p[1]

    def distance(p: Points) -> np.ndarray:
        radial, wide = cone(p)
        shell = np.maximum(np.abs(radial - wide) - 0.016, np.abs(p[1] - 0.31) - 0.33)
        lip = ring(p, (x, 0.635, z), 1, 0.40, 0.028)
        tilted = np.stack(
            [p[0] - x, (p[1] - 0.63) * 0.82 + (p[2] - z) * 0.57, (p[2] - z) * 0.82 - (p[1] - 0.63) * 0.57]
        )
        handle = np.maximum(ring(tilted, (0, 0, 0), 2, 0.42, 0.018), -tilted[1])
        sand = np.maximum(radial - wide, np.abs(p[1] - 0.27 - 0.08 * np.cos(radial * 4.0)) - 0.28)
        return 0.9 * np.minimum.reduce([shell, lip, handle, sand])

    def paint(p: Points) -> Surface:
        radial, wide = cone(p)
        stripe = smoothstep(0.012, 0.004, np.abs(np.abs(p[1] - 0.33) - 0.055) - 0.02)
        colour = mix(linear("c8322b"), linear("f4efe6"), stripe)
        inside = (radial < wide - 0.02) & (p[1] < 0.66)
        tin = (p[1] > 0.6) & ~inside
        colour = np.where(inside, linear("d8b985"), np.where(tin, linear("c9c8c2"), colour))
        gloss = np.where(inside, 0.1, 0.75).astype(np.float32)
        return Surface(colour, (tin & ~inside).astype(np.float32), gloss)

    return Prop(distance, paint, (x, 0.5, z), 0.8)


def starfish(x: float, z: float, turned: float) -> Prop:
    """Five arms, orange, with pale dots."""

    def polar(p: Points) -> tuple[np.ndarray, np.ndarray]:
        radius = np.hypot(p[0] - x, p[2] - z)
        fold = (np.arctan2(p[2] - z, p[0] - x) + turned) / (2 * np.pi / 5)
        return radius, np.abs(fold - np.round(fold)) * 2.0  # 0 along an arm, 1 between two

    def distance(p: Points) -> np.ndarray:
        radius, between = polar(p)
        edge = 0.30 - 0.185 * np.sin(between * np.pi / 2) ** 0.8
        flesh = np.clip(1.0 - radius / edge, 0.0, 1.0) ** 0.6 * 0.075
        return 0.45 * np.maximum(np.abs(p[1] - 0.012) - 0.012 - flesh, radius - edge)

    def paint(p: Points) -> Surface:
        radius, between = polar(p)
        dots = speckles(np.stack([p[0] * 24.0, p[1] * 0 + 0.5, p[2] * 24.0]), seed=51)
        colour = mix(linear("e07a3c"), linear("f7c08a"), np.clip(dots + smoothstep(0.2, 0.0, between) * 0.5, 0, 1))
        return Surface(colour, np.zeros_like(radius), np.full_like(radius, 0.3))

    return Prop(distance, paint, (x, 0.05, z), 0.36)


def sky(direction: Points, roughness: np.ndarray) -> Points:
    """Blue with white clouds above, bright sand below."""
    up = direction[1]
    light = mix(vec(0.95, 1.02, 1.10), vec(0.22, 0.46, 0.95), smoothstep(0.0, 0.75, up))
    clouds = smoothstep(0.5, 0.75, fractal(direction[0] * 3.0 / (up + 0.35), direction[2] * 3.0 / (up + 0.35), seed=52))
    light = mix(light, vec(1.5, 1.5, 1.5), clouds * (up > 0.0) * smoothstep(0.0, 0.2, up) * 0.8)
    return mix(light, vec(0.85, 0.68, 0.46), smoothstep(0.02, -0.12, up))


def backdrop(direction: Points) -> Points:
    """Sky with clouds, and an island on the horizon at the right."""
    up = direction[1]
    light = mix(vec(0.72, 0.92, 1.06), vec(0.10, 0.36, 0.85), smoothstep(-0.02, 0.34, up))
    u, v = direction[0] * 7.0, up * 17.0
    puffs = fractal(u, v, octaves=5, seed=53) - 0.35 * np.abs(up - 0.11) * 9.0
    light = mix(light, vec(1.7, 1.67, 1.62), smoothstep(0.40, 0.66, puffs))
    island = up < 0.012 + 0.014 * fractal(direction[0] * 14.0, 0.0 * u, seed=54) * smoothstep(0.02, 0.16, direction[0])
    return np.where(island & (direction[0] > 0.03), vec(0.22, 0.36, 0.44), light)


def scene() -> Scene:
    """Camera, pose, light and surroundings."""
    return Scene(
        name="beach",
        camera=Camera((-0.7, 1.3, 6.3), (0.08, 1.02, 0.0), 26.5, roll=-0.8),
        pose=Pose(
            yaw=-24, head_yaw=8, head_tilt=4, head_nod=-5, lean=-2, left=Arm(108, 132, 0), right=Arm(100, 128, 0)
        ),
        lighting=Lighting(Light((0.62, 1.0, 0.62), vec(3.6, 3.4, 3.0), 0.03), sky, ambient=0.62),
        backdrop=backdrop,
        planes=(Plane(1, 0.0, ground),),
        props=(bucket(1.12, -0.75), starfish(-1.02, 0.55, 0.5)),
        aperture=0.008,
        exposure=0.56,
        vignette=0.25,
    )
