"""Edges and high frequencies of pictures and latents: what one step blurs.

All operators take the last two axes as rows and columns, whatever comes before: pictures ``(B, C, H, W)``, and videos
``(B, C, T, H, W)`` frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .pairs_config import Compare, Distance


def sobel(x: Tensor) -> Tensor:
    """Slopes per pixel along rows and along columns: ``(..., H, W)`` to ``(..., 2, H, W)``.

    Sobel's kernels ``[1, 2, 1]ᵀ [-1, 0, 1]`` over 8, so that a ramp that rises by s from pixel to pixel has s. The border
    is continued as it ends: a constant has no edge there.
    """
    flat = x.reshape(-1, 1, *x.shape[-2:])
    smooth, slope = x.new_tensor([1.0, 2.0, 1.0]) / 4, x.new_tensor([-1.0, 0.0, 1.0]) / 2
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    return F.conv2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), kernels).reshape(*x.shape[:-2], 2, *x.shape[-2:])


def spectrum(x: Tensor) -> Tensor:
    """Fourier coefficients ``(..., H, W)`` of the last two axes, with the energy of ``x``."""
    return torch.fft.fft2(x.float(), norm="ortho")


def is_high(size: Sequence[int], cut: float, device: torch.device) -> Tensor:
    """Which coefficients of `spectrum` lie above the cut, ``(H, W)``.

    A coefficient's frequency is the length of its vector ``(f_y, f_x)`` in cycles per pixel: 0.5 along an axis is the
    finest pattern that pixels can show, and a checkerboard of single pixels has √½.
    """
    rows, columns = (torch.fft.fftfreq(n, device=device) for n in size)
    return torch.hypot(rows[:, None], columns) > cut


def edge_error(p: Tensor, q: Tensor, distance: Distance = "absolute") -> Tensor:
    """``|Sobel p − Sobel q|``, or its square, ``(B,)``: the mean over both directions, channels and places."""
    return _counted(sobel(p.float() - q.float()).abs(), distance).flatten(1).mean(1)


def high_error(
    p: Tensor, q: Tensor, cut: float, compare: Compare = "complex", distance: Distance = "absolute"
) -> Tensor:
    """``|HF(p) − HF(q)|``, or its square, ``(B,)``: the mean over channels and the coefficients above the cut; 0 where
    there are none.

    Args:
        p, q: ``(B, C, *space)``.
        cut: In cycles per pixel, see `is_high`.
    """
    above = is_high(p.shape[-2:], cut, p.device)
    if compare == "complex":
        differences = spectrum(p.float() - q.float()).abs()
    else:
        differences = (spectrum(p).abs() - spectrum(q).abs()).abs()
    each = _counted(differences, distance).flatten(1, -3).mean(1)  # (B, H, W)
    return (each * above).sum((1, 2)) / above.sum().clamp_min(1)


def high_share(x: Tensor, cut: float) -> Tensor:
    """Share ``(B,)`` of the energy that lies above the cut, of ``(B, C, *space)``; 0 of nothing."""
    energy = spectrum(x).abs().square().flatten(1, -3).sum(1)
    above = is_high(x.shape[-2:], cut, x.device)
    return (energy * above).sum((1, 2)) / energy.sum((1, 2)).clamp_min(torch.finfo(energy.dtype).tiny)


def _counted(differences: Tensor, distance: Distance) -> Tensor:
    """Of differences without a sign."""
    return differences.square() if distance == "squared" else differences
