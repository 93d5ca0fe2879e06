"""Rays of cameras as maps of six numbers in every pixel: what MV-Adapter's condition encoder is shown.

Definitions of MV-Adapter (arXiv 2412.03632): the third axis points upward, the front camera stands at −y. In
orthographic pictures, which its files were trained on, all rays of a view are parallel, and a map has the same six
numbers everywhere: the direction of view and the direction in which the camera stands. In perspective ones each pixel
has its ray's Plücker coordinates: direction ``d`` and moment ``o × d``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .cameras import Cameras


def axes(cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Where right, up and backward point in each view: unit vectors ``(V, 3)``.

    In closed form, and so also straight above and below, where a camera that is turned by "up" has no direction.
    """
    azimuth, elevation = torch.tensor(cameras.views, dtype=torch.float64).mul(math.pi / 180).unbind(-1)
    sin, cos = azimuth.sin(), azimuth.cos()
    zero, rise, flat = torch.zeros_like(sin), elevation.sin(), elevation.cos()
    right = torch.stack((cos, sin, zero), -1)
    up = torch.stack((-rise * sin, rise * cos, flat), -1)
    back = torch.stack((flat * sin, -flat * cos, rise), -1)
    return right, up, back


def rays(cameras: Cameras) -> Tensor:
    """The six numbers of every pixel: ``(V, 6, H, W)``, float32."""
    right, up, back = axes(cameras)
    if cameras.projection == "orthographic":
        same = torch.cat((-back, back), -1).float()  # (V, 6)
        return same[:, :, None, None].expand(-1, -1, cameras.height, cameras.width)
    focal = 0.5 * cameras.width / math.tan(math.radians(cameras.field_of_view) / 2)
    across = (torch.arange(cameras.width, dtype=torch.float64) + 0.5 - cameras.width / 2) / focal
    down = (torch.arange(cameras.height, dtype=torch.float64) + 0.5 - cameras.height / 2) / focal
    maps = []
    for x, y, z in zip(right, up, back, strict=True):
        towards = across[:, None] * x - down[:, None, None] * y - z  # (H, W, 3)
        direction = towards / towards.norm(dim=-1, keepdim=True)
        moment = torch.linalg.cross((cameras.distance * z).expand_as(direction), direction)
        maps.append(torch.cat((direction, moment), -1).permute(2, 0, 1).float())
    return torch.stack(maps)


def conditions(cameras: Cameras) -> Tensor:
    """The maps as the encoder takes them: `rays` from −1…1 to 0…1, cut at both ends; ``(V, 6, H, W)``."""
    return rays(cameras).add(1).div(2).clamp(0, 1)


def share_cut(cameras: Cameras) -> float:
    """The share of the numbers that `conditions` cuts: moments of cameras that are far away or see widely."""
    return rays(cameras).abs().gt(1 + 1e-6).float().mean().item()
