"""Late afternoon: in front of an old brick wall, seen from the side with the wind-up key showing."""

import numpy as np

from ..robot import Arm, Pose, Surface, linear
from ..shapes import Points, cells, fractal, mix, noise, smoothstep, vec
from ..trace import Camera, Light, Lighting
from ..world import Plane, Scene

BRICK, COURSE, MORTAR = 0.62, 0.225, 0.022


def bricks(p: Points) -> tuple[Surface, np.ndarray]:
    """Running bond on the wall, each brick its own red, with sandy joints."""
    u = p[0] + 0.012 * (noise(p[0] * 9.0, p[1] * 9.0, seed=1) - 0.5)
    v = p[1] + 0.012 * (noise(p[0] * 9.0, p[1] * 9.0, seed=2) - 0.5)
    row = np.floor(v / COURSE)
    column = np.floor(u / BRICK + 0.5 * (row % 2))
    du = (u / BRICK + 0.5 * (row % 2) - column) * BRICK
    dv = v - row * COURSE
    inset = np.minimum(np.minimum(du, BRICK - du), np.minimum(dv, COURSE - dv))
    face = smoothstep(MORTAR * 0.35, MORTAR * 0.9, inset)
    shade = cells(column, row, seed=3)
    colour = mix(linear("7d3e2e"), linear("a4583f"), shade)
    colour = mix(colour, linear("6b3a33"), (cells(column, row, seed=4) > 0.8) * 0.8)
    colour = mix(colour, linear("d9c3a8"), (cells(column, row, seed=5) > 0.88) * 0.55 * fractal(u * 8, v * 8, seed=6))
    rough = fractal(u * 22.0, v * 22.0, octaves=4, seed=7)
    colour = colour * (0.72 + 0.5 * rough)
    joint = linear("988b78") * (0.75 + 0.4 * fractal(u * 45.0, v * 45.0, octaves=2, seed=8))
    damp = 1.0 - 0.35 * smoothstep(0.6, 0.0, p[1] + 0.3 * fractal(u * 2.0, v * 2.0, seed=9))
    n = p.shape[1]
    height = 0.020 * face + 0.010 * rough * face + 0.004 * fractal(u * 60.0, v * 60.0, octaves=2, seed=10)
    return Surface(mix(joint, colour, face) * damp, np.zeros(n, np.float32), np.full(n, 0.12, np.float32)), height


def pavement(p: Points) -> tuple[Surface, np.ndarray]:
    """Worn concrete slabs with moss along the foot of the wall."""
    grain = fractal(p[0] * 30.0, p[2] * 30.0, octaves=4, seed=12)
    stains = fractal(p[0] * 1.3, p[2] * 1.3, octaves=4, seed=13)
    colour = linear("a49a8c") * (0.55 + 0.35 * grain + 0.35 * stains)
    across = (p[0] + 0.55) / 1.9
    gap = np.minimum(np.abs(across - np.round(across)) * 1.9, np.abs(p[2] - 0.62))
    joint = 1.0 - smoothstep(0.008, 0.022, gap + 0.012 * (grain - 0.5))
    moss = smoothstep(
        0.55, 0.75, fractal(p[0] * 5.0, p[2] * 9.0, seed=14) + 0.75 * np.exp(-6.0 * (p[2] + 0.95)) + 0.25 * joint
    )
    green = mix(linear("4f5f22"), linear("7f8f3a"), grain)
    colour = mix(colour * (1.0 - 0.7 * joint), green, moss)
    n = p.shape[1]
    height = 0.008 * grain - 0.015 * joint + 0.014 * moss * noise(p[0] * 60.0, p[2] * 60.0, seed=15)
    return Surface(colour, np.zeros(n, np.float32), np.full(n, 0.15, np.float32)), height


def sky(direction: Points, roughness: np.ndarray) -> Points:
    """Open sky above the yard, warm wall behind, pavement below."""
    up = direction[1]
    light = mix(vec(0.40, 0.33, 0.27), vec(0.62, 0.80, 1.12), smoothstep(-0.15, 0.3, up))
    wall = smoothstep(0.0, -0.5, direction[2])
    light = mix(light, vec(0.50, 0.24, 0.15), wall * smoothstep(0.9, 0.3, up))
    roofs = (np.abs(up - 0.08) < 0.09 + 0.05 * np.sign(np.sin(direction[0] * 9.0))) & (direction[2] > 0.1)
    return np.where(roofs & (roughness < 0.4), vec(0.16, 0.13, 0.12), light)


def scene() -> Scene:
    """Camera, pose, light and surroundings."""
    return Scene(
        name="brick",
        camera=Camera((0.6, 1.15, 6.0), (0.03, 1.0, 0.0), 26.5, roll=-0.6),
        pose=Pose(yaw=-50, head_yaw=28, head_tilt=5, left=Arm(20, 10, 34), right=Arm(22, 12, -26)),
        lighting=Lighting(Light((-0.75, 0.85, 0.72), vec(3.5, 2.95, 2.2), 0.045), sky, ambient=0.5),
        backdrop=lambda direction: np.broadcast_to(vec(0.5, 0.5, 0.5), direction.shape),
        planes=(Plane(2, -0.95, bricks), Plane(1, 0.0, pavement)),
        aperture=0.010,
        exposure=0.72,
        tint=(1.02, 1.0, 0.97),
    )
