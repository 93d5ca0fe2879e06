"""Every random draw of a training, each a pure function of the seed, what it is for, and a number.

Nothing has to be stored to resume: sample 4711 sees the same picture, noise and noise level in any run with that seed,
on any number of devices. Draws are made on the CPU, so that they do not depend on the device either.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch

Stream = Literal[
    "factors",
    "order",
    "noise",
    "buckets",
    "forms",
    "class order",
    "class noise",
    "validation",
    "weights",
    "members",
    "branch drops",
    "cuts",
    "rollouts",
    "one step",
    "score noise",
    "sparse parts",
    "sparse draws",
]
"""What a draw is for. Its place in this list is part of what is drawn: new ones go to the end."""
_STREAMS: dict[str, int] = {name: number for number, name in enumerate(get_args(Stream))}


def generator(seed: int, stream: Stream, *numbers: int) -> torch.Generator:
    """The generator for one purpose and some numbers; different ones are independent."""
    state = np.random.SeedSequence([seed, _STREAMS[stream], *(numbers or (0,))]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)  # manual_seed takes 63 bits on every torch
