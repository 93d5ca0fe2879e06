"""From the computer's memory to a device, without waiting for what the device is at."""

from __future__ import annotations

from torch import Tensor, device


def send(tensor: Tensor, to: device) -> Tensor:
    """The tensor on a device.

    A copy to a GPU waits behind everything that the GPU still has to do, and Python with it, unless it starts from
    pinned memory.
    """
    if to.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(to, non_blocking=True)
    return tensor.to(to)
