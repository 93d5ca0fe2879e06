"""Morning: on an oak table beside a blue mug, the window to the left."""

import numpy as np

from ..robot import Arm, Pose, Surface, linear
from ..shapes import Points, cells, disc, fractal, mix, noise, ring, smoothstep, vec
from ..trace import Camera, Light, Lighting
from ..world import Plane, Prop, Scene


def oak(p: Points) -> tuple[Surface, np.ndarray]:
    """Planks along x, half a unit wide, with grain and dark joints."""
    across = p[2] / 0.62 + 0.35
    plank = np.floor(across)
    shift = 7.3 * cells(plank, seed=2)
    along = p[0] * 0.55 + shift * 3.0
    warp = 0.9 * fractal(along, across * 1.7 + shift, octaves=2, seed=4)
    rings = 0.5 + 0.5 * np.sin(38.0 * (across * 0.32 + warp * 0.42 + shift))
    pores = fractal(along * 5.0, p[2] * 95.0, octaves=2, seed=9)
    colour = mix(linear("a8743f"), linear("7c4d26"), rings**2 * 0.55)
    colour = mix(colour, linear("4f2e15"), smoothstep(0.62, 0.8, pores) * 0.45)
    colour = colour * (0.82 + 0.32 * cells(plank, seed=6))
    edge = np.minimum(across - plank, plank + 1.0 - across) * 0.62
    joint = 1.0 - smoothstep(0.003, 0.010, edge)
    height = -0.006 * joint - 0.0012 * smoothstep(0.55, 0.8, pores)
    n = p.shape[1]
    gloss = np.full(n, 0.72, np.float32) - 0.12 * rings
    return Surface(colour * (1.0 - 0.75 * joint), np.zeros(n, np.float32), gloss.astype(np.float32)), height


def mug(centre: tuple[float, float, float]) -> Prop:
    """Blue, with two white lines, a handle to the left and coffee inside."""
    x, y, z = centre

    def distance(p: Points) -> np.ndarray:
        wall = disc(p, (x, y + 0.42, z), 1, 0.36, 0.42, 0.05)
        hollow = disc(p, (x, y + 0.55, z), 1, 0.31, 0.45, 0.05)
        handle = ring(p, (x - 0.4, y + 0.42, z), 2, 0.2, 0.05)
        cup = np.maximum(np.minimum(wall, handle), -hollow)
        return np.minimum(cup, disc(p, (x, y + 0.6, z), 1, 0.32, 0.05, 0.01))  # the coffee

    def paint(p: Points) -> Surface:
        n = p.shape[1]
        inside = np.hypot(p[0] - x, p[2] - z) < 0.315
        coffee = inside & (p[1] < y + 0.7)
        band = smoothstep(0.015, 0.005, np.abs(p[1] - y - 0.66)) + smoothstep(0.015, 0.005, np.abs(p[1] - y - 0.16))
        colour = mix(linear("33589a"), linear("eee6d6"), np.clip(band, 0, 1))
        colour = np.where(coffee, linear("2b1408"), colour)
        return Surface(colour, np.zeros(n, np.float32), np.full(n, 0.85, np.float32))

    return Prop(distance, paint, (x - 0.1, y + 0.42, z), 0.85)


def tangerine(x: float, z: float) -> Prop:
    """A slightly flat sphere with a pitted skin."""
    radius = 0.27

    def distance(p: Points) -> np.ndarray:
        q = p - vec(x, radius * 0.9, z)
        return 0.8 * (np.sqrt(q[0] ** 2 + (q[1] / 0.88) ** 2 + q[2] ** 2) - radius)

    def paint(p: Points) -> Surface:
        n = p.shape[1]
        stem = np.hypot(p[0] - x, p[2] - z) < 0.035
        colour = np.where(stem & (p[1] > radius), linear("4c6b2a"), linear("f0791c"))
        pits = 0.9 + 0.2 * noise(*(p * 60.0), seed=8)
        return Surface(colour * pits, np.zeros(n, np.float32), np.full(n, 0.55, np.float32))

    return Prop(distance, paint, (x, radius, z), 0.36)


def window(direction: Points) -> np.ndarray:
    """Four bright panes at the left, ``(N,)``: what the glaze mirrors."""
    u = np.arctan2(-direction[0], direction[2] + 0.25) / 0.9 - 0.75
    v = direction[1] / 0.75 - 0.25
    inside = (np.abs(u - 0.5) < 0.5) & (np.abs(v - 0.5) < 0.5)
    bars = (np.abs(u - 0.5) < 0.04) | (np.abs(v - 0.45) < 0.035)
    return (inside & ~bars).astype(np.float32)


def sky(direction: Points, roughness: np.ndarray) -> Points:
    """The kitchen as the glaze mirrors it: warm walls, wood below, the window."""
    up = direction[1]
    room = mix(vec(0.26, 0.17, 0.10), vec(0.62, 0.58, 0.52), smoothstep(-0.25, 0.35, up))
    room = room * (1.0 + 0.5 * np.clip(-direction[0], -0.6, 1.0))
    return room + vec(5.2, 5.4, 5.8) * window(direction) * (1.0 - smoothstep(0.05, 0.45, roughness))


def backdrop(direction: Points) -> Points:
    """The far side of the kitchen: a wall, a bright door, a plant; all of it out of focus."""
    u, v = direction[0] / -direction[2], direction[1] / -direction[2]
    light = mix(vec(0.36, 0.33, 0.30), vec(0.70, 0.62, 0.50), smoothstep(0.5, -0.5, u))
    light = light * (0.82 + 0.2 * smoothstep(-0.2, 0.4, v))
    door = (np.abs(u + 0.27) < 0.085) & (v > -0.06) & (np.abs(u + 0.27) > 0.006) & (np.abs(v - 0.09) > 0.004)
    light = np.where(door, vec(2.4, 2.6, 2.8), light)
    for i, (angle, length) in enumerate(
        zip(np.linspace(-72, 68, 11), (9, 12, 14, 16, 15, 18, 16, 15, 13, 12, 9), strict=True)
    ):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        along, across = (u - 0.19) * s + (v + 0.02) * c, (u - 0.19) * c - (v + 0.02) * s
        t = np.clip(along / (0.01 * length), 0.0, 1.0)
        leaf = (np.abs(across) < 0.018 * np.sin(np.pi * t**0.8)) & (along > 0.0)
        green = mix(linear("2c4f24"), linear("86a84e"), (0.2 + 0.6 * t) * (0.5 + 0.5 * (i % 3) / 2.0))
        light = np.where(leaf, green, light)
    pot = (np.abs(u - 0.19) < 0.05 + 0.12 * (v + 0.02)) & (v < -0.01)
    return np.where(pot, linear("b5613c") * (0.7 - 2.5 * (u - 0.19)), light)


def scene() -> Scene:
    """Camera, pose, light and surroundings."""
    return Scene(
        name="table",
        camera=Camera((0.55, 1.75, 6.4), (0.16, 0.98, 0.0), 25.5, roll=1.0),
        pose=Pose(yaw=14, head_yaw=-4, head_tilt=-6, head_nod=2, left=Arm(80, 148, 8), right=Arm(24, 12, 14)),
        lighting=Lighting(Light((-0.85, 0.95, 0.75), vec(3.1, 2.8, 2.4), 0.13), sky, ambient=0.5),
        backdrop=backdrop,
        planes=(Plane(1, 0.0, oak, within=lambda p: p[2] > -2.4, mirrors=True),),
        props=(mug((-1.0, 0.0, -1.25)), tangerine(1.12, -0.35), tangerine(1.5, -0.8)),
        aperture=0.024,
        exposure=0.84,
        bloom=0.04,
        tint=(1.03, 1.0, 0.95),
    )
