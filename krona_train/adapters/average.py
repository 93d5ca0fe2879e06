"""An exponential moving average of the factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Average:
    """What diffusers' ``EMAModel`` computes, bit for bit (a test holds it to that), at a cost that is never felt.

    That class lives in a module that takes 3.4 s and 144 MB to import, and moves each factor by itself.

    Args:
        parameters: Whose average it is, any shapes; starts as they are.
        decay: Per step, in (0, 1).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.values: list[Tensor] = [parameter.detach().clone() for parameter in parameters]
        self._parameters: list[Tensor] = list(parameters)
        self._decay = decay

    @torch.no_grad()
    def move(self, done: int, broken: Tensor | None = None) -> None:
        """Take the parameters as they are after a step into the average.

        Args:
            done: Steps so far, this one included. The first one is taken as it is; then the decay is (1 + t) / (10 + t)
                after t steps more, as long as that is less than the decay that was set.
            broken: ``()``, 1 where nothing shall move, 0 elsewhere.
        """
        share: float | Tensor = 1 - (min(done / (9 + done), self._decay) if done > 1 else 0.0)
        if broken is not None:
            share = share * (1 - broken)
        way = torch._foreach_sub(self.values, self._parameters)
        torch._foreach_mul_(way, share)
        torch._foreach_sub_(self.values, way)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Make the parameters what their average is."""
        torch._foreach_copy_(self._parameters, self.values)
