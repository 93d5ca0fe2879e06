"""What a camera does to light: depth of field, bloom, tone curve, vignette, grain."""

import numpy as np
from PIL import Image

Frame = np.ndarray
"""``(H, W, 3)`` float32, linear light."""


def _filtered(frame: Frame, kernel: np.ndarray) -> Frame:
    """Convolution with a centred odd kernel; edges are mirrored."""
    margin = kernel.shape[0] // 2
    padded = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    rows, columns = padded.shape[:2]
    shift = np.zeros((rows, columns), np.float32)
    shift[: kernel.shape[0], : kernel.shape[1]] = kernel / kernel.sum()
    transfer = np.fft.rfft2(np.roll(shift, (-margin, -margin), (0, 1)))
    planes = [np.fft.irfft2(np.fft.rfft2(padded[..., c]) * transfer, s=(rows, columns)) for c in range(frame.shape[2])]
    clear = slice(margin, -margin)
    return np.stack(planes, axis=-1)[clear, clear].astype(np.float32)


def defocus(frame: Frame, radius: float) -> Frame:
    """Every point becomes a disc, as behind a round iris; radius in pixels."""
    if radius < 0.6:
        return frame
    reach = int(np.ceil(radius)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _filtered(frame, np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0).astype(np.float32))


def glow(frame: Frame, radius: float) -> Frame:
    """Gaussian blur."""
    reach = int(np.ceil(radius * 3.0))
    x = np.arange(-reach, reach + 1, dtype=np.float32)
    bell = np.exp(-0.5 * (x / radius) ** 2)
    return _filtered(frame, np.outer(bell, bell))


def depth_of_field(frame: Frame, depth: np.ndarray, focus: float, aperture: float) -> Frame:
    """Blur by distance from the focal plane.

    Args:
        depth: ``(H, W)``, ``inf`` for the sky.
        focus: depth that stays sharp.
        aperture: blur radius of the sky, as a fraction of the picture's width.
    """
    widest = aperture * frame.shape[1]
    wanted = np.clip(widest * np.abs(1.0 - focus / depth), 0.0, 1.5 * widest)  # (H, W), pixels; the thin lens
    radii = [0.0, *np.geomspace(1.0, 1.0 + 1.5 * widest, 7)]
    layers = [defocus(frame, r) for r in radii]
    result = np.zeros_like(frame)
    for i, layer in enumerate(layers):
        left = radii[i - 1] if i else -1.0
        right = radii[i + 1] if i + 1 < len(radii) else radii[i] * 10.0
        rising, falling = (wanted - left) / (radii[i] - left), (right - wanted) / (right - radii[i])
        result += layer * np.clip(np.minimum(rising, falling), 0.0, 1.0)[..., None]
    return result


def _tone(light: Frame) -> Frame:
    """Filmic curve: Krzysztof Narkowicz's fit of ACES (2015)."""
    return np.clip(light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14), 0.0, 1.0)


def develop(light: Frame, size: int, *, exposure: float, tint, bloom: float, vignette: float, seed: int) -> Image.Image:
    """Linear light at some multiple of ``size`` to a finished RGB picture.

    Args:
        tint: white balance, one gain per channel.
        bloom: share of the light that scatters in the lens.
        vignette: darkening of the corners.
        seed: of the grain.
    """
    width = light.shape[1]
    scattered = glow(np.minimum(light, 12.0), width * 0.012) * 0.6 + glow(np.minimum(light, 12.0), width * 0.05) * 0.4
    light = light * (1.0 - bloom) + scattered * bloom
    count = complex(0, width)  # numpy's way to say how many points a slice has
    y, x = np.mgrid[-1.0:1.0:count, -1.0:1.0:count]  # type: ignore[misc]  # steps are whole numbers elsewhere
    light = light * (1.0 - vignette * np.clip((x * x + y * y) / 2.0, 0.0, 1.0) ** 1.3)[..., None]
    shown = _tone(light * exposure * np.asarray(tint, np.float32)) ** (1.0 / 2.2)
    large = Image.fromarray(np.round(shown * 255.0).astype(np.uint8))
    small = np.asarray(large.resize((size, size), Image.Resampling.LANCZOS), np.float32)
    draw = np.random.default_rng(seed)
    grain = draw.standard_normal((size, size, 1)) * 1.5 + draw.standard_normal((size, size, 3)) * 0.5
    return Image.fromarray(np.clip(np.round(small + grain), 0, 255).astype(np.uint8))
