"""How much memory a step takes, as far as it can be told without slowing it down."""

from __future__ import annotations

import time

import psutil
import torch

SECONDS_BETWEEN_LOOKS = 0.25
"""Asking the system takes about 20 µs; a toy step takes not much longer."""


class Usage:
    """The most that was held on a GPU since the last reading; without one, what the process holds in main memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._process = psutil.Process()
        self._looked, self._resident = -SECONDS_BETWEEN_LOOKS, 0
        self.begin()

    def begin(self) -> None:
        """Count anew: a step begins."""
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)

    def bytes(self) -> int:
        """The most that the step which ends has held; of the process, what it holds now."""
        if self._device is not None:
            return torch.cuda.max_memory_allocated(self._device)
        now = time.monotonic()
        if now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked, self._resident = now, self._process.memory_info().rss
        return self._resident
