"""Every random draw of a training, each a pure function of the seed, what it is for, and a number.

Nothing has to be stored to resume: sample 4711 sees the same picture, noise and noise level in any run with that seed,
on any number of devices. Draws are made on the CPU, so that they do not depend on the device either.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

_STREAMS = {"factors": 0, "order": 1, "noise": 2}


def generator(seed: int, stream: Literal["factors", "order", "noise"], number: int = 0) -> torch.Generator:
    """The generator for one purpose and one number; different ones are independent."""
    state = np.random.SeedSequence([seed, _STREAMS[stream], number]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)  # manual_seed takes 63 bits on every torch


def picture(seed: int, number: int, count: int) -> int:
    """Which of ``count`` pictures the training's sample ``number`` is: each picture once per epoch, in a new order each time."""
    epoch, position = divmod(number, count)
    return int(torch.randperm(count, generator=generator(seed, "order", epoch))[position])
