"""Night: sitting on a bookshelf under a string of lights, the antenna glowing."""

import numpy as np

from ..robot import Arm, Pose, Surface, linear
from ..shapes import Points, box, cells, fractal, mix, noise, smoothstep, sphere, turn, vec
from ..trace import Camera, Lamp, Light, Lighting
from ..world import Plane, Prop, Scene


def sag(x):
    """Height of the string of lights at ``x``."""
    return 1.80 - 0.26 * np.cos((x + 0.25) * 1.35) ** 2


BULBS = tuple((x, float(sag(x)) - 0.06, -0.68) for x in (-1.93, -1.46, -0.99, -0.52, 0.80, 1.24, 1.68, 2.12))
WARM = linear("ffb768")


def walnut(p: Points) -> tuple[Surface, np.ndarray]:
    """Dark polished wood with the grain along x."""
    grain = fractal(p[0] * 1.1, p[2] * 16.0, octaves=4, seed=31)
    rings = 0.5 + 0.5 * np.sin(40.0 * (p[2] * 0.4 + 0.35 * fractal(p[0] * 0.5, p[2] * 1.2, octaves=2, seed=32)))
    colour = mix(linear("4a2b18"), linear("7a4a2a"), 0.5 * grain + 0.5 * rings)
    n = p.shape[1]
    return Surface(colour, np.zeros(n, np.float32), np.full(n, 0.62, np.float32)), 0.0015 * grain


def wallpaper(p: Points) -> tuple[Surface, np.ndarray]:
    """Midnight blue with small gold stars, and the pools of light of the bulbs."""
    u, v = p[0] / 0.34, p[1] / 0.34
    row = np.floor(v)
    u = u + 0.5 * (row % 2)
    du, dv = u - np.floor(u) - 0.5, v - row - 0.5
    angle, radius = np.arctan2(dv, du), np.hypot(du, dv)
    star = 1.0 - smoothstep(0.055, 0.075, radius * (1.0 - 0.6 * np.cos(4.0 * angle)))
    paper = linear("27365c") * (0.85 + 0.3 * fractal(p[0] * 14.0, p[1] * 14.0, seed=33))
    colour = mix(paper, linear("c79a4b"), star * 0.8)
    light = np.zeros_like(p)
    for bulb in BULBS:
        away = (p[0] - bulb[0]) ** 2 + (p[1] - bulb[1]) ** 2
        light += WARM * (0.06 / (away + 0.035))
    n = p.shape[1]
    return Surface(colour, np.zeros(n, np.float32), np.full(n, 0.2, np.float32), colour * light), 0.0 * u


def bulbs() -> Prop:
    """The string of lights: a wire and its bulbs."""

    def distance(p: Points) -> np.ndarray:
        slab = np.abs(p[2] + 0.69) - 0.08
        near = slab < 0.1
        q = p[:, near]
        wire = 0.7 * (np.hypot(q[1] - sag(q[0]), q[2] + 0.7) - 0.012)
        slab[near] = np.minimum.reduce([wire, *(sphere(q, bulb, 0.055) for bulb in BULBS)])
        return slab

    def paint(p: Points) -> Surface:
        n = p.shape[1]
        lit = np.minimum.reduce([sphere(p, bulb, 0.055) for bulb in BULBS]) < 0.006
        light = np.where(lit, vec(9.0, 5.6, 2.3), vec(0.0, 0.0, 0.0))
        return Surface(linear("1c1a16") + 0.0 * p, np.zeros(n, np.float32), np.full(n, 0.4, np.float32), light)

    return Prop(distance, paint, (0.0, 1.6, -0.7), 2.4)


def book(
    x: float, width: float, height: float, depth: float, colour: str, tilt: float = 0.0, lying: float | None = None
) -> Prop:
    """A bound book standing with its spine to the front, or lying at height ``lying``."""
    half = np.array([width / 2, height / 2, depth / 2], np.float32)
    rotation = turn("z", tilt) if lying is None else turn("y", tilt) @ turn("z", 90.0)
    middle = half[1] if lying is None else lying + half[0]
    centre = (x, float(middle), -0.72 + depth / 2 + 0.06)

    def local(p: Points) -> Points:
        return rotation.T @ (p - vec(*centre))

    def distance(p: Points) -> np.ndarray:
        q = local(p)
        cover = box(q, (0, 0, 0), half, 0.02)
        gap = box(q, (0, half[1], -0.03), (half[0] - 0.025, 0.03, half[2]), 0.005)
        return np.maximum(cover, -gap)

    def paint(p: Points) -> Surface:
        q = local(p)
        cloth = linear(colour) * (0.85 + 0.3 * noise(*(q * 90.0), seed=35))
        spine = q[2] > half[2] - 0.03
        bands = np.abs(np.abs(q[1]) - half[1] * 0.72) < 0.014
        title = (
            (np.abs(q[1]) < half[1] * 0.38)
            & (np.abs(q[0]) < half[0] * 0.3)
            & (cells(q[1] / 0.028, seed=int(height * 997)) > 0.45)
        )
        gold = spine & (bands | title)
        pages = (np.abs(q[0]) < half[0] - 0.024) & (np.abs(q[1]) > half[1] - 0.045) & ~spine
        albedo = np.where(gold, linear("d8b057"), np.where(pages, linear("e6d8b8"), cloth))
        return Surface(albedo, np.where(gold, 0.6, 0.0).astype(np.float32), np.where(gold, 0.6, 0.3).astype(np.float32))

    return Prop(distance, paint, centre, float(np.linalg.norm(half)) + 0.03)


def sky(direction: Points, roughness: np.ndarray) -> Points:
    """A dim room: a lamp with a paper shade at the right, moonlight in a window at the left."""
    light = mix(vec(0.045, 0.030, 0.022), vec(0.075, 0.08, 0.12), smoothstep(-0.4, 0.5, direction[1]))
    sharp = 1.0 - smoothstep(0.1, 0.5, roughness)
    lamp = smoothstep(0.90, 0.94, direction[0] * 0.72 + direction[1] * 0.45 + direction[2] * 0.53)
    pane = (np.abs(direction[0] + 0.62) < 0.16) & (np.abs(direction[1] - 0.36) < 0.2) & (direction[2] > 0.0)
    cross = (np.abs(direction[0] + 0.62) < 0.016) | (np.abs(direction[1] - 0.36) < 0.016)
    return light + vec(5.0, 3.2, 1.6) * (lamp * sharp) + vec(0.7, 0.95, 1.5) * (pane & ~cross) * sharp


def scene() -> Scene:
    """Camera, pose, light and surroundings."""
    pose = Pose(
        at=(0.12, 0.0, 0.0),
        yaw=-13,
        head_yaw=-6,
        head_tilt=-8,
        head_nod=-4,
        left=Arm(24, 4, 22),
        right=Arm(30, 6, 8),
        sits=True,
        glow=5.0,
    )
    lamps = (Lamp((0.02, 1.84, 0.1), vec(0.30, 0.17, 0.05)), *(Lamp(bulb, WARM * 0.035) for bulb in BULBS))
    return Scene(
        name="shelf",
        camera=Camera((-0.35, 1.35, 5.4), (0.02, 0.86, 0.0), 26.0, roll=0.8),
        pose=pose,
        lighting=Lighting(
            Light((0.85, 0.75, 0.75), vec(1.55, 0.92, 0.45), 0.10),
            sky,
            fill=(Light((-0.9, 0.5, 0.35), vec(0.10, 0.16, 0.30)),),
            lamps=lamps,
        ),
        backdrop=lambda direction: np.broadcast_to(vec(0.01, 0.01, 0.02), direction.shape),
        planes=(Plane(2, -0.8, wallpaper, flat=True), Plane(1, 0.0, walnut, mirrors=True)),
        props=(
            bulbs(),
            book(-1.36, 0.20, 1.18, 0.80, "7a2530"),
            book(-1.13, 0.24, 1.05, 0.74, "2f5d4e"),
            book(-0.90, 0.17, 1.24, 0.80, "c08a3a"),
            book(-0.70, 0.20, 0.98, 0.72, "3b4a86"),
            book(1.22, 0.20, 0.98, 0.72, "8c5a7a", tilt=6.0, lying=0.0),
            book(1.26, 0.17, 0.86, 0.66, "c9563c", tilt=-5.0, lying=0.20),
        ),
        aperture=0.010,
        exposure=1.25,
        bloom=0.13,
        vignette=0.5,
    )
