"""One process, or many that train together: the only things that they must tell each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..packages import load

T = TypeVar("T")
SEVERAL, ALONE = "A training in several processes", "train in one process"
"""What needs accelerate, and what does not."""


class Runtime(Protocol):
    """The processes of a training, each with its own copy of the model and of the factors."""

    number: int
    """Of this process, from 0; the one with 0 writes."""
    count: int
    """Processes that train together."""

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over all processes."""

    def largest(self, number: int) -> int:
        """The largest that one of the processes has; of truths, whether it holds in any."""

    def from_first(self, value: T) -> T:
        """The value that the first process has."""

    def close(self) -> None:
        """Leave the group; nothing is exchanged afterwards."""


class OneProcess:
    """This process alone: every mean, maximum and value is its own."""

    number, count = 0, 1

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        return None

    def mean(self, value: Tensor) -> Tensor:
        return value

    def largest(self, number: int) -> int:
        return number

    def from_first(self, value: T) -> T:
        return value

    def close(self) -> None:
        return None


class Accelerated:
    """The processes that ``accelerate launch`` has started.

    Factors are few, so they are not wrapped: after the backward pass their gradients travel once, in one piece.

    Args:
        cpu: Whether they compute without GPUs.

    Raises:
        ConfigError: accelerate is not installed.
    """

    def __init__(self, *, cpu: bool = False) -> None:
        accelerate = load("accelerate", SEVERAL, ALONE)
        # The others wait for the first one while it encodes pictures or draws previews, however long that takes.
        self._state = accelerate.PartialState(cpu=cpu, timeout=timedelta(days=7))
        self.number, self.count = self._state.process_index, self._state.num_processes
        self.device: torch.device = self._state.device

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.count == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # Who has none anywhere gets none: to an optimizer that is another thing than a gradient of zero.
        present = torch.tensor([float(p.grad is not None) for p in parameters]).to(gradients[0])
        flat = torch.cat([*(g.reshape(-1) for g in gradients), present])
        torch.distributed.all_reduce(flat)
        *means, present = flat.split([*(p.numel() for p in parameters), len(parameters)])
        for parameter, total, is_present in zip(parameters, means, present.tolist(), strict=True):
            parameter.grad = (total / self.count).view_as(parameter) if is_present else None

    def mean(self, value: Tensor) -> Tensor:
        if self.count == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.count

    def largest(self, number: int) -> int:
        if self.count == 1:
            return number
        largest = torch.tensor(int(number), device=self.device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return int(largest.item())

    def from_first(self, value: T) -> T:
        if self.count == 1:
            return value
        return load("accelerate", SEVERAL, ALONE, module="accelerate.utils").broadcast_object_list([value])[0]

    def close(self) -> None:
        if self.count > 1:
            self._state.destroy_process_group()


def is_launched() -> bool:
    """Whether this is one of several processes, started by ``accelerate launch``."""
    return "LOCAL_RANK" in os.environ
