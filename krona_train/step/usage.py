"""How much memory a step takes, as far as it can be told without slowing it down."""

from __future__ import annotations

import time

import psutil
import torch

SECONDS_BETWEEN_LOOKS = 0.25
"""Asking the system takes about 20 µs; a toy step takes not much longer."""


class Usage:
    """The most that is held on a GPU since the last reading; without one, what the process holds in the computer's memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._process = psutil.Process()
        self._looked, self._resident = -SECONDS_BETWEEN_LOOKS, 0
        self.begin()

    def begin(self) -> None:
        """A step begins."""
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)

    def bytes(self) -> int:
        """Of the step that ends."""
        if self._device is not None:
            return torch.cuda.max_memory_allocated(self._device)
        now = time.monotonic()
        if now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked, self._resident = now, self._process.memory_info().rss
        return self._resident
